"""Every message of the wire, once, with values that stand still.

`python -m tests.wire.messages` writes the golden files anew after a wanted change; the difference
in the commit is what callers will see.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from app import events
from rankpress.errors import CorruptFile, InvalidRequest
from rankpress.names import (
    Action,
    Aware,
    DeliveryOutcome,
    FileFormat,
    Kind,
    Reason,
    Rule,
    Sensitivity,
    Stage,
    State,
    Task,
    Verdict,
)
from rankpress.schemas.base import Frozen, Strict
from rankpress.schemas.job import Job, JobPage, Links, Progress
from rankpress.schemas.manifest import Manifest, ManifestLayer
from rankpress.schemas.problem import Problem, ProblemItem
from rankpress.schemas.report import (
    EvaluationReport,
    FrontierPoint,
    Interval,
    Latency,
    LayerReport,
    Metric,
    RankReport,
    Versions,
)
from rankpress.schemas.request import Budget, Evaluation, JobRequest, LayerOverride, Webhook
from rankpress.schemas.spectrum import LayerSpectrum, SpectrumDocument
from rankpress.schemas.upload import TensorInfo, Upload
from rankpress.schemas.webhook import Delivery, DeliveryPage
from rankpress.service.redaction import redacted
from worker.webhooks.message import event_of, headers_of, message_id

GOLDEN = Path(__file__).parent / "golden"
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
T0 = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SHA = "0123456789abcdef" * 4


def requests() -> dict[str, JobRequest]:
    return {
        "smallest": JobRequest(model="u1", threshold=0.9),
        "largest": JobRequest(
            model=("u1", "u2"),
            weights_path="state_dict",
            threshold=(0.5, 0.9),
            rule=Rule.ENERGY,
            protect_output=False,
            layers=(
                LayerOverride(match="*.lm_head", keep_dense=True),
                LayerOverride(match="encoder.*", rule=Rule.RATIO, threshold=0.95),
                LayerOverride(match="decoder.0", rank=8),
            ),
            rank_multiple=8,
            aware=Aware.INPUTS,
            statistics="u4",
            evaluation=Evaluation(validation="u3", task=Task.CLASSIFICATION),
            webhook=Webhook(url="https://hooks.example/a?b=c", secret=SECRET),
            labels={"run": "42", "who": "Zoë"},
        ),
        "budget": JobRequest(model="u1", rule=Rule.BUDGET, budget=Budget(parameters=0.4)),
        "auto": JobRequest(
            model="u1",
            rule=Rule.AUTO,
            aware=Aware.TWO_SIDED,
            sensitivity=Sensitivity.SOFTMAX,
            evaluation=Evaluation(validation="u3", max_drop={"accuracy": 0.005}),
        ),
    }


def jobs() -> dict[State, Job]:
    """One in each state, with all that this state has."""
    request = requests()["smallest"]
    base = Job(
        id="j1",
        state=State.QUEUED,
        created_at=T0,
        request=request,
        links=Links(self="/v1/jobs/j1", cancel="/v1/jobs/j1/cancel"),
    )
    running = base.model_copy(
        update={
            "state": State.RUNNING,
            "stage": Stage.FACTORISE,
            "progress": Progress(done=2, total=3),
            "started_at": T0 + timedelta(seconds=1),
        }
    )
    ended = running.model_copy(
        update={
            "finished_at": T0 + timedelta(seconds=61, microseconds=322000),
            "links": Links(self="/v1/jobs/j1"),
        }
    )
    return {
        State.QUEUED: base,
        State.RUNNING: running,
        State.SUCCEEDED: ended.model_copy(
            update={
                "state": State.SUCCEEDED,
                "stage": Stage.EVALUATE,
                "links": Links(
                    self="/v1/jobs/j1",
                    report="/v1/jobs/j1/report",
                    weights="/v1/jobs/j1/weights",
                ),
            }
        ),
        State.FAILED: ended.model_copy(
            update={
                "state": State.FAILED,
                "error": CorruptFile("the file ends before its last tensor").to_problem(),
            }
        ),
        State.CANCELED: ended.model_copy(update={"state": State.CANCELED}),
    }


def layer() -> LayerReport:
    return LayerReport(
        name="0.weight",
        shape=(512, 784),
        kind=Kind.MATRIX,
        dtype="float32",
        action=Action.FACTORISED,
        rule=Rule.ENTROPY,
        threshold=0.9,
        rank=200,
        full_rank=512,
        break_even_rank=309,
        energy_kept=0.99,
        entropy_kept=0.901,
        relative_error=0.1,
        optimal_relative_error=0.1,
        spectral_error=0.25,
        parameters_before=401408,
        parameters_after=259200,
        bytes_before=1605632,
        bytes_after=1036800,
        seconds=0.125,
        driver="gesdd",
        factor_keys=("0.0.weight", "0.1.weight"),
    )


def dense_layer() -> LayerReport:
    return LayerReport(
        name="ids",
        shape=(0, 7),
        kind=Kind.OTHER,
        dtype="int64",
        action=Action.PASSED_THROUGH,
        reason=Reason.ZERO_SIZE,
        parameters_before=0,
        parameters_after=0,
        bytes_before=0,
        bytes_after=0,
    )


def metric() -> Metric:
    return Metric(
        name="accuracy",
        dense=0.9,
        compressed=0.895,
        difference=-0.005,
        interval=Interval(low=-0.01, high=0.0, level=0.95, method="paired_bootstrap"),
        higher_is_better=True,
    )


def evaluation() -> EvaluationReport:
    lacking = Metric(
        name="macro_f1",
        dense=None,
        compressed=None,
        difference=None,
        higher_is_better=True,
        reason="one class alone",
    )
    return EvaluationReport(
        task=Task.CLASSIFICATION,
        architecture="mlp 784-512-10, relu",
        architecture_assumed=True,
        samples=1000,
        metrics=(metric(), lacking),
        latency=(
            Latency(
                batch_size=256,
                dense_seconds=0.002,
                compressed_seconds=0.001,
                dense_spread_seconds=0.0001,
                compressed_spread_seconds=0.0002,
                speedup=2.0,
                repeats=20,
                threads=2,
            ),
        ),
        flops_per_sample_dense=803840,
        flops_per_sample_compressed=519424,
        device="cpu",
        artifact_sha256=SHA,
        verdict=Verdict.WITHIN,
        seconds=1.5,
        notes=("800 of 1000 validation samples are scored.",),
    )


def report() -> RankReport:
    return RankReport(
        job_id="j1",
        created_at=T0,
        rule=Rule.ENTROPY,
        threshold=0.9,
        frontier=(
            FrontierPoint(
                index=0,
                rule=Rule.ENTROPY,
                threshold=0.9,
                ranks={"0.weight": 200, "1.weight": None},
                parameters_after=264330,
                bytes_after=1057800,
                output_sha256=SHA,
                samples=1000,
                metrics=(metric(),),
                verdict=Verdict.WITHIN,
            ),
        ),
        protected_output="1.weight",
        protected_output_assumed=True,
        layers=(layer(), dense_layer()),
        parameters_before=406538,
        parameters_after=264330,
        bytes_before=1626600,
        bytes_after=1057800,
        tensor_bytes_before=1626152,
        tensor_bytes_after=1057320,
        flops_per_sample_before=803840,
        flops_per_sample_after=519424,
        input_sha256=(SHA,),
        output_sha256=SHA[::-1],
        output_format="safetensors",
        evaluation=evaluation(),
        seconds={"read": 0.1, "factorise": 0.5, "write": 0.2, "evaluate": 1.5},
        versions=Versions(rankpress="0.1.0", python="3.11.2", torch="2.13.0", device="cpu"),
    )


def manifest() -> Manifest:
    return Manifest(
        layers=(
            ManifestLayer(
                name="0.weight",
                shape=(512, 784),
                dtype="float32",
                kind=Kind.MATRIX,
                rank=200,
                rule=Rule.ENTROPY,
                threshold=0.9,
                right="0.0.weight",
                left="0.1.weight",
                bias=("0.bias", "0.1.bias"),
            ),
        ),
        aliases={"head.weight": "embed.weight"},
    )


def upload() -> Upload:
    tensors = (TensorInfo(name="0.weight", dtype="bfloat16", shape=(6, 4)),)
    return Upload(
        id="u1",
        filename="Modell ü.safetensors",
        size_bytes=144,
        sha256=SHA,
        format=FileFormat.SAFETENSORS,
        tensors=tensors,
        created_at=T0,
    )


def problem() -> Problem:
    item = ProblemItem(pointer="/threshold", detail="a number in (0, 1] is expected")
    error = InvalidRequest("/threshold: a number in (0, 1] is expected", errors=(item,))
    return error.to_problem("urn:rankpress:request:r1")


def hooked() -> Job:
    """A job that ended, as the service itself knows it: with the secret."""
    return jobs()[State.SUCCEEDED].model_copy(update={"request": requests()["largest"]})


def deliveries() -> DeliveryPage:
    failed = Delivery(
        attempt=1,
        at=T0,
        outcome=DeliveryOutcome.RETRYING,
        status=503,
        detail="the receiver did not take it",
        next_in_seconds=5.5,
    )
    update = {"attempt": 2, "outcome": DeliveryOutcome.DELIVERED, "next_in_seconds": None}
    return DeliveryPage(items=(failed, failed.model_copy(update={**update, "status": 204})))


def documents() -> dict[str, Frozen | Strict]:
    """JSON messages by the name of their golden file."""
    by_state = jobs()
    spectrum = LayerSpectrum(
        name="0.weight",
        shape=(3, 2),
        kind=Kind.MATRIX,
        m=3,
        n=2,
        bytes_per_parameter=4,
        singular_values=(2.5, 1e-30),
    )
    return {
        **{f"request-{name}": request for name, request in requests().items()},
        **{f"job-{state}": job for state, job in by_state.items()},
        "job-page": JobPage(items=(by_state[State.QUEUED],), next_cursor="abc"),
        "job-page-last": JobPage(items=()),
        "job-with-webhook": redacted(hooked()),
        "upload": upload(),
        "problem": problem(),
        "report": report(),
        "spectrum": SpectrumDocument(layers=(spectrum,)),
        "manifest": manifest(),
        "deliveries": deliveries(),
        "webhook-event": event_of(hooked()),
    }


def texts() -> dict[str, bytes]:
    """What is not JSON, to the byte."""
    snapshot = events.StateEvent(
        state=State.RUNNING, stage=Stage.FACTORISE, progress=Progress(done=1, total=3)
    )
    frames = (
        events.frame("state", snapshot),
        events.frame("layer", layer(), "3-0"),
        events.frame("evaluation", evaluation(), "9-0"),
        events.frame("done", jobs()[State.SUCCEEDED], events.END),
    )
    body = event_of(hooked()).model_dump_json().encode()
    headers = headers_of(SECRET, message_id(hooked()), T0, body)
    lines = "".join(f"{name}: {value}\n" for name, value in headers.items())
    return {"events.txt": b"".join(frames), "webhook-call.txt": f"{lines}\n".encode() + body}


def pretty(message: Frozen | Strict) -> str:
    """The message a field a line: same fields, order and values as on the wire."""
    return message.model_dump_json(indent=1) + "\n"


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    for name, message in documents().items():
        (GOLDEN / f"{name}.json").write_text(pretty(message), encoding="utf-8")
    for name, data in texts().items():
        (GOLDEN / name).write_bytes(data)


if __name__ == "__main__":
    write()
