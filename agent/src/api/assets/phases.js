// Where a request's time went: the vocabulary of phases and blame, the stacked bar of a list, the waterfall of a view.

import { count, duration, el, micros, percent, tooltip } from "./dom.js";

/** Blame groups in the order of the legend. */
export const BLAME = {
  client: ["Client", "The client was sending, reading or silent."],
  proxy_queue: ["Queue before the proxy", "Bytes were readable in the kernel, and the proxy had not read them yet."],
  proxy: ["Proxy", "The proxy's own work."],
  auth: ["Middleware calls", "A middleware asked another service."],
  upstream: ["Upstream, undivided", "Network, the backend's queues and its code together: what divides them was not seen."],
  upstream_network: ["Network to the backend", "Name lookup, connecting, TLS, and the way there and back."],
  backend_queue: ["Queue before the backend", "Bytes had arrived at the backend, and it had not read them yet."],
  backend: ["Backend", "The backend's own work."],
};

/** What each phase is, for a person who sees its name for the first time. */
const PHASES = {
  accept_wait: "the new connection waited in the kernel for the proxy to accept it",
  client_send: "the client was still sending the request's head",
  read_wait: "the head lay in the kernel until the proxy read it",
  pipeline_wait: "an earlier request on the same connection was answered first",
  proxy_request: "the proxy chose a route and ran its middlewares",
  middleware_wait: "a middleware waited for another service's answer, or kept the request waiting",
  retry_wait: "earlier attempts at the backend",
  pool_wait: "no connection to the backend was free",
  upstream_dns: "the backend's name was looked up",
  upstream_connect: "the connection to the backend was opened",
  upstream_tls: "TLS with the backend",
  upstream_write: "the head was written to the backend",
  upstream_path_out: "the request was on its way to the backend's socket",
  backend_pickup: "the request lay in the kernel until the backend read it",
  backend_app: "the backend worked until its first byte",
  upstream_path_back: "the answer was on its way back",
  upstream_wait: "from the request sent to the answer's first byte in our kernel",
  upstream_read_wait: "the answer lay in the kernel until the proxy read it",
  proxy_response: "the proxy passed the answer on",
  upstream_body: "waiting for more of the answer's body",
  client_drain: "the client's socket took no more",
  client_body: "waiting for more of the request's body",
  upstream_drain: "the backend's socket took no more",
  tunnel: "an upgraded connection carried data both ways",
};

const blameName = (blame) => BLAME[blame]?.[0] ?? blame;
const blameClass = (blame) => (BLAME[blame] ? `blame-${blame}` : "blame-upstream");

/** The groups with their colours. */
export function legend() {
  return Object.entries(BLAME).map(([key, [name, what]]) =>
    el("li", { title: what }, el("span", { class: `swatch ${blameClass(key)}` }), name));
}

/** The parts of a request in order of time: stretches where they are known, else the phases one after another. */
function parts(request) {
  if (request.stretches?.length) return request.stretches;
  let at = 0;
  return (request.phases ?? []).map(({ name, blame, us }) => ({ name, blame, from_us: at, to_us: (at += us) }));
}

/** The phases of a request in words, for those who cannot see the bar. */
function inWords(request) {
  const list = (request.phases ?? []).filter(({ us }) => us > 0).sort((a, b) => b.us - a.us);
  return list.map(({ name, us }) => `${name} ${micros(us)}`).join(", ");
}

/** One bar of the whole duration, divided by phase. */
export function bar(request) {
  const whole = request.duration_us;
  const segments = parts(request).map(({ name, blame, from_us: from, to_us: to }) => {
    const segment = el("span", {
      class: `segment ${blameClass(blame)}`,
      dataset: { phase: name },
      style: { "flex-grow": Math.max(to - from, whole / 500) },
    });
    tooltip(segment, () => [name, `${micros(to - from)} · ${percent(to - from, whole)}`, blameName(blame), PHASES[name] ?? ""]);
    return segment;
  });
  return el("span", { class: "bar", role: "img", "aria-label": `Phases: ${inWords(request) || "none known"}` }, segments);
}

/** The waterfall: a row for each phase, on one time axis. */
export function waterfall(request) {
  const whole = Math.max(request.duration_us, 1);
  const stretches = parts(request);
  const rows = (request.phases ?? []).filter(({ us }) => us > 0).map(({ name, blame, us }) => {
    const own = stretches.filter((stretch) => stretch.name === name);
    const marks = own.map(({ from_us: from, to_us: to }) => {
      const mark = el("span", {
        class: `mark ${blameClass(blame)}`,
        style: { left: `${(100 * from) / whole}%`, width: `${(100 * (to - from)) / whole}%` },
      });
      tooltip(mark, () => [name, `${micros(from)} to ${micros(to)}`, micros(to - from)]);
      return mark;
    });
    return el("tr", { dataset: { phase: name } },
      el("th", { scope: "row" }, el("code", {}, name), el("span", { class: "what" }, PHASES[name] ?? "")),
      el("td", { class: "who" }, el("span", { class: `swatch ${blameClass(blame)}` }), blameName(blame)),
      el("td", { class: "lane" }, el("div", { class: "track", "aria-hidden": "true" }, marks)),
      el("td", { class: "number" }, count(us)),
      el("td", { class: "number" }, percent(us, whole)));
  });
  const sum = (request.phases ?? []).reduce((total, { us }) => total + us, 0);
  return el("table", { class: "waterfall", "aria-label": "Phases of the request" },
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "Phase"),
      el("th", { scope: "col" }, "Whose doing"),
      el("th", { scope: "col", class: "lane" }, axis(whole)),
      el("th", { scope: "col", class: "number" }, "µs"),
      el("th", { scope: "col", class: "number" }, "Share"))),
    el("tbody", {}, rows),
    el("tfoot", {}, el("tr", {},
      el("th", { scope: "row" }, "Sum"), el("td"), el("td", { class: "lane" }),
      el("td", { class: "number" }, count(sum)), el("td", { class: "number" }, percent(sum, whole)))));
}

/** Marks of time over a lane. */
export function axis(whole) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) =>
    el("span", { style: { left: `${at * 100}%` } }, at === 0 ? "0" : duration(Math.round(whole * at))));
  return el("div", { class: "axis" }, ticks);
}

/** What an agent of ours says of a span in its attributes, in the shape of a recent request's phases. */
export function ofSpan(tags, durationUs) {
  const order = Object.keys(PHASES);
  const phases = tags
    .filter(({ key }) => key.startsWith("wayspan.phase."))
    .map(({ key, value }) => ({ name: key.slice("wayspan.phase.".length), us: Number(value) }))
    .filter(({ name, us }) => us > 0 && name in PHASES)
    .map(({ name, us }) => ({ name, us, blame: blameOf(name) }))
    .sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  return phases.length ? { duration_us: durationUs, phases, stretches: [] } : null;
}

function blameOf(name) {
  const groups = {
    client: ["client_send", "pipeline_wait", "client_drain", "client_body"],
    proxy_queue: ["accept_wait", "read_wait", "upstream_read_wait"],
    proxy: ["proxy_request", "pool_wait", "upstream_write", "proxy_response"],
    auth: ["middleware_wait"],
    upstream_network: ["upstream_dns", "upstream_connect", "upstream_tls", "upstream_path_out", "upstream_path_back"],
    backend_queue: ["backend_pickup"],
    backend: ["backend_app", "upstream_body", "upstream_drain"],
  };
  return Object.keys(groups).find((group) => groups[group].includes(name)) ?? "upstream";
}
