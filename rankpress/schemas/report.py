"""`RankReport`: per layer and for the whole model, every number with its unit."""

from datetime import datetime

from pydantic import Field

from rankpress.names import Action, Aware, Kind, Reason, Rule, Sensitivity, Task, Verdict
from rankpress.schemas.base import Frozen
from rankpress.schemas.request import Budget


class LayerReport(Frozen):
    """One tensor of the input file."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    dtype: str
    action: Action
    reason: Reason | None = Field(default=None, description="Why it was not factorised")
    note: str | None = Field(default=None, description="A sentence more about the reason")
    alias_of: str | None = Field(default=None, description="The tied tensor that was factorised")
    rule: Rule | None = None
    threshold: float | None = None
    rank: int | None = Field(default=None, description="Rank written, or that the rule asked for")
    full_rank: int | None = Field(default=None, description="min(m, n) of the matrix view")
    break_even_rank: int | None = Field(
        default=None, description="Largest rank whose factors take fewer bytes than the tensor"
    )
    energy_kept: float | None = Field(
        default=None, description="sum of s_i^2 for i <= rank, as a share of the total"
    )
    entropy_kept: float | None = Field(
        default=None, description="sum of -p_i ln p_i for i <= rank, as a share of the total"
    )
    relative_error: float | None = Field(
        default=None, description="||W - left right||_F / ||W||_F on the factors as written"
    )
    spectral_error: float | None = Field(
        default=None, description="s_{rank+1}, the least possible 2-norm error at this rank"
    )
    optimal_relative_error: float | None = Field(
        default=None,
        description="The least relative_error possible at this rank (Eckart-Young): "
        "sqrt(sum of s_i^2 for i > rank / sum of s_i^2); null where the factors are "
        "activation-aware, since the spectrum is then of another matrix",
    )
    refitted: bool | None = Field(
        default=None,
        description="With `refit`: whether the right factor was made anew, which is done where it "
        "lowers calibration_error; null where it was not tried",
    )
    calibration_error: float | None = Field(
        default=None,
        description="With `refit`: how far the layer's answers in the compressed model are from "
        "those in the dense one, over the calibration samples, as written: root mean square, as a "
        "share of the answers' own (sqrt of the sum of s_i^2), in the metric of `aware`",
    )
    calibration_error_before: float | None = Field(
        default=None, description="The same before the layer's own refit"
    )
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    seconds: float | None = Field(default=None, description="Compute time of this layer, seconds")
    driver: str | None = Field(default=None, description="Which decomposition gave the factors")
    factor_keys: tuple[str, ...] = ()


class Interval(Frozen):
    """A confidence interval of the difference compressed - dense."""

    low: float
    high: float
    level: float = Field(description="Confidence level, 0.95")
    method: str = Field(description="How it was computed: paired_bootstrap, mcnemar, ...")


class Metric(Frozen):
    """A metric before and after; `difference` is compressed - dense."""

    name: str
    dense: float | None
    compressed: float | None
    difference: float | None
    interval: Interval | None = None
    higher_is_better: bool
    reason: str | None = Field(
        default=None, description="Why a value or the interval is null, or what to know about it"
    )


class Latency(Frozen):
    """Seconds a batch takes, dense and compressed measured in turn in one run."""

    batch_size: int
    dense_seconds: float = Field(description="Median seconds per batch")
    compressed_seconds: float = Field(description="Median seconds per batch")
    dense_spread_seconds: float = Field(description="Interquartile range")
    compressed_spread_seconds: float = Field(description="Interquartile range")
    speedup: float = Field(description="dense_seconds / compressed_seconds")
    repeats: int
    threads: int


class LayerLatency(Frozen):
    """Seconds that a batch spends in one factorised layer: as it was, and as its two factors."""

    name: str
    dense_seconds: float = Field(description="Median seconds per batch")
    compressed_seconds: float = Field(description="Median seconds per batch")
    speedup: float = Field(description="dense_seconds / compressed_seconds")


class EvaluationReport(Frozen):
    """How the compressed model does, scored on the artifact after it was read back."""

    task: Task
    architecture: str = Field(description="In words: 'mlp 784-512-256-10, relu'")
    architecture_assumed: bool = Field(description="Inferred from shapes, not told by the caller")
    samples: int
    metrics: tuple[Metric, ...]
    latency: tuple[Latency, ...] = ()
    layer_latency: tuple[LayerLatency, ...] = Field(
        default=(),
        description="Where the compressed model is not faster: its factorised layers, the one that "
        "costs most first, at the largest batch size where that is so",
    )
    flops_per_sample_dense: int | None = Field(
        default=None,
        description="Of matrix products and convolutions, multiplication and addition counting 2",
    )
    flops_per_sample_compressed: int | None = Field(
        default=None, description="The same with each factorised layer as its two factors"
    )
    device: str
    artifact_sha256: str = Field(description="SHA-256 of the artifact that was scored")
    validation_sha256: str | None = Field(
        default=None, description="SHA-256 of the file with the samples"
    )
    template_sha256: str | None = Field(
        default=None, description="SHA-256 of the architecture's template"
    )
    verdict: Verdict | None = None
    seconds: float
    notes: tuple[str, ...] = ()


class PathPoint(Frozen):
    """A model that the rule auto tried, from the largest down."""

    parameters_after: int = Field(description="Of the weights, before the file is written")
    share: float = Field(description="Of the whole model's parameters")
    metrics: tuple[Metric, ...] = Field(description="On the samples of the search")
    accepted: bool = Field(description="The whole 95 % interval is within max_drop")


class FrontierPoint(Frozen):
    """One result of a job that has several: a point of size against quality."""

    index: int = Field(description="Pass as `result` to the report and the weights")
    rule: Rule
    threshold: float | None = None
    budget: Budget | None = None
    ranks: dict[str, int | None] = Field(
        description="By tensor that was tried; null where it stayed dense"
    )
    parameters_after: int
    bytes_after: int = Field(description="Size of the output file, bytes")
    output_sha256: str
    samples: int | None = Field(default=None, description="Samples that were scored")
    metrics: tuple[Metric, ...] = ()
    latency: tuple[Latency, ...] = ()
    verdict: Verdict | None = None


class Versions(Frozen):
    rankpress: str
    python: str
    torch: str
    device: str = Field(description="cpu or cuda, and the card's name")


class RankReport(Frozen):
    job_id: str
    created_at: datetime
    rule: Rule
    threshold: float | None
    budget: Budget | None = None
    aware: Aware = Aware.NONE
    sensitivity: Sensitivity | None = Field(
        default=None,
        description="What an error of a layer was measured by; null unless `aware` is two_sided",
    )
    result: int = Field(default=0, description="Which of the job's results this is, from 0")
    frontier: tuple[FrontierPoint, ...] = Field(
        default=(), description="Every result of a job that has several"
    )
    path: tuple[PathPoint, ...] = Field(
        default=(), description="What the rule auto tried; the last accepted one was taken"
    )
    not_reached: bool = Field(
        default=False,
        description="True when the rule auto found no smaller model within max_drop",
    )
    protected_output: str | None = Field(description="The tensor taken as the output layer")
    protected_output_assumed: bool = Field(
        description="True when the output layer was guessed from the shapes or the file's order"
    )
    weights_path: str | None = Field(
        default=None, description="Where in the checkpoint the weights were found"
    )
    layers: tuple[LayerReport, ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int = Field(description="Size of the input file, bytes")
    bytes_after: int = Field(description="Size of the output file, bytes")
    tensor_bytes_before: int = Field(description="Bytes of tensor data in the input")
    tensor_bytes_after: int = Field(description="Bytes of tensor data in the output")
    flops_per_sample_before: int | None = None
    flops_per_sample_after: int | None = None
    input_sha256: tuple[str, ...]
    output_sha256: str
    output_format: str
    evaluation: EvaluationReport | None = None
    seconds: dict[str, float] = Field(description="Wall seconds by stage")
    versions: Versions
    notes: tuple[str, ...] = ()
