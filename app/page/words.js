// The names of the wire in words, as in rankpress/reporting/words.py (a test compares them).

/** What was done with a tensor. */
export const ACTIONS = {
  factorised: "factorised",
  kept_dense: "kept dense",
  passed_through: "passed through",
  alias: "alias",
  failed: "failed, kept as it was",
};

/** Why a tensor was not factorised. */
export const REASONS = {
  above_break_even: "the factors would take at least as many bytes",
  below_min_speedup: "the factors would save fewer operations than asked for",
  output_protected: "the model's output layer, kept dense by default",
  keep_dense_requested: "kept dense on request",
  not_a_matrix: "not a matrix",
  zero_size: "holds no values",
  zero: "all zeros: no spectrum to cut",
  integer: "integers",
  boolean: "booleans",
  complex: "complex numbers",
  float8: "8-bit floats",
  float6: "6-bit floats",
  float4: "4-bit floats",
  quantised: "quantised",
  sparse: "sparse",
  meta: "a tensor without values",
  special_tensor: "stored in a special form, kept as it is",
  depthwise: "a depthwise convolution",
  too_many_dimensions: "more dimensions than a convolution has",
  optimizer_state: "optimiser state",
  non_finite: "holds inf or nan",
  cast_overflow: "the factors do not fit the tensor's dtype",
  numerical_failure: "no decomposition passed its check",
  key_collision: "the factors' keys are taken by other tensors",
  tied: "the same values under another name",
  allocated_dense: "kept dense by the budget of the whole model",
  no_statistics: "nothing is known of its inputs",
  not_a_weight: "no layer of the graph multiplies by it",
  whole_model_not_smaller: "undone, since the file would have grown",
};

/** How a rank is chosen. */
export const RULES = {
  entropy: "spectral entropy",
  entropy_squared: "spectral entropy of the squares",
  energy: "energy",
  ratio: "share of the parameters",
  effective_rank: "effective rank",
  gavish_donoho: "Gavish-Donoho threshold",
  evbmf: "variational Bayes",
  budget: "budget of the whole model",
  auto: "bound on the metric",
};

/** Whether the bound given was kept. */
export const VERDICTS = {
  within: "within the bound given",
  worse: "worse than the bound given",
  undecided: "undecided: the interval reaches over the bound",
};

/** What was done with a tensor and why. */
export function outcome(layer) {
  let text = ACTIONS[layer.action] ?? layer.action;
  if (layer.alias_of) text += ` of ${layer.alias_of}`;
  if (layer.reason) text += `: ${REASONS[layer.reason] ?? layer.reason}`;
  if (layer.note) text += ` (${layer.note})`;
  return text;
}
