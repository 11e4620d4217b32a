// What a job did: sizes and accuracy before and after, downloads.

import { hasApiKey, jobPath, request } from "./api.js";
import { byId, h, scroller, show, visible } from "./dom.js";
import * as format from "./format.js";
import { RULES, VERDICTS } from "./words.js";

const HEADLINE = ["accuracy", "perplexity", "cosine_to_dense", "mse"];
const REPORTS = [
  ["HTML report", "text/html", "html"],
  ["Markdown summary", "text/markdown", "md"],
  ["CSV", "text/csv", "csv"],
  ["JSON", "application/json", "json"],
];

export function showResults(job, report, onError) {
  const kept = format.kept(report);
  byId("result-title").textContent = kept ? `Result at ${kept}` : "Result";
  byId("result-line").textContent =
    `Rule: ${RULES[report.rule] ?? report.rule}. ${output(report)} Took ${format.duration(job.created_at, job.finished_at)}.`;
  byId("cards").replaceChildren(...cards(report));
  byId("downloads").replaceChildren(weightsLink(job, report, onError), ...REPORTS.map((kind) => reportButton(job, kind, onError)));
  byId("report-notes").replaceChildren(...report.notes.map((note) => h("li", {}, visible(note))));
  showEvaluation(report.evaluation);
}

function output(report) {
  if (report.protected_output === null) return "No layer was protected as the output.";
  const assumed = report.protected_output_assumed ? " (assumed from the file)" : "";
  return `The output layer ${visible(report.protected_output)}${assumed} is dense.`;
}

function cards(report) {
  const found = [
    change("File", report.bytes_before, report.bytes_after, format.bytes),
    change("Parameters", report.parameters_before, report.parameters_after, format.integer),
  ];
  if (report.flops_per_sample_before !== null && report.flops_per_sample_after !== null) {
    found.push(change("FLOPs per sample", report.flops_per_sample_before, report.flops_per_sample_after, format.integer));
  }
  const metrics = report.evaluation?.metrics ?? [];
  const metric = HEADLINE.map((name) => metrics.find((m) => m.name === name)).find(Boolean);
  if (metric) {
    const dense = format.metricValue(metric.name, metric.dense);
    found.push(card(capital(format.metricName(metric.name)), format.metricValue(metric.name, metric.compressed),
      `dense ${dense}; difference ${format.metricDifference(metric)}`));
  }
  for (const latency of report.evaluation?.latency.slice(0, 2) ?? []) {
    found.push(card(`Speed, batches of ${latency.batch_size}`, `${latency.speedup.toFixed(2)} ×`,
      `${format.number(1000 * latency.dense_seconds, 3)} → ${format.number(1000 * latency.compressed_seconds, 3)} ms a batch`));
  }
  return found;
}

function change(title, before, after, form) {
  return card(title, format.share(after, before), `${form(before)} → ${form(after)}`);
}

function card(title, value, note) {
  return h("div", { class: "card" }, h("h3", {}, title), h("p", { class: "value" }, value), h("p", { class: "quiet" }, note));
}

function showEvaluation(found) {
  show(byId("evaluation"), Boolean(found));
  if (!found) return;
  const assumed = found.architecture_assumed ? ", assumed from the shapes" : "";
  const verdict = found.verdict ? ` Verdict: ${VERDICTS[found.verdict]}.` : "";
  const rows = found.metrics.map((m) =>
    h("tr", {}, h("th", { scope: "row", class: "text" }, format.metricName(m.name)),
      h("td", {}, format.metricValue(m.name, m.dense)), h("td", {}, format.metricValue(m.name, m.compressed)),
      h("td", {}, format.metricDifference(m)), h("td", { class: "text" }, about(m))));
  const heads = ["Metric", "Dense", "Compressed", "Difference [interval]", "About"].map((name, i) =>
    h("th", { scope: "col", class: i === 0 || i === 4 ? "text" : null }, name));
  byId("evaluation-body").replaceChildren(
    h("p", {}, `${format.integer(found.samples)} samples, ${visible(found.architecture)}${assumed}; scored on the artifact after it was read back, on ${found.device}.${verdict}`),
    scroller("Metrics", h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))),
    h("ul", {}, found.notes.map((note) => h("li", {}, visible(note)))),
  );
}

function about(metric) {
  const parts = [metric.higher_is_better ? "higher is better" : "lower is better"];
  const interval = metric.interval;
  if (interval) parts.push(`${100 * interval.level} % interval by ${interval.method.replaceAll("_", " ")}`);
  if (metric.reason) parts.push(visible(metric.reason));
  return parts.join("; ");
}

/** A plain link streams to disk; with a key the request needs a header, so the page fetches it. */
function weightsLink(job, report, onError) {
  const path = jobPath(job.id, "/weights");
  const text = `Compressed weights, ${format.bytes(report.bytes_after)}`;
  const link = h("a", { class: "button main", href: path, download: "", id: "weights" }, text);
  link.addEventListener("click", (event) => {
    if (!hasApiKey()) return;
    event.preventDefault();
    save(path, "*/*", null, onError);
  });
  return link;
}

function reportButton(job, [text, accept, suffix], onError) {
  const name = `report-${job.id}.${suffix}`;
  return h("button", { type: "button", class: "button", onclick: () => save(jobPath(job.id, "/report"), accept, name, onError) }, text);
}

async function save(path, accept, name, onError) {
  try {
    const response = await request(path, { accept });
    const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
    const url = URL.createObjectURL(await response.blob());
    const link = h("a", { href: url, download: name ?? named?.[1] ?? "download" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    onError(error);
  }
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
