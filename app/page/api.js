// The public API, and nothing else. Paths are relative to the page, so a proxy's prefix does no harm.

let apiKey = "";

/** Kept in memory: it is gone when the page is. */
export function setApiKey(key) {
  apiKey = key.trim();
}

export function hasApiKey() {
  return apiKey !== "";
}

/** An error of the service (RFC 9457), or of the way to it. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail ?? document.title);
    this.title = document.title ?? "Error";
    this.detail = document.detail ?? "";
    this.status = document.status ?? 0;
    this.errors = document.errors ?? [];
    this.instance = document.instance ?? null;
  }
}

export function unreachable() {
  return new Problem({ title: "No connection", detail: "The service does not answer. Is it running?" });
}

function headers(more = {}) {
  return apiKey ? { Authorization: `Bearer ${apiKey}`, ...more } : more;
}

function problemOf(status, type, text) {
  if (type?.startsWith("application/problem+json")) return new Problem(JSON.parse(text));
  return new Problem({ title: `HTTP status ${status}`, detail: "The answer is not one of this service's.", status });
}

export async function request(path, { method = "GET", accept = "application/json", body, signal, more } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, {
      method, signal, headers: headers({ Accept: accept, ...json, ...more }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) {
    throw problemOf(response.status, response.headers.get("Content-Type"), await response.text());
  }
  return response;
}

const json = async (path, options) => (await request(path, options)).json();
export const jobPath = (id, rest = "") => `v1/jobs/${encodeURIComponent(id)}${rest}`;

export const getJob = (id, options) => json(jobPath(id), options);
export const getReport = (id) => json(jobPath(id, "/report"));
export const getSpectrum = (id) => json(jobPath(id, "/spectrum"));
export const cancelJob = (id) => json(jobPath(id, "/cancel"), { method: "POST" });
export const submitJob = (body) =>
  json("v1/jobs", { method: "POST", body, more: { "Idempotency-Key": crypto.randomUUID?.() ?? randomKey() } });

/** `randomUUID` exists on https and localhost alone. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** A file as an upload. `onProgress(share)`; fetch cannot tell how far a body is, XHR can. */
export function upload(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const http = new XMLHttpRequest();
    http.open("POST", "v1/uploads");
    const named = `attachment; filename*=UTF-8''${encodeURIComponent(file.name.toWellFormed?.() ?? file.name).replace(/['()*]/g, escapeByte)}`;
    const all = headers({ "Content-Type": "application/octet-stream", "Content-Disposition": named });
    for (const [name, value] of Object.entries(all)) http.setRequestHeader(name, value);
    http.upload.onprogress = (event) => event.total && onProgress(event.loaded / event.total);
    http.onload = () => {
      if (http.status === 201) resolve(JSON.parse(http.responseText));
      else reject(problemOf(http.status, http.getResponseHeader("Content-Type"), http.responseText));
    };
    http.onerror = () => reject(unreachable());
    http.onabort = () => reject(new DOMException("The upload was stopped", "AbortError"));
    signal?.addEventListener("abort", () => http.abort());
    http.send(file);
  });
}

function escapeByte(character) {
  return `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
}
