// What the first form asks for: a threshold for each layer, a share of the whole model, or a bound on
// what the metric may lose.

import { ruleControls } from "./controls.js";
import { byId, show } from "./dom.js";
import { metricName } from "./format.js";

const KEEP = {
  threshold: ["Threshold τ: how much of each layer to keep", "τ"],
  budget: ["Share of the whole model’s parameters to keep", "Share"],
};
// By task; each of them has an interval, which the bound is held against.
const BOUNDED = {
  classification: "accuracy",
  multilabel: "accuracy",
  regression: "mse",
  embedding: "cosine_to_dense",
  fidelity: "cosine_to_dense",
};

/** `onChange()` when something else is asked for. */
export function aimControls(onChange) {
  const task = byId("task");
  const bound = byId("first-bound");
  const controls = ruleControls("first", changed);

  const metric = () => BOUNDED[task.value];

  function changed({ rule, tau }) {
    const isBound = rule === "auto";
    const [long, short] = KEEP[rule] ?? KEEP.threshold;
    byId("first-slider-label").textContent = long;
    byId("first-number-label").textContent = short;
    if (rule === "budget") byId("first-slider").setAttribute("aria-valuetext", `share ${tau}`);
    for (const part of ["slider", "number"]) {
      show(byId(`first-${part}-field`), !isBound);
      byId(`first-${part}`).disabled = isBound; // what is hidden is not asked whether it is valid
    }
    show(byId("first-bound-field"), isBound);
    bound.disabled = !isBound;
    byId("first-metric").textContent = metricName(metric());
    onChange();
  }

  task.addEventListener("change", () => changed(controls.get()));

  return {
    valid: () => (bound.disabled ? controls.valid() : bound.reportValidity()),
    needsValidation: () => !bound.disabled,
    /** Of the request, as far as the rule goes. */
    fields() {
      const { rule, tau } = controls.get();
      if (rule === "auto") return { rule };
      return rule === "budget" ? { rule, budget: { parameters: tau } } : { rule, threshold: tau };
    },
    /** Of the request's evaluation. */
    bound: () => (bound.disabled ? {} : { max_drop: { [metric()]: bound.valueAsNumber } }),
  };
}
