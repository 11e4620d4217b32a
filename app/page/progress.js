// A job under way: its stages, how far it is, and each layer as it is done.

import { byId, code, h, show } from "./dom.js";
import * as format from "./format.js";
import { outcome } from "./words.js";

const STAGES = { read: "Read", factorise: "Factorise", write: "Write", evaluate: "Evaluate" };
const SHOWN = 200;

export function progressView() {
  const bar = byId("job-bar");
  const line = byId("job-line");
  const stages = byId("job-stages");
  const layers = byId("job-layers");
  let spoken = "";

  return {
    start() {
      layers.replaceChildren();
      spoken = "";
      this.state({ state: "queued", stage: null, progress: { done: 0, total: 0 } });
      show(byId("running"));
    },

    state({ state, stage, progress }) {
      const names = Object.keys(STAGES);
      const now = names.indexOf(stage);
      stages.replaceChildren(...names.map((name, i) =>
        h("li", { class: i < now ? "done" : i === now ? "now" : "", "aria-current": i === now ? "step" : null }, STAGES[name])));
      if (progress.total) {
        bar.max = progress.total;
        bar.value = progress.done;
      } else {
        bar.removeAttribute("value");
      }
      byId("job-count").textContent = progress.total ? `${progress.done} of ${progress.total}` : "";
      // The live region speaks of stages, not of every layer.
      const text = state === "queued" ? "Waiting for a worker" : STAGES[stage] ?? "Starting";
      if (text !== spoken) line.textContent = spoken = text;
    },

    layer(report) {
      const rank = report.rank !== null && report.full_rank ? `rank ${report.rank} of ${report.full_rank}, ` : "";
      const share = format.share(report.parameters_after, report.parameters_before);
      const text = report.action === "factorised" ? `${rank}${share} of the parameters` : outcome(report);
      layers.prepend(h("li", {}, code(report.name), " ", h("span", { class: "quiet" }, text)));
      if (layers.childElementCount > SHOWN) layers.lastElementChild.remove();
    },

    end() {
      show(byId("running"), false);
    },
  };
}
