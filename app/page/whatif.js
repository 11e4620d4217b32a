// What a job at another threshold would give, from a finished job's report and spectra.

import { applyMultiple, breakEvenRank, prepare } from "./ranks.js";

// A tensor with one of these reasons stays what it is at every threshold.
const SETTLED = new Set([
  "output_protected", "keep_dense_requested", "key_collision", "cast_overflow",
  "numerical_failure", "non_finite", "no_statistics", "tied", "zero",
]);

/** Ready for one rule; `at(tau)` gives the layers and the totals. */
export function whatIf(report, spectrum, rule, multiple = 1) {
  const spectra = new Map(spectrum.layers.map((layer) => [layer.name, layer]));
  const predictors = report.layers.map((layer) =>
    predictor(layer, spectra.get(layer.name), report, rule, multiple));
  return {
    at(tau) {
      const layers = predictors.map((predict) => predict(tau));
      return { rule, tau, layers, ...totals(layers), exact: layers.every((l) => l.exact) };
    },
  };
}

function predictor(layer, spectrum, report, rule, multiple) {
  const asItIs = {
    name: layer.name,
    rank: layer.rank,
    factorised: layer.action === "factorised",
    reason: layer.reason,
    parameters: layer.parameters_after,
    bytes: layer.bytes_after,
    exact: true,
  };
  // A `layers` entry of the request gave this tensor a rule, a threshold or a rank of its own.
  const own = layer.rule !== report.rule || layer.threshold !== report.threshold;
  if (spectrum === undefined || SETTLED.has(layer.reason) || own) return () => asItIs;
  const { m, n, count } = spectrum;
  const values = spectrum.expert_singular_values ?? [spectrum.singular_values];
  const prepared = values.map((s) => prepare(rule, s, m, n, spectrum.eps));
  // A 2-D kernel has a second view, whose spectrum the document does not hold: the worker takes it
  // when it needs fewer parameters, so that away from the job's own threshold this is a bound.
  const [, , kh, kw] = spectrum.shape;
  const twoViews = spectrum.kind === "convolution" && kh > 1 && kw > 1;
  return (tau) => {
    if (twoViews && rule === report.rule && tau === report.threshold) return asItIs;
    const ranks = prepared.map((p) => applyMultiple(p.rank(tau), multiple, Math.min(m, n)));
    const rank = Math.max(...ranks);
    const factorised = rank <= breakEvenRank(m, n);
    const parameters = factorised ? count * rank * (m + n) : layer.parameters_before;
    return {
      name: layer.name,
      rank,
      factorised,
      reason: factorised ? null : "above_break_even",
      parameters,
      bytes: factorised ? parameters * spectrum.bytes_per_parameter : layer.bytes_before,
      exact: !twoViews,
    };
  };
}

function totals(layers) {
  return layers.reduce(
    (sum, layer) => ({
      parameters: sum.parameters + layer.parameters,
      bytes: sum.bytes + layer.bytes,
    }),
    { parameters: 0, bytes: 0 },
  );
}
