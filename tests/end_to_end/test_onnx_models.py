"""Whole ONNX models through the running service: by the client, by the command line, by bare HTTP.

What does not fit or means harm is a problem before anything is factorised; the next job runs."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper
from safetensors.numpy import save

from rankpress import Client
from rankpress.names import Action
from tests.end_to_end.cases.tools import Caller
from tests.end_to_end.processes import ROOT, Service, running
from tests.onnxmodels import CLASSES, normal, two_layers

ROWS = 24
LIMITS = {"child_memory_bytes": str(2 * 1024**3), "child_cpu_seconds": "40", "child_attempts": "1"}
EVALUATION = {"architecture": {"kind": "onnx"}, "latency": False}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker whose compute processes may use little."""
    with running(tmp_path_factory.mktemp("service"), **LIMITS) as service:
        yield service


@pytest.fixture(scope="module")
def caller(limited: Service) -> Iterator[Caller]:
    found = Caller(limited.url)
    yield found
    found.http.close()


def whole() -> bytes:
    return two_layers().SerializeToString()


def samples(**more: Any) -> bytes:
    held = {"inputs": normal(ROWS, 32, seed=5), "targets": np.arange(ROWS) % CLASSES}
    return save({name: array for name, array in {**held, **more}.items() if array is not None})


def sent(caller: Caller, data: bytes, name: str = "model.onnx") -> str:
    response = caller.upload(name, data)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def test_by_bare_http(caller: Caller, limited: Service) -> None:
    upload = caller.upload("model.onnx", whole()).json()
    assert upload["format"] == "onnx"
    assert [t["name"] for t in upload["tensors"]] == ["hidden.weight", "hidden.bias", "head"]
    request: dict[str, Any] = {
        "model": upload["id"],
        "threshold": 0.9,
        "layers": [{"match": "hidden.*", "rank": 4}],
        "evaluation": {"validation": sent(caller, samples(), "validation"), **EVALUATION},
    }
    response = caller.submit(request)
    assert response.status_code == 202, response.text
    job = caller.ended(response.json()["id"])
    assert job["state"] == "succeeded", job
    weights = caller.http.get(f"/v1/jobs/{job['id']}/weights")
    assert 'filename="compressed.onnx"' in weights.headers["content-disposition"]
    report = caller.http.get(f"/v1/jobs/{job['id']}/report").json()
    assert report["output_format"] == "onnx"
    assert report["output_sha256"] == hashlib.sha256(weights.content).hexdigest()
    assert report["evaluation"]["artifact_sha256"] == report["output_sha256"]
    assert report["evaluation"]["template_sha256"] is None
    metrics = {m["name"]: m for m in report["evaluation"]["metrics"]}
    assert metrics["cross_entropy"]["dense"] == pytest.approx(
        metrics["cross_entropy"]["compressed"], abs=1e-4
    )  # it has rank 4
    made = onnx.load_from_string(weights.content)
    onnx.checker.check_model(made, full_check=True)
    assert [n.op_type for n in made.graph.node] == ["Gemm", "Gemm", "Relu", "MatMul"]
    request["evaluation"]["architecture"] = {"kind": "onnx", "template": upload["id"]}  # said twice
    again = caller.ended(caller.submit(request).json()["id"])
    assert caller.http.get(f"/v1/jobs/{again['id']}/weights").content == weights.content


def test_by_a_form(caller: Caller) -> None:
    parts = {
        "model": ("model.onnx", whole()),
        "validation": ("validation", samples()),
        "threshold": (None, "0.9"),
    }
    options = {"options": (None, json.dumps({"evaluation": EVALUATION}))}
    response = caller.http.post("/v1/jobs", files={**parts, **options})
    assert response.status_code == 202, response.text
    assert caller.ended(response.json()["id"])["state"] == "succeeded"
    assert_problem(
        caller.http.post("/v1/jobs", files=parts),
        "invalid-request",
        "/evaluation/architecture/kind",
        'expected is {"kind": "onnx"}, found mlp',
    )


def test_by_the_client(limited: Service, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(whole())
    with Client(limited.url) as client:
        plain = client.compress(
            path, threshold=0.9
        )  # nothing to score it on: compressed all the same
        assert plain.report.evaluation is None
        assert plain.path == tmp_path / "net-compressed.onnx"
        inputs = normal(ROWS, 32, seed=5)
        held = {"inputs": inputs, "targets": np.arange(ROWS) % CLASSES}
        done = client.compress(path, threshold=0.9, validation=held, out=tmp_path / "out.onnx")
        assert done.report.evaluation is not None
        found = client.frontier(path, thresholds=(0.5, 0.9), folder=tmp_path / "sizes")
        with pytest.raises(TypeError, match="its own architecture"):
            client.compress(path, threshold=0.9, validation=held, template=path)
    assert [p.name for p in found.paths] == ["net-threshold-0.5.onnx", "net-threshold-0.9.onnx"]
    for file in (plain.path, done.path, *found.paths):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (answers,) = session.run(None, {"inputs": inputs})
        assert answers.shape == (ROWS, CLASSES)


def command(*arguments: str | Path, url: str | None = None) -> subprocess.CompletedProcess[str]:
    where = [] if url is None else ["--url", url]
    return subprocess.run(
        [sys.executable, "-m", "rankpress.cli", *map(str, arguments), *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_by_the_command_line(limited: Service, tmp_path: Path) -> None:
    model, held = tmp_path / "model.onnx", tmp_path / "validation.safetensors"
    model.write_bytes(whole())
    held.write_bytes(samples())
    asked = ("compress", model, "--threshold", "0.9", "--validation", held, "--json")
    done = command(*asked, url=limited.url)
    assert done.returncode == 0, done.stderr
    (tmp_path / "report.json").write_text(done.stdout)
    report = json.loads(done.stdout)["report"]
    assert report["evaluation"]["architecture"].startswith("onnx, opset 20")
    made = tmp_path / "model-compressed.onnx"
    onnx.checker.check_model(onnx.load(made), full_check=True)
    verified = command("verify", made, "--against", model, "--report", tmp_path / "report.json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "2 other tensors are the original's, bit for bit" in verified.stdout
    assert "not what its nodes do with them" in verified.stdout
    shown = command("inspect", made)
    assert shown.returncode == 0, shown.stderr
    assert "hidden.weight.left @ hidden.weight.right" in shown.stdout.replace("\n", " ")
    tried = command("inspect", model, "--threshold", "0.9", "--json", url=limited.url)
    assert tried.returncode == 0, tried.stderr
    layers = {layer["name"]: layer for layer in json.loads(tried.stdout)[0]["layers"]}
    assert layers["hidden.weight"]["action"] == Action.FACTORISED


def assert_problem(response: Any, slug: str, pointer: str | None, *words: str) -> None:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"].endswith(f":{slug}"), body
    assert [item["pointer"] for item in body["errors"]] == ([] if pointer is None else [pointer])
    for text in words:
        assert text in body["detail"], body


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=normal(8, 4))
    return file.getvalue()


def template() -> bytes:
    model = two_layers()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="state_dict")
    return model.SerializeToString()


def damaged() -> bytes:
    model = two_layers()
    model.graph.initializer[0].raw_data = b"abcd"
    return model.SerializeToString()


ONNX, MLP = {"kind": "onnx"}, {"kind": "mlp"}
TENSORS = save({"0.weight": normal(8, 4)})


@pytest.mark.parametrize(
    ("model", "fields", "slug", "pointer", "words"),
    [
        (whole(), {"architecture": MLP}, "invalid-request", "/evaluation/architecture/kind", "mlp"),
        (
            whole(),
            {"architecture": None},
            "invalid-request",
            "/evaluation/architecture/kind",
            "mlp",
        ),
        (TENSORS, {"architecture": ONNX}, "unsupported-format", "/model", "is safetensors"),
        (npz(), {"architecture": ONNX}, "unsupported-format", "/model", "is npz"),
        (template(), {"architecture": ONNX}, "unsupported-format", "/model", "it is a template"),
        (template(), {}, "unsupported-format", "/model", "it is a template"),
        (damaged(), {}, "corrupt-file", "/model", "takes 6144 bytes, and holds 4"),
        (whole(), {"output": {"format": "torch"}}, "invalid-request", "/output/format", "`same`"),
        (whole(), {"aware": "inputs", "statistics": "held"}, "invalid-request", "/aware", "ONNX"),
        (whole(), {"layers": [{"match": "no"}]}, "invalid-request", "/layers/0/match", "no tensor"),
    ],
)
def test_what_does_not_go_together_is_refused_at_submission(
    caller: Caller, model: bytes, fields: dict[str, Any], slug: str, pointer: str, words: str
) -> None:
    held = sent(caller, samples(), "validation")
    body: dict[str, Any] = {"model": sent(caller, model), "threshold": 0.9, **fields}
    if "architecture" in body:
        architecture = body.pop("architecture")
        body["evaluation"] = {"validation": held}
        if architecture is not None:
            body["evaluation"]["architecture"] = architecture
    if "statistics" in body:
        body["statistics"] = held
    assert_problem(caller.submit(body), slug, pointer, words)


def test_a_list_of_uploads_is_no_onnx_model(caller: Caller) -> None:
    body = {"model": [sent(caller, whole()), sent(caller, TENSORS)], "threshold": 0.9}
    assert_problem(caller.submit(body), "unsupported-format", "/model/0", "the upload is onnx")


@pytest.mark.parametrize("share", [0.1, 0.7, 0.99])
def test_a_truncated_model_is_refused_at_upload(caller: Caller, share: float) -> None:
    data = whole()
    response = caller.upload("model.onnx", data[: int(share * len(data))])
    assert_problem(response, "corrupt-file", None, "begins as an ONNX model, and is cut short")


NAN = normal(ROWS, 32)
NAN[7, 3] = np.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": normal(ROWS, 31)}, "has shape [24, 31], but the model takes"),
        (
            {"inputs": normal(ROWS, 32).astype(np.float64)},
            "is float64, but the model takes float32",
        ),
        ({"inputs": None, "x": normal(ROWS, 32)}, "no array 'inputs', which the model takes"),
        ({"inputs": NAN}, "holds nan in sample 7"),
        ({"targets": np.full(ROWS, 9)}, "a class from 0 to 4"),
        ({"targets": None}, "no array 'targets'"),
    ],
)
def test_samples_that_do_not_fit_fail_the_job_before_any_factorisation(
    caller: Caller, change: dict[str, Any], words: str
) -> None:
    job = failed(caller, whole(), samples(**change))
    assert job["error"]["type"].endswith(":evaluation-mismatch")
    assert words in job["error"]["detail"]


def failed(caller: Caller, model: bytes, held: bytes) -> dict[str, Any]:
    """The failed job, once it is sure that it stopped before any factorisation."""
    request = {
        "model": sent(caller, model),
        "threshold": 0.9,
        "evaluation": {"validation": sent(caller, held, "validation"), **EVALUATION},
    }
    response = caller.submit(request)
    assert response.status_code == 202, response.text
    job = caller.ended(response.json()["id"])
    assert job["state"] == "failed", job
    assert job["stage"] == "read"
    return job


def function(model: ModelProto) -> None:
    relu = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], relu, [opset]))


def branch(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    node = helper.make_node("If", ["c"], ["out"], then_branch=body, else_branch=body)
    model.graph.node.append(node)


def domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def file_in_an_attribute(model: ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def memory_bomb(model: ModelProto) -> None:
    """12 GB that no static check sees: the size comes from the input."""
    model.graph.node[-1].output[0] = "before"
    model.graph.node.extend(
        [
            helper.make_node("Constant", [], ["flat"], value_ints=[1]),
            helper.make_node("Constant", [], ["count"], value_ints=[3_000_000_000]),
            helper.make_node("Mul", ["inputs", "inputs"], ["squares"]),
            helper.make_node("ReduceMax", ["squares"], ["most"], keepdims=0),
            helper.make_node("Div", ["most", "most"], ["one"]),
            helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "count"], ["size1"]),
            helper.make_node("Reshape", ["size1", "flat"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceMin", ["huge"], ["least"], keepdims=0),
            helper.make_node("Add", ["before", "least"], ["output"]),
        ]
    )


@pytest.mark.parametrize(
    ("change", "slug", "words"),
    [
        (function, "unsupported-format", "The model holds functions of its own"),
        (branch, "unsupported-format", "runs a graph within the graph"),
        (domain, "unsupported-format", "is of the operator domain 'com.evil'"),
        (file_in_an_attribute, "unsupported-format", "names a file for its attribute"),
        (memory_bomb, "evaluation-mismatch", "more memory than a job may take"),
    ],
)
def test_harm_is_refused_or_stopped(
    limited: Service,
    caller: Caller,
    change: Callable[[ModelProto], None],
    slug: str,
    words: str,
) -> None:
    model = two_layers()
    change(model)
    job = failed(caller, model.SerializeToString(), samples())
    assert job["error"]["type"].endswith(f":{slug}"), job
    assert words in job["error"]["detail"]
    assert str(limited.settings.data_dir) not in job["error"]["detail"]
    following = caller.submit({"model": sent(caller, whole()), "threshold": 0.9}).json()
    assert caller.ended(following["id"])["state"] == "succeeded"
    assert limited.workers["worker-1"].poll() is None
