// The same job as a curl line and as Python. File names are the user's own, and quoted all the same.

function shell(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A form part of curl: inside its own double quotes, a comma or a semicolon is no option. */
function part(name, file) {
  return shell(`${name}=@"${file.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);
}

/** A JSON string is a Python string, but for characters beyond the basic plane and DEL. */
function python(text) {
  return JSON.stringify(text).replace(/[\u007f-\u{10ffff}]/gu, (c) => `\\U${c.codePointAt(0).toString(16).padStart(8, "0")}`);
}

/** The same for objects of strings and numbers. */
function literal(value) {
  if (typeof value !== "object") return typeof value === "string" ? python(value) : String(value);
  return `{${Object.entries(value).map(([name, each]) => `${python(name)}: ${literal(each)}`).join(", ")}}`;
}

/** What differs from the service's defaults, besides the threshold. */
function options({ rule, budget, protectOutput, evaluation }) {
  const found = {};
  if (rule !== "entropy") found.rule = rule;
  if (budget) found.budget = Object.fromEntries(Object.entries(budget).filter(([, share]) => share !== null));
  if (!protectOutput) found.protect_output = false;
  if (evaluation) found.evaluation = evaluation;
  return found;
}

/** `job` is `{base, key, model, validation, rule, tau, budget, protectOutput, evaluation}`; names, not ids. */
export function curl(job) {
  const more = options(job);
  const key = job.key ? ` -H "Authorization: Bearer $RANKPRESS_API_KEY"` : "";
  const parts = [`-F ${part("model", job.model)}`];
  if (job.tau) parts.push(`-F threshold=${job.tau}`);
  if (job.validation) parts.push(`-F ${part("validation", job.validation)}`);
  if (Object.keys(more).length) parts.push(`-F ${shell(`options=${JSON.stringify(more)}`)}`);
  return `curl --fail-with-body -sS${key} ${shell(`${job.base}v1/jobs`)} ${parts.join(" ")}`;
}

export function pythonCode(job) {
  const more = options(job);
  const fields = [python(job.model)];
  if (job.tau) fields.push(`threshold=${job.tau}`);
  if (more.rule) fields.push(`rule=${python(more.rule)}`);
  if (more.budget) fields.push(`budget=${literal(more.budget)}`);
  if (job.validation) fields.push(`validation=${python(job.validation)}`);
  if (more.protect_output === false) fields.push("protect_output=False");
  if (more.evaluation) fields.push(`evaluation=${literal(more.evaluation)}`);
  const base = python(job.base.replace(/\/$/, ""));
  const key = job.key ? `, api_key=os.environ["RANKPRESS_API_KEY"]` : "";
  return [
    ...(job.key ? ["import os", ""] : []),
    "from rankpress.client import Client",
    "",
    `with Client(${base}${key}) as client:`,
    `    result = client.compress(${fields.join(", ")})`,
    "print(result.path, result.report.bytes_after)",
  ].join("\n");
}
