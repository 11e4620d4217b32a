"""Names of the wire as sentences, and numbers as people read them.

Tensor names are hostile input: `visible` comes before any of them is shown.
"""

from __future__ import annotations

from rankpress.names import Action, Reason, Rule, Verdict
from rankpress.schemas.report import LayerReport, Metric

ACTIONS: dict[Action, str] = {
    Action.FACTORISED: "factorised",
    Action.KEPT_DENSE: "kept dense",
    Action.PASSED_THROUGH: "passed through",
    Action.ALIAS: "alias",
    Action.FAILED: "failed, kept as it was",
}

REASONS: dict[Reason, str] = {
    Reason.ABOVE_BREAK_EVEN: "the factors would take at least as many bytes",
    Reason.BELOW_MIN_SPEEDUP: "the factors would save fewer operations than asked for",
    Reason.OUTPUT_PROTECTED: "the model's output layer, kept dense by default",
    Reason.KEEP_DENSE_REQUESTED: "kept dense on request",
    Reason.NOT_A_MATRIX: "not a matrix",
    Reason.ZERO_SIZE: "holds no values",
    Reason.ZERO: "all zeros: no spectrum to cut",
    Reason.INTEGER: "integers",
    Reason.BOOLEAN: "booleans",
    Reason.COMPLEX: "complex numbers",
    Reason.FLOAT8: "8-bit floats",
    Reason.FLOAT6: "6-bit floats",
    Reason.FLOAT4: "4-bit floats",
    Reason.QUANTISED: "quantised",
    Reason.SPARSE: "sparse",
    Reason.META: "a tensor without values",
    Reason.SPECIAL_TENSOR: "stored in a special form, kept as it is",
    Reason.DEPTHWISE: "a depthwise convolution",
    Reason.TOO_MANY_DIMENSIONS: "more dimensions than a convolution has",
    Reason.OPTIMIZER_STATE: "optimiser state",
    Reason.NON_FINITE: "holds inf or nan",
    Reason.CAST_OVERFLOW: "the factors do not fit the tensor's dtype",
    Reason.NUMERICAL_FAILURE: "no decomposition passed its check",
    Reason.KEY_COLLISION: "the factors' keys are taken by other tensors",
    Reason.TIED: "the same values under another name",
    Reason.ALLOCATED_DENSE: "kept dense by the budget of the whole model",
    Reason.NO_STATISTICS: "nothing is known of its inputs",
    Reason.NOT_A_WEIGHT: "no layer of the graph multiplies by it",
    Reason.WHOLE_MODEL_NOT_SMALLER: "undone, since the file would have grown",
}

RULES: dict[Rule, str] = {
    Rule.ENTROPY: "spectral entropy",
    Rule.ENTROPY_SQUARED: "spectral entropy of the squares",
    Rule.ENERGY: "energy",
    Rule.RATIO: "share of the parameters",
    Rule.EFFECTIVE_RANK: "effective rank",
    Rule.GAVISH_DONOHO: "Gavish-Donoho threshold",
    Rule.EVBMF: "variational Bayes",
    Rule.BUDGET: "budget of the whole model",
    Rule.AUTO: "bound on the metric",
}

VERDICTS: dict[Verdict, str] = {
    Verdict.WITHIN: "within the bound given",
    Verdict.WORSE: "worse than the bound given",
    Verdict.UNDECIDED: "undecided: the interval reaches over the bound",
}

# Metrics that are shares, shown in per cent and their differences in points.
SHARES = frozenset({"accuracy", "top5_accuracy", "macro_f1", "exact_match", "agreement"})

# The metric that a summary shows, the first that was measured.
HEADLINE_METRICS = ("accuracy", "perplexity", "cosine_to_dense", "mse")


def visible(text: str) -> str:
    """`text` with control and format characters (newlines, direction marks) as escapes, so that a
    name can neither break a line nor pass for another."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: int) -> str:
    """Bytes in binary units: 1536 -> '1.5 KiB'."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def share(after: int, before: int) -> str:
    return f"{100 * after / before:.1f} %" if before else "–"


def number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def rank_text(layer: LayerReport) -> str:
    """'102 of 128'; empty for a tensor that has no rank."""
    if layer.rank is None or layer.full_rank is None:
        return ""
    return f"{layer.rank} of {layer.full_rank}"


def action_text(layer: LayerReport) -> str:
    """What was done and why, in words."""
    text = ACTIONS[layer.action]
    if layer.alias_of is not None:
        text += f" of {visible(layer.alias_of)}"
    if layer.reason is not None:
        text += f": {REASONS[layer.reason]}"
    if layer.note:
        text += f" ({visible(layer.note)})"
    return text


def metric_value(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if name in SHARES else f"{value:.4g}"


def metric_difference(metric: Metric) -> str:
    """'-0.20 points [-0.61, +0.18]': the interval of the difference in the same unit."""
    if metric.difference is None:
        return "–"
    points = metric.name in SHARES
    factor, form = (100, "+.2f") if points else (1, "+.4g")
    text = f"{factor * metric.difference:{form}}" + (" points" if points else "")
    if metric.interval is not None:
        low, high = factor * metric.interval.low, factor * metric.interval.high
        text += f" [{low:{form}}, {high:{form}}]"
    return text


def metric_name(name: str) -> str:
    return visible(name).replace("_", " ")
