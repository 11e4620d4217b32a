"""What a caller asks for: `JobRequest` and its parts."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from rankpress.names import (
    ArchitectureKind,
    Aware,
    OutputFormat,
    OutputLayout,
    Rule,
    Sensitivity,
    Task,
)
from rankpress.schemas.architecture import REFITTED_HERE, Architecture, UploadId
from rankpress.schemas.base import Strict

# A JSON number, not a string that looks like one ("1_0"), not a boolean.
Threshold = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Speedup = Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=256)]
NOT_AWARE = (
    "not for an ONNX model, whose weights may lie transposed; compress the model's state_dict, "
    "with statistics made by rankpress.collect_statistics"
)
LABEL_KEY_CHARACTERS, LABEL_KEY_LENGTH = "[A-Za-z0-9_.-]", 64
LabelKey = Annotated[
    str, Field(min_length=1, max_length=LABEL_KEY_LENGTH, pattern=f"^{LABEL_KEY_CHARACTERS}+$")
]


class LayerOverride(Strict):
    """What differs for the tensors whose name matches a glob; the first match wins."""

    match: str = Field(min_length=1, max_length=512, description="Glob against tensor names")
    keep_dense: bool = False
    rule: Rule | None = None
    threshold: Threshold | None = None
    rank: Annotated[int, Field(strict=True, ge=1)] | None = None
    min_speedup: Speedup | None = Field(
        default=None, description="In place of the request's, for these tensors"
    )

    @model_validator(mode="after")
    def _of_one_layer(self) -> Self:
        if self.rule is not None and self.rule.is_joint:
            raise ValueError(f"rule: {self.rule} is a rule of the whole model, not of one layer")
        return self


class Budget(Strict):
    """The share of the whole model to keep: exactly one of the three, in (0, 1].

    The whole model is every tensor of the weights, tied ones counted once: what is not factorised
    counts too. FLOPs are the multiply-adds of a sample in the matrices.
    """

    parameters: Share | None = None
    bytes: Share | None = None
    flops: Share | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(v is not None for v in (self.parameters, self.bytes, self.flops)) != 1:
            raise ValueError("give exactly one of parameters, bytes, flops")
        return self


MAX_RESULTS = 64
Thresholds = Annotated[tuple[Threshold, ...], Field(min_length=1, max_length=MAX_RESULTS)]
Budgets = Annotated[tuple[Budget, ...], Field(min_length=1, max_length=MAX_RESULTS)]


class OutputOptions(Strict):
    format: OutputFormat = OutputFormat.SAME
    layout: OutputLayout = OutputLayout.FACTORS
    drop_optimizer: bool = Field(
        default=False,
        description="Leave optimizer and scheduler state out of the file; otherwise it is kept",
    )


class Evaluation(Strict):
    validation: UploadId
    calibration: UploadId | None = Field(
        default=None,
        description="Samples for `aware`, laid out as the validation file; without them every "
        "fifth validation sample calibrates and is left out of the scores",
    )
    architecture: Architecture = Architecture()
    task: Task = Task.CLASSIFICATION
    batch_size: Annotated[int, Field(strict=True, ge=1, le=65536)] = 256
    latency: bool = Field(
        default=True, description="Measure how long a batch takes: some seconds for each result"
    )
    max_drop: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, description='By metric, in its own unit: {"accuracy": 0.005} is half a point'
    )


class Webhook(Strict):
    url: str = Field(max_length=2048, pattern=r"^https?://")
    secret: str = Field(max_length=256, pattern=r"^whsec_[A-Za-z0-9+/=]+$", repr=False)


class JobRequest(Strict):
    """One compression job. `threshold` goes with the threshold rules, `budget` with the rule
    budget, `evaluation.max_drop` with the rule auto. A list of thresholds or budgets gives a result
    for each, from one decomposition."""

    model: UploadId | Annotated[tuple[UploadId, ...], Field(min_length=1, max_length=1024)]
    weights_path: str | None = Field(
        default=None,
        max_length=512,
        description="Where in a nested checkpoint the weights are: 'state_dict', 'ema.module'",
    )
    threshold: Threshold | Thresholds | None = None
    rule: Rule = Rule.ENTROPY
    protect_output: bool = True
    layers: tuple[LayerOverride, ...] = Field(default=(), max_length=1000)
    rank_multiple: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    min_speedup: Speedup = Field(
        default=1.0,
        description="The break-even for speed: a layer stays dense unless its matrix takes at "
        "least so many times the operations of its two factors, m n / (rank (m + n)). 1 is the "
        "break-even for size. What a machine makes of it, the report's latency tells",
    )
    budget: Budget | Budgets | None = None
    aware: Aware = Aware.NONE
    sensitivity: Sensitivity | None = Field(
        default=None,
        description="With `aware` two_sided and samples on the service: what an error of a layer "
        "is measured by. `output` (the default): the squared error of the model's output. "
        "`softmax`, for outputs that are logits of classes: the divergence of their softmax; keeps "
        "more of a classifier's accuracy, given some thousand samples to calibrate on",
    )
    statistics: UploadId | None = None
    refit: bool = Field(
        default=False,
        strict=True,
        description="With `aware` and samples on the service: make the right factors anew, layer "
        "after layer, for what the compressed layers before them give. Costs a pass of both models "
        "over the calibration samples for each layer; pays at a few per cent of the weights",
    )
    output: OutputOptions = OutputOptions()
    evaluation: Evaluation | None = None
    webhook: Webhook | None = None
    labels: dict[LabelKey, Label] = Field(default_factory=dict, max_length=32)

    @model_validator(mode="after")
    def _fields_fit_the_rule(self) -> Self:
        if self.rule.uses_threshold and self.threshold is None:
            raise ValueError(f"threshold: required by the rule {self.rule}; a number in (0, 1]")
        if not self.rule.uses_threshold and self.threshold is not None:
            raise ValueError(f"threshold: not used by the rule {self.rule}; leave it out")
        if self.rule is Rule.BUDGET and self.budget is None:
            raise ValueError('budget: required by the rule budget; e.g. {"parameters": 0.4}')
        if self.rule is not Rule.BUDGET and self.budget is not None:
            raise ValueError(f"budget: not used by the rule {self.rule}; leave it out")
        if self.rule is Rule.AUTO and not (self.evaluation and self.evaluation.max_drop):
            raise ValueError(
                "evaluation: the rule auto needs evaluation.max_drop, the loss that is allowed; "
                'e.g. {"validation": "...", "max_drop": {"accuracy": 0.005}}'
            )
        return self

    @model_validator(mode="after")
    def _data_for_awareness(self) -> Self:
        if self.statistics is not None and self.aware is Aware.NONE:
            raise ValueError("statistics: used by `aware` inputs and two_sided alone; leave it out")
        architecture = self.evaluation.architecture if self.evaluation is not None else None
        is_graph = architecture is not None and architecture.kind is ArchitectureKind.ONNX
        if self.aware is not Aware.NONE and is_graph:
            raise ValueError(f"aware: {NOT_AWARE}")
        if self.aware is Aware.NONE:
            if self.evaluation is not None and self.evaluation.calibration is not None:
                raise ValueError("evaluation: calibration is used by `aware` alone; leave it out")
            return self
        if self.statistics is not None:
            if self.evaluation is not None and self.evaluation.calibration is not None:
                raise ValueError("evaluation: statistics leave nothing to calibrate; send one")
            return self
        if self.evaluation is None:
            raise ValueError(
                "aware: needs the layers' inputs; send `evaluation` with samples, or `statistics` "
                "made by rankpress.collect_statistics"
            )
        return self

    @model_validator(mode="after")
    def _sensitivity_of_two_sides(self) -> Self:
        if self.sensitivity is None:
            return self
        if self.aware is not Aware.TWO_SIDED:
            raise ValueError("sensitivity: goes with `aware` two_sided alone; leave it out")
        if self.statistics is not None:
            raise ValueError(
                "sensitivity: the statistics have one already, given to "
                "rankpress.collect_statistics; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _samples_for_a_refit(self) -> Self:
        if not self.refit:
            return self
        if self.aware is Aware.NONE:
            raise ValueError("refit: goes with `aware` inputs or two_sided; leave it out")
        if self.statistics is not None:
            raise ValueError(
                "refit: needs samples on the service, and statistics hold none; leave out one"
            )
        kind = self.evaluation.architecture.kind if self.evaluation is not None else None
        if kind is not None and kind not in REFITTED_HERE:
            raise ValueError(f"refit: not with an architecture of the kind {kind}; leave it out")
        if self.rule is Rule.AUTO:
            raise ValueError(
                "refit: not with the rule auto, whose bound is on the models that it tried, and "
                "those are not refitted; use budget with the share that auto found"
            )
        return self

    @model_validator(mode="after")
    def _a_graph_is_its_own_architecture(self) -> Self:
        if self.evaluation is None:
            return self
        architecture = self.evaluation.architecture
        if architecture.kind is not ArchitectureKind.ONNX:
            return self
        several = isinstance(self.model, tuple)
        if several:
            raise ValueError("model: the kind onnx takes one upload, the ONNX model itself")
        if architecture.template not in (None, self.model):
            raise ValueError(
                "evaluation: an architecture of the kind onnx is the job's own `model`; leave out "
                "its template, or repeat that id"
            )
        return self

    @property
    def results(self) -> int:
        """How many results the job has: one for each threshold or budget."""
        several = self.budget if self.rule is Rule.BUDGET else self.threshold
        return len(several) if isinstance(several, tuple) else 1

    @property
    def is_allocated(self) -> bool:
        """Whether the ranks are chosen together, once every layer's spectrum is known."""
        return self.rule.is_joint

    def threshold_of(self, result: int) -> float | None:
        return self.threshold[result] if isinstance(self.threshold, tuple) else self.threshold

    def budget_of(self, result: int) -> Budget | None:
        return self.budget[result] if isinstance(self.budget, tuple) else self.budget

    def upload_ids(self) -> frozenset[str]:
        """Every upload that the request names."""
        models = self.model if isinstance(self.model, tuple) else (self.model,)
        named: list[str | None] = [*models, self.statistics]
        if self.evaluation is not None:
            named += [
                self.evaluation.validation,
                self.evaluation.calibration,
                self.evaluation.architecture.template,
            ]
        return frozenset(upload_id for upload_id in named if upload_id is not None)
