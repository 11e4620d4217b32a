"""A report with one tensor of each fate, and its spectra: written out, not computed, so that the
golden files do not move with a library.

`python -m tests.rankpress.reporting.samples` writes the golden files anew; look at the difference.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rankpress.names import Action, Kind, Reason, Rule, Task, Verdict
from rankpress.reporting import report_csv, report_html, report_markdown
from rankpress.schemas.report import (
    EvaluationReport,
    Interval,
    Latency,
    LayerReport,
    Metric,
    RankReport,
    Versions,
)
from rankpress.schemas.spectrum import LayerSpectrum, SpectrumDocument

GOLDEN = Path(__file__).parent / "golden"


def layer(name: str, **fields: Any) -> LayerReport:
    defaults: dict[str, Any] = {
        "shape": (8, 6),
        "kind": Kind.MATRIX,
        "dtype": "float32",
        "action": Action.PASSED_THROUGH,
        "parameters_before": 48,
        "parameters_after": 48,
        "bytes_before": 192,
        "bytes_after": 192,
    }
    return LayerReport(name=name, **{**defaults, **fields})


def factorised(name: str, m: int, n: int, k: int, **fields: Any) -> LayerReport:
    numbers = {
        "action": Action.FACTORISED,
        "shape": (m, n),
        "rule": Rule.ENTROPY,
        "threshold": 0.9,
        "rank": k,
        "full_rank": min(m, n),
        "break_even_rank": (m * n - 1) // (m + n),
        "energy_kept": 0.9876,
        "entropy_kept": 0.9012,
        "relative_error": 0.1111,
        "spectral_error": 0.25,
        "parameters_before": m * n,
        "parameters_after": k * (m + n),
        "bytes_before": 4 * m * n,
        "bytes_after": 4 * k * (m + n),
        "seconds": 0.0125,
        "driver": "gram_eigh",
        "factor_keys": (f"{name}.0.weight", f"{name}.1.weight"),
    }
    return layer(name, **{**numbers, **fields})


def evaluation() -> EvaluationReport:
    interval = Interval(low=-0.0061, high=0.0018, level=0.95, method="paired_bootstrap")
    return EvaluationReport(
        task=Task.CLASSIFICATION,
        architecture="mlp 20-30-30-10, relu",
        architecture_assumed=True,
        samples=2000,
        metrics=(
            Metric(
                name="accuracy",
                dense=0.8935,
                compressed=0.8915,
                difference=-0.002,
                interval=interval,
                higher_is_better=True,
            ),
            Metric(
                name="cross_entropy",
                dense=0.3,
                compressed=None,
                difference=None,
                higher_is_better=False,
                reason="overflowed to inf",
            ),
        ),
        latency=(
            Latency(
                batch_size=256,
                dense_seconds=0.004,
                compressed_seconds=0.0025,
                dense_spread_seconds=0.0001,
                compressed_spread_seconds=0.0001,
                speedup=1.6,
                repeats=30,
                threads=2,
            ),
        ),
        device="cpu",
        artifact_sha256="ab" * 32,
        verdict=Verdict.UNDECIDED,
        seconds=1.5,
        notes=("The last batch was smaller.",),
    )


def report(**fields: Any) -> RankReport:
    layers = fields.pop("layers", None) or (
        factorised("net.0.weight", 30, 20, 7),
        layer("net.0.bias", shape=(30,), kind=Kind.OTHER, reason=Reason.NOT_A_MATRIX),
        factorised(
            "net.2.weight",
            30,
            30,
            21,
            action=Action.KEPT_DENSE,
            reason=Reason.ABOVE_BREAK_EVEN,
            parameters_after=900,
            bytes_after=3600,
            relative_error=None,
            spectral_error=None,
            factor_keys=(),
        ),
        layer("net.2.copy", action=Action.ALIAS, reason=Reason.TIED, alias_of="net.2.weight"),
        layer("head.weight", action=Action.KEPT_DENSE, reason=Reason.OUTPUT_PROTECTED),
        layer("steps", shape=(), kind=Kind.OTHER, dtype="int64", reason=Reason.INTEGER),
    )
    defaults: dict[str, Any] = {
        "job_id": "job01",
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "rule": Rule.ENTROPY,
        "threshold": 0.9,
        "protected_output": "head.weight",
        "protected_output_assumed": True,
        "layers": layers,
        "parameters_before": sum(x.parameters_before for x in layers),
        "parameters_after": sum(x.parameters_after for x in layers),
        "bytes_before": 10240,
        "bytes_after": 9216,
        "tensor_bytes_before": sum(x.bytes_before for x in layers),
        "tensor_bytes_after": sum(x.bytes_after for x in layers),
        "flops_per_sample_before": 3000,
        "flops_per_sample_after": 2500,
        "input_sha256": ("cd" * 32,),
        "output_sha256": "ab" * 32,
        "output_format": "safetensors",
        "evaluation": evaluation(),
        "seconds": {"read": 0.1, "factorise": 0.2, "write": 0.05},
        "versions": Versions(rankpress="0.1.0", python="3.11.2", torch="2.13.0", device="cpu"),
        "notes": ("The output layer was taken from the chain of shapes.",),
    }
    return RankReport(**{**defaults, **fields})


def spectrum() -> SpectrumDocument:
    return SpectrumDocument(
        layers=(
            LayerSpectrum(
                name="net.0.weight",
                shape=(30, 20),
                kind=Kind.MATRIX,
                m=30,
                n=20,
                bytes_per_parameter=4,
                singular_values=tuple(2.0**-i for i in range(20)),
            ),
            LayerSpectrum(
                name="net.2.weight",
                shape=(30, 30),
                kind=Kind.MATRIX,
                m=30,
                n=30,
                bytes_per_parameter=4,
                singular_values=tuple(30.0 - i for i in range(30)),
            ),
        )
    )


def rendered() -> dict[str, str]:
    return {
        "report.csv": report_csv(report()),
        "report.md": report_markdown(report()),
        "report.html": report_html(report(), spectrum()),
    }


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (GOLDEN / name).write_text(text, "utf-8", newline="")
