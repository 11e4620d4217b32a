"""Every name that the wire, the code, the metrics and the page share, once."""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. `canceled` is its own end, never `failed`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELED)


class Stage(StrEnum):
    """The stages of a job, in the order they run.

    `evaluate` follows `write`, because what is scored is the artifact read back from the store.
    """

    READ = "read"
    FACTORISE = "factorise"
    WRITE = "write"
    EVALUATE = "evaluate"


class Rule(StrEnum):
    """How a layer's rank is chosen from its singular values."""

    ENTROPY = "entropy"
    ENTROPY_SQUARED = "entropy_squared"
    ENERGY = "energy"
    RATIO = "ratio"
    EFFECTIVE_RANK = "effective_rank"
    GAVISH_DONOHO = "gavish_donoho"
    EVBMF = "evbmf"
    BUDGET = "budget"
    AUTO = "auto"

    @property
    def uses_threshold(self) -> bool:
        return self in (Rule.ENTROPY, Rule.ENTROPY_SQUARED, Rule.ENERGY, Rule.RATIO)

    @property
    def is_joint(self) -> bool:
        """Whether it chooses the ranks of all layers together."""
        return self in (Rule.BUDGET, Rule.AUTO)


class Action(StrEnum):
    """What was done with a tensor."""

    FACTORISED = "factorised"
    KEPT_DENSE = "kept_dense"
    PASSED_THROUGH = "passed_through"
    ALIAS = "alias"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a tensor was not factorised: the fixed list that reports draw from."""

    ABOVE_BREAK_EVEN = "above_break_even"  # the factors would take at least as many bytes
    BELOW_MIN_SPEEDUP = "below_min_speedup"  # the factors would save too few operations
    OUTPUT_PROTECTED = "output_protected"  # the model's output layer, kept dense by default
    KEEP_DENSE_REQUESTED = "keep_dense_requested"  # a `layers` entry said keep_dense
    NOT_A_MATRIX = "not_a_matrix"  # 0-D or 1-D
    ZERO_SIZE = "zero_size"
    ZERO = "zero"  # all zeros: no spectrum to cut
    INTEGER = "integer"
    BOOLEAN = "boolean"
    COMPLEX = "complex"
    FLOAT8 = "float8"
    FLOAT6 = "float6"
    FLOAT4 = "float4"
    QUANTISED = "quantised"
    SPARSE = "sparse"
    META = "meta"  # a tensor without values
    SPECIAL_TENSOR = "special_tensor"  # nested, a subclass, conjugated: kept as it is stored
    DEPTHWISE = "depthwise"  # a convolution with one input channel a group
    TOO_MANY_DIMENSIONS = "too_many_dimensions"
    OPTIMIZER_STATE = "optimizer_state"
    NON_FINITE = "non_finite"  # holds inf or nan
    CAST_OVERFLOW = "cast_overflow"  # the factors do not fit the tensor's dtype
    NUMERICAL_FAILURE = "numerical_failure"  # every driver failed or failed its check
    TIED = "tied"  # the same storage or bytes under another name
    KEY_COLLISION = "key_collision"  # every name for its factors is taken by another tensor
    ALLOCATED_DENSE = "allocated_dense"  # the budget of the whole model keeps it dense
    NO_STATISTICS = "no_statistics"  # `aware`, and nothing is known of the layer's inputs
    NOT_A_WEIGHT = "not_a_weight"  # no layer of the ONNX graph multiplies by it
    WHOLE_MODEL_NOT_SMALLER = "whole_model_not_smaller"  # factors undone: the file would grow


class Kind(StrEnum):
    """How a stored tensor is viewed as a matrix."""

    MATRIX = "matrix"
    CONVOLUTION = "convolution"  # [out, in, *kernel] as out x (in * prod(kernel))
    CONVOLUTION_SPATIAL = "convolution_spatial"  # 4-D as (out * kh) x (in * kw)
    EXPERTS = "experts"  # [E, m, n], one matrix an expert
    OTHER = "other"


class FileFormat(StrEnum):
    """What an uploaded file is, by its content, never by its name."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"  # the zip form of torch.save
    TORCH_LEGACY = "torch_legacy"
    NPZ = "npz"
    ONNX = "onnx"
    JSON = "json"  # the index of a sharded checkpoint
    TAR = "tar"
    ZIP = "zip"


class OutputFormat(StrEnum):
    SAME = "same"
    SAFETENSORS = "safetensors"
    TORCH = "torch"


class OutputLayout(StrEnum):
    """`factors` writes two smaller tensors a layer; `dense` multiplies back and saves nothing."""

    FACTORS = "factors"
    DENSE = "dense"


class Aware(StrEnum):
    NONE = "none"
    INPUTS = "inputs"
    TWO_SIDED = "two_sided"


class Sensitivity(StrEnum):
    """What an error of a layer is measured by with `aware` two_sided: the squared error of the
    model's output, or, where that is logits, the divergence of their softmax."""

    OUTPUT = "output"
    SOFTMAX = "softmax"


class ArchitectureKind(StrEnum):
    MLP = "mlp"
    TEMPLATE = "template"
    ONNX = "onnx"
    FACTORY = "factory"


class Task(StrEnum):
    CLASSIFICATION = "classification"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    LANGUAGE_MODELLING = "language_modelling"
    EMBEDDING = "embedding"
    FIDELITY = "fidelity"  # no targets: agreement with the dense model alone


class Activation(StrEnum):
    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"
    IDENTITY = "identity"


class Verdict(StrEnum):
    WITHIN = "within"
    WORSE = "worse"
    UNDECIDED = "undecided"


class WebhookType(StrEnum):
    """What a webhook tells: how a job ended."""

    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELED = "job.canceled"


class DeliveryOutcome(StrEnum):
    """What came of one attempt to deliver a webhook. All but `retrying` are final."""

    DELIVERED = "delivered"  # the receiver answered 2xx
    RETRYING = "retrying"  # no answer, or another one; there is a next attempt
    GIVEN_UP = "given_up"  # the last attempt failed
    GONE = "gone"  # the receiver answered 410
    REFUSED = "refused"  # an address that the service does not call
