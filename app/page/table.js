// Every tensor of a report: searched, filtered and sorted in the page.

import { byId, code, h, scroller } from "./dom.js";
import * as format from "./format.js";
import { outcome } from "./words.js";

const SHOWN = 500;
const COLUMNS = [
  { name: "Tensor", value: (l) => l.name, cell: (l) => code(l.name), text: true },
  { name: "Shape", value: (l) => l.parameters_before, cell: (l) => format.shape(l.shape) },
  { name: "Rank", value: (l) => l.rank ?? -1, cell: (l) => (l.rank === null ? "–" : `${l.rank} of ${l.full_rank}`) },
  { name: "Parameters", value: (l) => l.parameters_after, cell: (l) => format.integer(l.parameters_after) },
  { name: "Share", value: share, cell: (l) => format.share(l.parameters_after, l.parameters_before) },
  { name: "Relative error", value: (l) => l.relative_error ?? -1, cell: (l) => format.number(l.relative_error, 3) },
  { name: "Outcome", value: outcome, cell: (l) => outcome(l), text: true },
];

function share(layer) {
  return layer.parameters_before ? layer.parameters_after / layer.parameters_before : 0;
}

export function tensorTable() {
  const search = byId("search");
  const action = byId("search-action");
  const count = byId("search-count");
  const body = h("tbody");
  const heads = COLUMNS.map((column, i) =>
    h("th", { scope: "col", class: column.text ? "text" : null },
      h("button", { type: "button", class: "sort", onclick: () => sortBy(i) }, column.name)));
  byId("table").replaceChildren(
    scroller("Tensors", h("table", {}, h("thead", {}, h("tr", {}, heads)), body)));
  let layers = [];
  let order = { column: null, down: false };

  function sortBy(i) {
    order = { column: i, down: order.column === i && !order.down };
    heads.forEach((head, j) => {
      if (j === i) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = layers.filter((layer) => {
      if (action.value && layer.action !== action.value) return false;
      const text = `${layer.name} ${layer.dtype} ${outcome(layer)} ${layer.reason ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (order.column !== null) {
      const { value } = COLUMNS[order.column];
      const sign = order.down ? -1 : 1;
      found.sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    }
    body.replaceChildren(...found.slice(0, SHOWN).map(row));
    const more = found.length > SHOWN ? `, the first ${SHOWN} are shown` : "";
    count.textContent = `${found.length} of ${layers.length} tensors${more}`;
  }

  search.addEventListener("input", draw);
  action.addEventListener("change", draw);
  return {
    open(report) {
      layers = [...report.layers];
      draw();
    },
  };
}

function row(layer) {
  return h("tr", {}, COLUMNS.map((column, i) =>
    h(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: column.text ? "text" : null }, column.cell(layer))));
}
