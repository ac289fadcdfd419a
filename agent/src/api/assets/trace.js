// One request whole: its phases as this node saw them, and, where Jaeger has it, the trace of all services.

import { ask, badge, byId, count, duration, el, hideTooltip, micros, tooltip } from "./dom.js";
import { axis, bar, ofSpan, waterfall } from "./phases.js";
import { coverageBadge, find, startedAt, statusBadge, way } from "./requests.js";

const view = byId("trace");
/** Spans of other services come some seconds later: asked again so often, so many times. */
const AGAIN_MS = 2500, TIMES_MAX = 12;
/** More rows than this no person reads, and a phone could not hold. */
const ROWS_MAX = 1500;
let shown = 0;

/** Closes the view: whatever is still asked for it is dropped. */
export function close() {
  shown += 1;
  hideTooltip();
}

/** Opens it. `jaeger` is what `/api/jaeger` last said. */
export async function open(traceId, spanId, jaeger) {
  const mine = (shown += 1);
  const request = find(traceId, spanId);
  const whole = el("div", { id: "whole-trace", "aria-live": "polite" });
  const link = el("span", {});
  const own = el("div", {}, request ? ownPart(request) : null);
  view.replaceChildren(
    el("p", {}, el("a", { href: "#requests" }, "← All requests"), link),
    el("h1", { tabindex: -1 }, request ? request.name : "Trace"),
    el("p", { class: "target" }, el("code", {}, request ? `${request.host}${request.path}` : traceId)),
    own,
    el("h2", {}, "Whole trace"),
    whole);
  view.querySelector("h1").focus({ preventScroll: true });
  scrollTo(0, 0);

  const say = (kind, ...text) => whole.replaceChildren(el("p", { class: `banner ${kind}` }, ...text));
  if (!jaeger?.configured || !jaeger.up) {
    const why = jaeger?.message ?? "Jaeger was not asked yet";
    say("quiet", `No whole trace: ${why}. `, request ? "Above are the phases that this node saw itself. " : "",
      jaeger?.remedy ? `To see all services: ${jaeger.remedy}.` : "");
    return;
  }
  if (request && !request.sampled) {
    say("quiet", "This request was not sampled, so its spans were not sent to Jaeger. Above is what this node saw itself.");
    return;
  }
  if (jaeger.ui) {
    link.replaceChildren(" · ", el("a", { href: `${jaeger.url}/trace/${traceId}`, target: "_blank", rel: "noopener noreferrer" }, "Open in Jaeger's UI ↗"));
  }
  say("quiet", "Asking Jaeger…");
  await follow(traceId, mine, say, (trace) => {
    if (!request) fromJaeger(trace, own);
    whole.replaceChildren(...gantt(trace));
  });
}

async function follow(traceId, mine, say, draw) {
  let spans = 0;
  for (let time = 0; time < TIMES_MAX && mine === shown; time += 1) {
    try {
      const trace = (await ask(`traces/${traceId}`)).data?.[0];
      if (mine !== shown) return;
      if (trace && trace.spans.length !== spans) {
        spans = trace.spans.length;
        draw(trace);
      }
    } catch (error) {
      if (mine !== shown) return;
      const again = error.status === 404 && time + 1 < TIMES_MAX;
      if (!spans) say(again ? "quiet" : "warn", `${error.message}. ${again ? "Asking again…" : (error.remedy ?? "")}`);
      if (!again && !spans) return;
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

/** What this node knows of the request by itself. */
function ownPart(request) {
  const facts = [
    ["Status", statusBadge(request)],
    ["Duration", `${duration(request.duration_us)} (${micros(request.duration_us)})`],
    ["Mostly", el("code", {}, request.dominant)],
    ["Coverage", coverageBadge(request.coverage)],
    ["Began", startedAt(request).toLocaleTimeString()],
    ["Way", way(request)],
    request.attempts > 1 && ["Attempts", String(request.attempts)],
    request.error && ["Error", badge("bad", request.error)],
    ["Trace", el("code", {}, request.trace_id)],
  ].filter(Boolean);
  const missing = request.coverage?.includes(":") ? el("p", { class: "note" }, `Coverage ${request.coverage}.`) : null;
  return [
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("h2", {}, "Where the time went"),
    el("div", { class: "card", id: "phases" }, bar(request), waterfall(request), missing),
  ];
}

/** The same from our span in Jaeger, for a request that is no more among the recent ones. */
function fromJaeger(trace, own) {
  const has = (span, key, value) => span.tags.some((tag) => tag.key === key && (value === undefined || tag.value === value));
  const span = trace.spans.find((one) => has(one, "wayspan.dominant_phase") && has(one, "span.kind", "server"));
  const known = span && ofSpan(span.tags, span.duration);
  if (!known) return;
  view.querySelector("h1").textContent = span.operationName;
  own.replaceChildren(el("h2", {}, "Where the time went"),
    el("div", { class: "card", id: "phases" }, bar(known), waterfall(known)));
}

/** All spans on one time axis, children below their parents. */
function gantt(trace) {
  const spans = trace.spans.map((span) => ({ ...span, service: trace.processes[span.processID]?.serviceName ?? "?" }));
  const start = Math.min(...spans.map((span) => span.startTime));
  const whole = Math.max(1, ...spans.map((span) => span.startTime + span.duration - start));
  const rows = tree(spans);
  const services = [...new Set(rows.map(({ span }) => span.service))];
  const hue = new Map(services.map((name, i) => [name, i % 8]));
  const warnings = spans.reduce((sum, span) => sum + (span.warnings?.length ?? 0), 0);
  const context = { start, whole, hue, processes: trace.processes };
  return [
    el("p", { class: "note", id: "trace-summary" }, `${count(spans.length)} spans of ${count(services.length)} services, ${duration(whole)}`,
      warnings ? ` · ${warnings} warnings` : ""),
    el("ul", { class: "legend" }, services.map((name) => el("li", {}, el("span", { class: `swatch service-${hue.get(name)}` }), name))),
    el("div", { class: "card gantt" },
      el("div", { class: "gantt-head", "aria-hidden": "true" }, el("span", {}, "Service and operation"), axis(whole), el("span", { class: "number" }, "Duration")),
      el("ol", { class: "spans" }, rows.slice(0, ROWS_MAX).map((row) => drawSpan(row, context))),
      rows.length > ROWS_MAX ? el("p", { class: "note" }, `${count(rows.length - ROWS_MAX)} more spans are not shown; open the trace in Jaeger.`) : null),
  ];
}

/** Spans in the order of a tree, each with its depth. A parent that is not there makes a root. */
function tree(spans) {
  const ids = new Set(spans.map((span) => span.spanID));
  const children = new Map();
  for (const span of spans) {
    const parent = span.references?.find(({ refType, spanID }) => refType === "CHILD_OF" && ids.has(spanID) && spanID !== span.spanID)?.spanID ?? "";
    children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  const rows = [], seen = new Set();
  const pending = [{ key: "", depth: 0 }];
  // A stack of its own: a chain of ten thousand spans must not end the browser's.
  const push = (key, depth) => {
    const list = (children.get(key) ?? []).sort((a, b) => b.startTime - a.startTime);
    pending.push(...list.map((span) => ({ span, depth })));
  };
  pending.pop();
  push("", 0);
  while (pending.length) {
    const { span, depth } = pending.pop();
    if (seen.has(span)) continue;
    seen.add(span);
    rows.push({ span, depth });
    push(span.spanID, depth + 1);
  }
  // Circles of parents reach no root.
  spans.filter((span) => !seen.has(span)).forEach((span) => rows.push({ span, depth: 0 }));
  return rows;
}

function drawSpan({ span, depth }, context) {
  const { start, whole, hue } = context;
  const details = el("div", { class: "span-details", hidden: true });
  const error = span.tags.some(({ key, value }) => key === "error" && value === true);
  const left = (100 * (span.startTime - start)) / whole, wide = (100 * span.duration) / whole;
  const phases = ofSpan(span.tags, span.duration);
  const mark = el("span", {
    class: phases ? "mark phased" : `mark service-${hue.get(span.service)}`,
    style: { left: `${left}%`, width: `${wide}%` },
  }, phases ? bar(phases) : null);
  const row = el("button", {
    type: "button", class: "span-row", "aria-expanded": "false",
    dataset: { service: span.service, operation: span.operationName },
    on: {
      click: () => {
        const opening = details.hidden;
        if (opening && !details.firstChild) details.append(...spanDetails(span, context));
        details.hidden = !opening;
        row.setAttribute("aria-expanded", String(opening));
      },
    },
  },
  el("span", { class: "span-name", style: { "padding-left": `${Math.min(depth, 12) * 14}px` } },
    el("span", { class: `swatch service-${hue.get(span.service)}` }),
    el("strong", {}, span.service), " ", span.operationName,
    error ? badge("bad", "error") : null,
    span.warnings?.length ? badge("warn", "warning") : null),
  el("span", { class: "track" }, mark),
  el("span", { class: "number" }, duration(span.duration)));
  if (!phases) tooltip(mark, () => [`${span.service}: ${span.operationName}`, `${micros(span.duration)}, after ${micros(span.startTime - start)}`]);
  return el("li", {}, row, details);
}

function spanDetails(span, { start, processes }) {
  const pairs = (title, list) => list?.length ? el("div", {}, el("h3", {}, title),
    el("dl", { class: "pairs" }, list.map(({ key, value }) => el("div", {}, el("dt", {}, key),
      el("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)))))) : null;
  const logs = (span.logs ?? []).map(({ timestamp, fields }) => el("li", {},
    el("strong", {}, `+${duration(Math.max(0, timestamp - start))}`), " ",
    fields.map(({ key, value }) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ")));
  return [
    ...(span.warnings ?? []).map((text) => el("p", { class: "banner warn" }, text)),
    pairs("Attributes", [...span.tags].sort((a, b) => a.key.localeCompare(b.key))) ?? el("div"),
    el("div", {}, [
      pairs("Span", [
        { key: "started after", value: micros(span.startTime - start) },
        { key: "duration", value: micros(span.duration) },
        { key: "span id", value: span.spanID },
      ]),
      pairs("Process", processes[span.processID]?.tags),
      logs.length ? el("div", {}, el("h3", {}, "Events"), el("ol", { class: "logs" }, logs)) : null,
    ]),
  ].filter(Boolean);
}
