// The runs made on this page, side by side.

import { byId, h, scroller, show } from "./dom.js";
import * as format from "./format.js";
import { RULES } from "./words.js";

const METRICS = ["accuracy", "perplexity", "cosine_to_dense", "mse"];

export function runsView(onOpen) {
  const runs = [];

  function draw(current) {
    show(byId("runs"), runs.length > 1);
    const heads = ["Rule", "Asked for", "Parameters", "File", "Metric", ""].map((name, i) =>
      h("th", { scope: "col", class: i === 0 ? "text" : null }, name || h("span", { class: "unseen" }, "Open")));
    const rows = runs.map((run) => {
      const { report } = run;
      const metrics = report.evaluation?.metrics ?? [];
      const metric = METRICS.map((name) => metrics.find((m) => m.name === name)).find(Boolean);
      const open = h("button", { type: "button", class: "small", onclick: () => onOpen(run) },
        "Show", h("span", { class: "unseen" }, ` the run at ${format.kept(report) || RULES[report.rule]}`));
      return h("tr", { "aria-current": run === current ? "true" : null },
        h("th", { scope: "row", class: "text" }, RULES[report.rule] ?? report.rule), h("td", {}, format.kept(report) || "–"),
        h("td", {}, format.share(report.parameters_after, report.parameters_before)), h("td", {}, format.bytes(report.bytes_after)),
        h("td", {}, metric ? `${format.metricName(metric.name)} ${format.metricValue(metric.name, metric.compressed)}` : "–"),
        h("td", {}, run === current ? "shown" : open));
    });
    byId("runs-body").replaceChildren(
      scroller("Runs", h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))));
  }

  return {
    add(run) {
      if (!runs.some((known) => known.job.id === run.job.id)) runs.push(run);
      draw(run);
    },
    draw,
    clear() {
      runs.length = 0;
      draw(null);
    },
    /** `[{tau, size}]` of the runs with this rule. */
    points: (rule) => runs.filter(({ report }) => report.rule === rule && report.threshold !== null)
      .map(({ report }) => ({ tau: report.threshold, size: report.parameters_after / report.parameters_before })),
  };
}
