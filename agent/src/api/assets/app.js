// The page: asks the api again and again, and hands what it says to the parts that draw it.

import { ask, badge, byId, count, el, redraw, table } from "./dom.js";
import { graph } from "./graph.js";
import * as requests from "./requests.js";
import * as routing from "./routing.js";
import * as trace from "./trace.js";

const HOUR_MS = 3600 * 1000;
const state = { paused: false, overview: null, status: null, jaeger: null, away: null };

/** Each question with its rhythm. */
const questions = [
  { every: 2000, run: async () => requests.update(await ask("requests")) },
  { every: 4000, run: refreshNode },
  { every: 8000, run: refreshJaeger },
];

async function refreshNode() {
  [state.overview, state.status] = await Promise.all([ask("overview"), ask("status")]);
  drawFeatures();
  drawNode();
  await routing.refresh(state.overview);
}

async function refreshJaeger() {
  const before = state.jaeger;
  state.jaeger = await ask("jaeger");
  drawFeatures();
  // A view that was opened before Jaeger was known, or while it was away, gets what it lacked.
  if (before?.up !== state.jaeger.up && !byId("trace").hidden) show();
  await drawMap();
}

/** The tiles at the top: what is on. */
function drawFeatures() {
  const { overview, status, jaeger } = state;
  if (!overview || !status) return;
  redraw(byId("features"), [overview.features, status.tracing, status.probes, status.spans, jaeger], () => [
    tracingTile(overview, status),
    probesTile(probeList(status.probes)),
    jaegerTile(jaeger),
    spansTile(status.spans),
    overview.features.metrics
      ? tile("metrics", "Metrics", "On", "good", [`${overview.features.metrics}, at `, el("a", { href: "../metrics" }, "/metrics")])
      : tile("metrics", "Metrics", "Off", "quiet", ["add metrics.prometheus"]),
  ]);
}

function tile(id, title, value, kind, text) {
  return el("div", { class: `tile ${kind}`, dataset: { feature: id } },
    el("h2", {}, title), el("p", { class: "value" }, value), el("p", { class: "note" }, text));
}

function tracingTile(overview, { tracing }) {
  if (!overview.features.tracing) return tile("tracing", "Tracing", "Off", "quiet", ["add a tracing section"]);
  const rate = tracing?.samplingServer ? "sampled as Jaeger says" : `${+((tracing?.sampleRate ?? 1) * 100).toFixed(3)} % sampled`;
  const to = tracing?.otlp ? `OTLP/${tracing.otlp.protocol} to ${tracing.otlp.endpoint.replace(/^https?:\/\//, "")}` : "sent nowhere";
  return tile("tracing", "Tracing", "On", "good", [`${overview.features.tracing} · ${rate} · ${to}`]);
}

const probeList = (probes) => (Array.isArray(probes) ? probes : (probes?.probes ?? []));

function probesTile(probes) {
  const on = probes.filter((probe) => probe.on).length;
  if (!probes.length) return tile("probes", "Kernel probes", "Off", "quiet", ["none are loaded"]);
  const lacking = probes.find((probe) => probe.lacking);
  const text = on ? `${on} of ${probes.length} on` : "Off";
  if (lacking) return tile("probes", "Kernel probes", text, "warn", [lacking.why ?? ""]);
  return tile("probes", "Kernel probes", text, on ? "good" : "quiet", [on ? "kernel queues are seen" : probes[0].why ?? ""]);
}

function jaegerTile(jaeger) {
  if (!jaeger) return tile("jaeger", "Jaeger", "…", "quiet", [""]);
  if (!jaeger.configured) return tile("jaeger", "Jaeger", "Not set", "quiet", ["set api.jaegerQuery"]);
  if (!jaeger.up) return tile("jaeger", "Jaeger", "Away", "warn", [jaeger.message ?? ""]);
  const where = jaeger.url.replace(/^https?:\/\//, "");
  return tile("jaeger", "Jaeger", "Connected", "good", jaeger.ui
    ? [el("a", { href: jaeger.url, target: "_blank", rel: "noopener noreferrer" }, `${where} ↗`)]
    : [`${where} · traces open here`]);
}

function spansTile(spans) {
  const { made, lost = 0 } = spans ?? {};
  const rest = ["sent", "pending", "lost"].filter((name) => spans?.[name] !== undefined).map((name) => `${count(spans[name])} ${name}`);
  return tile("spans", "Spans", made === undefined ? "–" : `${count(made)} made`, lost > 0 ? "warn" : "good", [rest.join(" · ")]);
}

/** The dependency graph of the last hour. */
async function drawMap() {
  const place = byId("graph");
  const nothing = (text) => redraw(place, text, () => el("p", { class: "empty card" }, text));
  byId("map-note").textContent = "";
  if (!state.jaeger.up) {
    nothing(`The dependency graph comes from Jaeger: ${state.jaeger.message}. To see it: ${state.jaeger.remedy}.`);
    return;
  }
  try {
    // A little ahead, so that spans that end just now are inside.
    const edges = (await ask(`dependencies?endTs=${Date.now() + 60000}&lookback=${HOUR_MS}`)).data ?? [];
    if (!edges.length) {
      nothing("No calls between services in the last hour.");
      return;
    }
    byId("map-note").textContent = "calls of the last hour, from Jaeger";
    edges.sort((a, b) => a.parent.localeCompare(b.parent) || a.child.localeCompare(b.child));
    redraw(place, edges, () => el("div", { class: "card" }, graph(edges, state.status?.tracing?.serviceName)));
  } catch (error) {
    if (error.away) throw error;
    nothing(`${error.message}. ${error.remedy ?? ""}`);
  }
}

/** Probes, counters and faults. */
function drawNode() {
  const { status } = state;
  byId("about").textContent = [`v${status.version}`, status.kernel && `Linux ${status.kernel}`].filter(Boolean).join(" · ");
  const probes = probeList(status.probes);
  const spans = Object.entries(status.spans ?? {});
  redraw(byId("node-tables"), [probes, spans], () => [
    el("div", { class: "card", id: "part-probes" }, el("h3", {}, "Kernel probes"), probes.length
      ? table("Kernel probes", ["Tracepoint", "Tells", "State"], probes.map((probe) => [
        el("code", {}, probe.tracepoint ?? probe.name ?? ""),
        probe.tells ?? "",
        probe.on ? badge("good", "on") : [
          badge(probe.lacking ? "warn" : "quiet", "off"),
          el("div", { class: "fault" }, [probe.why, probe.remedy].filter(Boolean).join(": ")),
        ],
      ]))
      : el("p", { class: "empty" }, "None.")),
    el("div", { class: "card", id: "part-spans" }, el("h3", {}, "Spans"),
      el("dl", { class: "facts" }, spans.map(([name, value]) =>
        el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "number" ? count(value) : String(value)))))),
  ]);
  drawBanners();
}

function drawBanners() {
  const faults = state.status?.faults ?? [];
  redraw(byId("banners"), [state.away, faults, state.status?.draining], () => [
    state.away && el("p", { class: "banner bad" }, `Not connected: ${state.away}. Trying again.`),
    state.status?.draining && el("p", { class: "banner warn" }, "This node is draining: it finishes its requests and ends."),
    faults.length > 0 && el("details", { class: "banner warn", id: "faults" },
      el("summary", {}, `The configuration has ${faults.length === 1 ? "a fault" : `${count(faults.length)} faults`}; what is good is served`),
      el("ul", {}, faults.slice(0, 100).map((fault) => el("li", {}, el("code", {}, fault))))),
  ]);
}

/** Shows the view that the address names. */
function show() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const id = parameters.get("trace");
  const isTrace = /^[0-9a-f]{1,32}$/i.test(id ?? "");
  byId("home").hidden = isTrace;
  byId("trace").hidden = !isTrace;
  if (isTrace) {
    trace.open(id, parameters.get("span"), state.jaeger);
    return;
  }
  trace.close();
  // The browser could not go there while it was hidden.
  if (location.hash.length > 1) byId(location.hash.slice(1))?.scrollIntoView();
}

function pauseOrGoOn() {
  state.paused = !state.paused;
  const button = byId("pause");
  button.setAttribute("aria-pressed", String(state.paused));
  button.textContent = state.paused ? "Go on" : "Pause";
  if (!state.paused) questions.forEach((question) => question.now?.());
}

async function repeat(question) {
  for (;;) {
    if (!state.paused && !document.hidden) {
      try {
        await question.run();
        state.away = null;
      } catch (error) {
        state.away = error.away ? error.message : `${error.message} ${error.remedy ?? ""}`.trim();
      }
      drawBanners();
    }
    await new Promise((done) => {
      question.now = done;
      setTimeout(done, question.every);
    });
  }
}

byId("pause").addEventListener("click", pauseOrGoOn);
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => document.hidden || questions.forEach((question) => question.now?.()));
// The list comes before a view of one of its requests. Jaeger's answer may take seconds; a view is drawn again with it.
await ask("requests").then(requests.update, () => {});
show();
questions.forEach(repeat);
