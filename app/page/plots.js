// Plots as SVG. What a plot shows is said in words beside it, so that it can be hidden from readers.

import { s } from "./dom.js";

const WIDTH = 264;
const HEIGHT = 96;
const POINTS = 132;
const DECADES = 6;
const EXPERTS = 8;

/** log10(s_i / s_1) over i. `setRank(k)` moves the cut; null: nothing is cut. */
export function spectrumPlot(spectra) {
  const count = spectra[0].length;
  const paths = () => spectra.slice(0, EXPERTS).map((values) => s("path", { d: area(values) }));
  const many = spectra.length > 1 ? { "fill-opacity": "0.3" } : {};
  const kept = s("svg", { class: "kept", x: 0, y: 0, width: 0, height: HEIGHT, overflow: "hidden" }, paths());
  const cut = s("line", { class: "cut", y1: 0, y2: HEIGHT });
  const grid = Array.from({ length: DECADES - 1 }, (_, i) =>
    s("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(i + 1), y2: y(i + 1) }));
  const element = s(
    "svg",
    { class: "spectrum", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", ...many },
    grid, s("g", { class: "cut-off" }, paths()), kept, cut,
  );
  return {
    element,
    setRank(rank) {
      const x = rank === null ? 0 : (rank * WIDTH) / count;
      kept.setAttribute("width", x);
      cut.setAttribute("x1", x);
      cut.setAttribute("x2", x);
      cut.setAttribute("visibility", rank === null ? "hidden" : "visible");
    },
  };
}

function y(decades) {
  return 4 + ((HEIGHT - 4) * Math.min(DECADES, Math.max(0, decades))) / DECADES;
}

function area(values) {
  const count = values.length;
  const step = Math.max(1, Math.ceil(count / POINTS));
  let path = `M0 ${HEIGHT}`;
  for (let i = 0; i < count; i += step) {
    const share = values[i] / values[0];
    const right = (Math.min(count, i + step) * WIDTH) / count;
    path += `V${y(share > 0 ? -Math.log10(share) : DECADES).toFixed(1)}H${right.toFixed(1)}`;
  }
  return `${path}V${HEIGHT}Z`;
}

/** A share in [0, 1] as a bar, with a tick at `mark`. */
export function bar() {
  const fill = s("rect", { class: "fill", height: 10, width: 0 });
  const mark = s("line", { class: "mark", y1: 0, y2: 10, visibility: "hidden" });
  const element = s(
    "svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", width: 100, height: 10 }), fill, mark,
  );
  return {
    element,
    set(value, tick = null) {
      fill.setAttribute("width", 100 * Math.min(1, Math.max(0, value)));
      if (tick === null || tick >= 1) return;
      mark.setAttribute("visibility", "visible");
      mark.setAttribute("x1", 100 * tick);
      mark.setAttribute("x2", 100 * tick);
    },
  };
}

/** Size over the threshold: a curve, the slider's place on it, and the runs that were made. */
export function frontierPlot() {
  const [width, height] = [560, 150];
  const px = (tau) => (tau * width).toFixed(1);
  const py = (size) => (height - size * (height - 8)).toFixed(1);
  const curve = s("path", { class: "curve" });
  const runs = s("g", { class: "runs" });
  const here = s("line", { class: "cut", y1: 0, y2: height });
  const grid = [0.25, 0.5, 0.75].map((share) => s("line", { class: "grid", x1: 0, x2: width, y1: py(share), y2: py(share) }));
  const element = s(
    "svg",
    { class: "frontier", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    grid, curve, here, runs,
  );
  return {
    element,
    setCurve(points) {
      curve.setAttribute("d", `M${points.map(({ tau, size }) => `${px(tau)} ${py(size)}`).join("L")}`);
    },
    setHere(tau) {
      here.setAttribute("x1", px(tau));
      here.setAttribute("x2", px(tau));
    },
    setRuns(points) {
      // A line of no length with round caps stays round under any scaling.
      runs.replaceChildren(...points.map(({ tau, size }) =>
        s("line", { class: "run", x1: px(tau), x2: px(tau), y1: py(size), y2: py(size) })));
    },
  };
}
