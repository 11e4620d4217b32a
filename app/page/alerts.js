// An error of the service, in words: what was found, where, and what to send instead.

import { byId, code, h, show, visible } from "./dom.js";

export function showProblem(error) {
  const box = byId("alert");
  const items = (error.errors ?? []).map((item) =>
    h("li", {}, code(item.pointer || "the whole request"), " ", visible(item.detail)));
  byId("alert-title").textContent = error.title ?? "The page failed";
  byId("alert-detail").textContent = visible(error.detail ?? error.message);
  byId("alert-items").replaceChildren(...items);
  byId("alert-instance").textContent = error.instance ? `For the operator: ${error.instance}` : "";
  show(byId("alert-key-hint"), error.status === 401 || error.status === 403);
  if (error.status === 401) byId("key-details").open = true;
  show(box);
  box.focus();
}

export function clearProblem() {
  show(byId("alert"), false);
}
