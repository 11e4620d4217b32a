// Rule and threshold: a menu, a slider, and a number beside it for what the slider's steps leave out.

import { byId } from "./dom.js";

/** Elements `<prefix>-rule`, `<prefix>-slider`, `<prefix>-number`. `onChange({rule, tau})`. */
export function ruleControls(prefix, onChange) {
  const rule = byId(`${prefix}-rule`);
  const slider = byId(`${prefix}-slider`);
  const number = byId(`${prefix}-number`);
  let tau = Number(number.value);

  function changed(value) {
    tau = value;
    number.setCustomValidity("");
    slider.setAttribute("aria-valuetext", `threshold ${tau}`);
    onChange({ rule: rule.value, tau });
  }

  rule.addEventListener("change", () => changed(tau));
  slider.addEventListener("input", () => {
    number.value = slider.value;
    changed(Number(slider.value));
  });
  number.addEventListener("input", () => {
    const value = number.valueAsNumber;
    if (value > 0 && value <= 1) {
      slider.value = value;
      changed(value);
    } else {
      number.setCustomValidity("A number above 0, up to 1");
    }
  });

  return {
    get: () => ({ rule: rule.value, tau }),
    /** False, and the field says why, while the number is no threshold. */
    valid: () => number.reportValidity(),
    set(newRule, newTau) {
      rule.value = newRule;
      number.value = newTau;
      slider.value = newTau;
      changed(newTau);
    },
  };
}
