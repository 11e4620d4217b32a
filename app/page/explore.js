// The slider's answer: each layer's rank and the whole size at any threshold, without a job.

import { byId, code, h, show } from "./dom.js";
import * as format from "./format.js";
import { bar, frontierPlot, spectrumPlot } from "./plots.js";
import { REASONS } from "./words.js";
import { whatIf } from "./whatif.js";

const PLOTS = 96; // the largest layers; the others are in the table
const STEPS = 200;
const SPEAK_AFTER_MS = 400;

export function exploreView() {
  const frontier = frontierPlot();
  byId("frontier").replaceChildren(frontier.element);
  let run = null;
  let prediction = null; // of the rule chosen
  let cards = [];
  let timer = 0;

  function predicted(rule) {
    if (prediction?.rule !== rule) {
      const ready = whatIf(run.report, run.spectrum, rule, run.request.rank_multiple);
      prediction = { rule, at: ready.at };
      const points = Array.from({ length: STEPS }, (_, i) => (i + 1) / STEPS);
      frontier.setCurve(points.map((tau) => ({ tau, size: sizeShare(ready.at(tau)) })));
    }
    return prediction;
  }

  const sizeShare = (found) => found.parameters / run.report.parameters_before;

  return {
    /** A finished run: `{report, spectrum, request}`. */
    open(found) {
      run = found;
      prediction = null;
      const spectra = new Map(run.spectrum.layers.map((layer) => [layer.name, layer]));
      const known = run.report.layers.map((layer, i) => ({ layer, i, spectrum: spectra.get(layer.name) }))
        .filter(({ spectrum }) => spectrum !== undefined);
      const largest = [...known].sort((a, b) => b.layer.parameters_before - a.layer.parameters_before)
        .slice(0, PLOTS);
      cards = largest.sort((a, b) => a.i - b.i).map(layerCard);
      byId("figures").replaceChildren(...cards.map((card) => card.element));
      byId("figures-left-out").textContent =
        known.length > PLOTS ? `The ${PLOTS} largest of ${known.length} layers.` : "";
      show(byId("explore"), known.length > 0);
    },

    /** Shows the answer for a rule and a threshold; returns it. */
    show(rule, tau) {
      const found = predicted(rule).at(tau);
      for (const card of cards) card.show(found.layers[card.index]);
      frontier.setHere(tau);
      const most = found.exact ? "" : "at most ";
      const before = run.report;
      byId("predicted-parameters").textContent = format.integer(found.parameters);
      byId("predicted-share").textContent = most + format.share(found.parameters, before.parameters_before);
      byId("predicted-bytes").textContent = `${most}${format.bytes(found.bytes)} of ${format.bytes(before.tensor_bytes_before)}`;
      byId("predicted-layers").textContent = String(found.layers.filter((l) => l.factorised).length);
      clearTimeout(timer);
      timer = setTimeout(() => {
        byId("predicted-spoken").textContent =
          `At ${tau}: ${most}${format.share(found.parameters, before.parameters_before)} of the parameters`;
      }, SPEAK_AFTER_MS);
      return found;
    },

    /** Marks the runs made with this rule: `[{tau, size}]`. */
    runs(points) {
      frontier.setRuns(points);
    },
  };
}

function layerCard({ layer, i, spectrum }) {
  const spectra = spectrum.expert_singular_values ?? [spectrum.singular_values];
  const plot = spectrumPlot(spectra);
  const rankBar = bar();
  const shareBar = bar();
  const rankText = h("span", { class: "figure-value", "data-rank": layer.name });
  const shareText = h("span", { class: "figure-value" });
  const note = h("span", { class: "quiet note" });
  const fullRank = Math.min(spectrum.m, spectrum.n);
  const breakEven = Math.floor((spectrum.m * spectrum.n - 1) / (spectrum.m + spectrum.n)) / fullRank;
  const element = h(
    "li", { class: "figure" }, plot.element,
    h("div", { class: "figure-text" },
      h("div", { class: "figure-name" }, code(layer.name), " ", h("span", { class: "quiet" }, format.shape(layer.shape))),
      h("div", { class: "pair" }, h("span", { class: "quiet" }, "Rank"), rankText, rankBar.element),
      h("div", { class: "pair" }, h("span", { class: "quiet" }, "Share"), shareText, shareBar.element),
      note),
  );
  return {
    element,
    index: i,
    show(found) {
      const share = found.parameters / layer.parameters_before;
      plot.setRank(found.factorised ? Math.min(found.rank, fullRank) : null);
      rankText.textContent = found.rank === null ? "–" : `${found.rank} of ${fullRank}`;
      rankBar.set((found.rank ?? fullRank) / fullRank, breakEven);
      shareText.textContent = `${found.exact ? "" : "≤ "}${(100 * share).toFixed(1)} %`;
      shareBar.set(share);
      note.textContent = found.factorised ? "" : `Dense: ${REASONS[found.reason] ?? "as it was"}`;
      element.classList.toggle("dense", !found.factorised);
    },
  };
}
