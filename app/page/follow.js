// A job as it happens: server-sent events over fetch, since EventSource can send no key.

import { Problem, getJob, jobPath, request } from "./api.js";

const ENDED = new Set(["succeeded", "failed", "canceled"]);
const PAUSE_MS = 1000;
const POLL_SECONDS = 2;

/**
 * Calls `onState({state, stage, progress})` and `onLayer(layerReport)`; resolves to the ended Job.
 * A broken connection goes on where it was; where streams do not get through (a buffering proxy),
 * the job itself is asked for instead.
 */
export async function follow(id, { onState, onLayer, signal }) {
  let lastId = null;
  let silent = 0;
  let ended = false;
  while (!ended && silent < 3) {
    try {
      const more = lastId === null ? {} : { "Last-Event-ID": lastId };
      const response = await request(jobPath(id, "/events"), { accept: "text/event-stream", more, signal });
      for await (const event of events(response.body)) {
        silent = 0;
        if (event.id !== null) lastId = event.id;
        if (event.type === "state") onState(JSON.parse(event.data));
        else if (event.type === "layer") onLayer(JSON.parse(event.data));
        else if (event.type === "done") ended = true; // and the stream ends by itself
      }
    } catch (error) {
      if (signal.aborted || (error instanceof Problem && error.status !== 0)) throw error;
    }
    if (!ended) {
      silent += 1;
      await pause(signal);
    }
  }
  return poll(id, onState, signal);
}

async function poll(id, onState, signal) {
  for (;;) {
    const job = await getJob(id, { more: { Prefer: `wait=${POLL_SECONDS}` }, signal });
    if (!ENDED.has(job.state)) onState(job);
    if (ENDED.has(job.state)) return job;
    await pause(signal);
  }
}

function pause(signal) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    setTimeout(resolve, PAUSE_MS);
  });
}

/** The events of a text/event-stream body (HTML standard, 9.2.6). */
export async function* events(body) {
  let rest = "";
  let event = blank();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = blank();
      } else {
        read(line, event);
      }
    }
  }
}

function blank() {
  return { type: "message", data: [], id: null };
}

function read(line, event) {
  const colon = line.indexOf(":");
  if (colon === 0) return; // a comment that keeps the connection alive
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "event") event.type = value;
  else if (name === "data") event.data.push(value);
  else if (name === "id") event.id = value;
}
