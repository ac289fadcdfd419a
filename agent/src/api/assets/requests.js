// The list of slow and failed requests. A row is drawn once and kept: the list changes around what a person looks at.

import { ago, badge, byId, duration, el, redraw } from "./dom.js";
import { bar, legend } from "./phases.js";

const list = byId("request-list");
const rows = new Map();
let known = { nowMonoNs: 0, requests: [], at: 0 };

/** The request with that trace, of those last seen. */
export function find(traceId, spanId) {
  const all = known.requests.filter((request) => request.trace_id === traceId);
  return all.find((request) => request.span_id === spanId) ?? all[0];
}

/** When a request began, by this browser's clock. */
export function startedAt(request) {
  return new Date(known.at - (known.nowMonoNs - request.start_mono_ns) / 1e6);
}

/** Takes a new answer of `/api/requests`. */
export function update(answer) {
  known = { ...answer, requests: answer.requests ?? [], at: Date.now() };
  draw();
}

/** Draws what the filter lets through. */
function draw() {
  redraw(byId("legend"), "legend", legend);
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = known.requests.filter((request) => {
    const text = searchable(request);
    return words.every((word) => text.includes(word));
  });
  const keys = new Set(shown.map(keyOf));
  for (const [key, row] of rows) {
    if (keys.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
  list.querySelector(".empty")?.remove();
  shown.forEach((request, i) => {
    const key = keyOf(request);
    if (!rows.has(key)) rows.set(key, drawRow(request));
    const row = rows.get(key);
    row.querySelector(".age").textContent = ago((Date.now() - startedAt(request)) / 1000);
    // A row that stands where it should is not touched, so that it keeps its focus.
    if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null);
  });
  if (!shown.length) {
    const text = known.requests.length
      ? "No request fits the filter."
      : "No requests in the last five minutes. Send one through an entry point, and it shows here.";
    list.append(el("li", { class: "empty" }, text));
  }
  const total = known.requests.length;
  byId("requests-note").textContent = total ? `${shown.length} of ${total} · last five minutes, slowest first, then failures` : "";
}

const keyOf = (request) => `${request.trace_id}/${request.span_id}`;

const searchable = (request) =>
  ["path", "host", "name", "method", "status", "service", "router", "entry_point", "upstream", "pod", "dominant", "blame", "coverage", "error", "trace_id"]
    .map((field) => request[field] ?? "").join(" ").toLowerCase();

/** The status with its meaning: none was sent, a failure, or fine. */
export function statusBadge(request) {
  const kind = request.status === 0 || request.status >= 500 ? "bad" : request.status >= 400 ? "warn" : "good";
  return badge(kind, request.status === 0 ? "cut off" : String(request.status), request.error || undefined);
}

/** Whom it passed, in order. */
export const way = (request) =>
  [request.entry_point, request.router, request.service !== request.router && request.service, request.upstream, request.pod]
    .filter(Boolean).join(" → ");

/** What the kernel's probes saw of it. */
export function coverageBadge(coverage = "") {
  const [word] = coverage.split(":");
  const kind = { full: "plain", partial: "warn" }[word] ?? "quiet";
  return badge(kind, `coverage ${word}`, coverage);
}

function drawRow(request) {
  return el("li", {}, el("a", {
    class: "request",
    href: `#trace=${encodeURIComponent(request.trace_id)}&span=${encodeURIComponent(request.span_id)}`,
    dataset: { trace: request.trace_id },
  },
  el("span", { class: "who" },
    el("span", { class: "line" }, statusBadge(request),
      el("strong", {}, request.method), " ", el("span", { class: "path" }, request.path)),
    el("span", { class: "line small" }, el("span", { class: "age" }), " · ", el("span", { class: "host" }, request.host), " · ", way(request))),
  el("span", { class: "where" },
    bar(request),
    el("span", { class: "line small" },
      "mostly ", el("code", {}, request.dominant), " · ", coverageBadge(request.coverage),
      request.error ? badge("bad", request.error) : null,
      request.sampled ? null : badge("quiet", "not sampled"))),
  el("span", { class: "duration" }, duration(request.duration_us))));
}

byId("filter").addEventListener("input", draw);
