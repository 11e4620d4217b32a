// Numbers as people read them: the same forms as in the HTML report.

const SHARES = new Set(["accuracy", "top5_accuracy", "macro_f1", "exact_match", "agreement"]);

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${count} B` : `${value.toFixed(1)} ${units[unit]}`;
}

export function integer(count) {
  return count.toLocaleString("en");
}

export function share(after, before) {
  return before ? `${((100 * after) / before).toFixed(1)} %` : "–";
}

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  return String(Number(value.toPrecision(digits)));
}

export function shape(sides) {
  return sides.join(" × ") || "scalar";
}

export function metricName(name) {
  return name.replaceAll("_", " ");
}

export function metricValue(name, value) {
  if (value === null) return "–";
  return SHARES.has(name) ? `${(100 * value).toFixed(2)} %` : number(value);
}

export function metricDifference(metric) {
  if (metric.difference === null) return "–";
  const points = SHARES.has(metric.name);
  const signed = (v) => (v >= 0 ? "+" : "") + (points ? (100 * v).toFixed(2) : number(v));
  const text = signed(metric.difference) + (points ? " points" : "");
  const interval = metric.interval;
  return interval ? `${text} [${signed(interval.low)}, ${signed(interval.high)}]` : text;
}

/** What a job was asked to keep: a threshold, or a share of one kind of the whole model. */
export function kept(report) {
  if (report.threshold !== null) return `τ = ${report.threshold}`;
  const [kind, part] = Object.entries(report.budget ?? {}).find(([, value]) => value !== null) ?? [];
  return kind ? `${number(100 * part)} % of the ${kind}` : "";
}

export function duration(from, to) {
  const seconds = (new Date(to) - new Date(from)) / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
