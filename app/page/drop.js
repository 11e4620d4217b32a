// A place for a file: dropped, picked, or reached by the keyboard (the input itself takes the focus).

import { byId, show, visible } from "./dom.js";
import { upload } from "./api.js";
import * as format from "./format.js";

/**
 * `id` names the zone; its input is `<id>-file`, its status line `<id>-status`. A file is uploaded at
 * once, so that one which is no checkpoint is refused at once. `onChange({file, upload})` is called
 * with nulls while there is none; `onError(problem)`.
 */
export function dropZone(id, { onChange, onError }) {
  const zone = byId(id);
  const input = byId(`${id}-file`);
  const status = byId(`${id}-status`);
  const progress = byId(`${id}-progress`);
  const clear = byId(`${id}-clear`);
  let running = null;

  async function take(file) {
    running?.abort();
    const mine = new AbortController();
    running = mine;
    onChange({ file: null, upload: null });
    status.textContent = `Uploading ${visible(file.name)}, ${format.bytes(file.size)}`;
    progress.value = 0;
    show(progress);
    show(clear);
    if (document.activeElement === input) clear.focus(); // the input gives way to it
    zone.dataset.state = "busy";
    try {
      const made = await upload(file, (share) => (progress.value = share), mine.signal);
      if (running !== mine) return;
      zone.dataset.state = "full";
      status.textContent = described(file, made);
      onChange({ file, upload: made });
    } catch (error) {
      if (running !== mine || error.name === "AbortError") return;
      reset();
      onError(error);
    } finally {
      if (running === mine) show(progress, false);
    }
  }

  function reset() {
    running?.abort();
    running = null;
    input.value = "";
    delete zone.dataset.state;
    status.textContent = status.dataset.empty;
    show(progress, false);
    show(clear, false);
    onChange({ file: null, upload: null });
  }

  status.dataset.empty = status.textContent;
  input.addEventListener("change", () => input.files[0] && take(input.files[0]));
  clear.addEventListener("click", () => {
    reset();
    input.focus();
  });
  for (const type of ["dragenter", "dragover"]) {
    zone.addEventListener(type, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) {
    zone.addEventListener(type, () => zone.classList.remove("over"));
  }
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
}

function described(file, made) {
  const parts = [visible(file.name), format.bytes(made.size_bytes), made.format.replaceAll("_", " ")];
  if (made.tensors) parts.push(`${format.integer(made.tensors.length)} tensors`);
  return parts.join(", ");
}
