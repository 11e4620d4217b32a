// Upload, run, look, try another threshold: the page's story.

import { aimControls } from "./aim.js";
import { clearProblem, showProblem } from "./alerts.js";
import { cancelJob, getJob, getReport, getSpectrum, hasApiKey, Problem, setApiKey, submitJob } from "./api.js";
import { ruleControls } from "./controls.js";
import { byId, show } from "./dom.js";
import { dropZone } from "./drop.js";
import { exploreView } from "./explore.js";
import { follow } from "./follow.js";
import { progressView } from "./progress.js";
import { RULES } from "./ranks.js";
import { showResults } from "./results.js";
import { runsView } from "./runs.js";
import { curl, pythonCode } from "./snippets.js";
import { tensorTable } from "./table.js";

const chosen = { model: null, validation: null }; // {file, upload}
let current = null; // the run that is shown: {job, report, spectrum, request}
let following = null; // AbortController of the job under way

const progress = progressView();
const explore = exploreView();
const table = tensorTable();
const runs = runsView(open);
const first = aimControls(ready);
const again = ruleControls("again", ({ rule, tau }) => {
  if (current === null) return;
  explore.show(rule, tau);
  explore.runs(runs.points(rule));
  ready();
  snippets({ ...current.request, rule, threshold: tau, budget: undefined });
});

dropZone("model", {
  onError: showProblem,
  onChange(found) {
    chosen.model = found.upload ? found : null;
    ready();
    show(byId("activation-options"), !isGraph());
    clearProblem();
  },
});
dropZone("validation", {
  onError: showProblem,
  onChange(found) {
    chosen.validation = found.upload ? found : null;
    show(byId("evaluation-options"), chosen.validation !== null);
    ready();
  },
});

/** The buttons wait for what their job needs, and for the job under way. */
function ready() {
  const lacks = first.needsValidation() && chosen.validation === null;
  const busy = !byId("running").hidden;
  show(byId("first-bound-needs"), lacks);
  byId("run").disabled = busy || chosen.model === null || lacks;
  byId("again-run").disabled = busy || current === null || isShown(again.get());
}

function isShown({ rule, tau }) {
  return rule === current.report.rule && tau === current.report.threshold;
}

/** An ONNX model says itself how its layers are put together. */
function isGraph() {
  return chosen.model?.upload.format === "onnx";
}

function requestOf() {
  const request = { model: chosen.model.upload.id, ...first.fields() };
  if (!byId("protect").checked) request.protect_output = false;
  if (chosen.validation) {
    request.evaluation = {
      validation: chosen.validation.upload.id,
      task: byId("task").value,
      architecture: isGraph() ? { kind: "onnx" } : { kind: "mlp", activation: byId("activation").value },
      ...first.bound(),
    };
  }
  return request;
}

async function run(request) {
  clearProblem();
  following?.abort();
  const mine = new AbortController();
  following = mine;
  progress.start();
  ready();
  byId("running").scrollIntoView({ block: "nearest" });
  try {
    const job = await submitJob(request);
    byId("cancel").onclick = () => cancelJob(job.id).catch(showProblem);
    location.hash = `job=${job.id}`;
    await finish(job, mine);
  } catch (error) {
    if (!mine.signal.aborted) showProblem(error);
  } finally {
    ended(mine);
  }
}

/** No longer under way, unless another job is by now. */
function ended(mine) {
  if (following !== mine) return;
  following = null;
  progress.end();
  ready();
}

/** Follows a job to its end and shows what came of it. */
async function finish(job, mine) {
  const handlers = { onState: (s) => progress.state(s), onLayer: (l) => progress.layer(l), signal: mine.signal };
  const done = job.finished_at ? job : await follow(job.id, handlers);
  if (done.state === "failed") throw new Problem(done.error);
  if (done.state === "canceled") throw new Problem({ title: "Canceled", detail: "The job was canceled." });
  const [report, spectrum] = await Promise.all([getReport(done.id), getSpectrum(done.id).catch(noSpectrum)]);
  open({ job: done, report, spectrum, request: done.request });
}

/** An old job's spectra may be gone; its report is still worth showing. */
function noSpectrum(error) {
  if (error.status === 404) return { layers: [] };
  throw error;
}

function open(run) {
  current = run;
  explore.open(run);
  table.open(run.report);
  showResults(run.job, run.report, showProblem);
  if (run === current) runs.add(run);
  show(byId("results"));
  const { rule, threshold } = run.report;
  if (RULES.includes(rule) && threshold !== null) again.set(rule, threshold);
  else {
    again.set("entropy", 0.9); // a rule of the whole model: no threshold to start from
    snippets({ ...run.request, budget: run.report.budget });
  }
  byId("result-title").focus();
}

function snippets(request) {
  const evaluation = request.evaluation;
  const architecture = evaluation?.architecture;
  const plain = !evaluation || (!evaluation.max_drop && evaluation.task === "classification" && architecture.kind === "mlp" && architecture.activation === "relu");
  const job = {
    base: new URL(".", location.href).href,
    key: hasApiKey(),
    model: chosen.model?.file.name ?? "model.safetensors",
    validation: evaluation ? (chosen.validation?.file.name ?? "validation.safetensors") : null,
    rule: request.rule,
    tau: request.threshold,
    budget: request.budget,
    protectOutput: request.protect_output !== false,
    evaluation: plain ? null : { task: evaluation.task, architecture: architectureOf(architecture), ...bounds(evaluation) },
  };
  byId("curl").textContent = curl(job);
  byId("python").textContent = pythonCode(job);
}

function architectureOf({ kind, activation }) {
  return kind === "mlp" ? { kind, activation } : { kind };
}

function bounds({ max_drop }) {
  return max_drop ? { max_drop } : {};
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId(button.dataset.copy).textContent);
    byId("copied").textContent = "Copied";
    setTimeout(() => (byId("copied").textContent = ""), 2000);
  });
  show(button, Boolean(navigator.clipboard)); // only where the page is served securely
}

byId("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  if (chosen.model && first.valid()) {
    runs.clear();
    run(requestOf());
  }
});
byId("again").addEventListener("submit", (event) => {
  event.preventDefault();
  // All else as in the run that is shown; its uploads are still on the service.
  const { rule, tau } = again.get();
  if (again.valid()) run({ ...current.request, rule, threshold: tau, budget: undefined, webhook: undefined });
});
byId("key").addEventListener("input", (event) => setApiKey(event.target.value));
byId("alert-close").addEventListener("click", clearProblem);
for (const type of ["dragover", "drop"]) {
  addEventListener(type, (event) => event.preventDefault()); // a file dropped beside a zone opens nothing
}

async function openLinked() {
  const id = /^#job=([A-Za-z0-9_-]+)$/.exec(location.hash)?.[1];
  if (!id || id === current?.job.id || following?.signal.aborted === false) return;
  const mine = new AbortController();
  following = mine;
  try {
    const job = await getJob(id);
    if (!job.finished_at) progress.start();
    ready();
    byId("cancel").onclick = () => cancelJob(id).catch(showProblem);
    await finish(job, mine);
  } catch (error) {
    if (!mine.signal.aborted) showProblem(error);
  } finally {
    ended(mine);
  }
}

addEventListener("hashchange", openLinked);
openLinked();
