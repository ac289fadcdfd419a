// Entry points, routers, services and middlewares, with what is wrong beside them.

import { ask, badge, byId, count, el, redraw, table } from "./dom.js";

const PAGE = 100;

/** Asks for all lists and draws those that changed. */
export async function refresh(overview) {
  const parts = ["entrypoints", "http/routers", "http/services", "http/middlewares"];
  const [entryPoints, routers, services, middlewares] =
    await Promise.all(parts.map((part) => ask(`${part}?per_page=${PAGE}`)));
  redraw(byId("routing-tables"), [entryPoints, routers, services, middlewares, overview.http], () => [
    part("Entry points", "entrypoints", entryPoints, entryPoints.length, ["Name", "Address", "Timeouts", "Status"], (one) => [
      el("strong", {}, one.name),
      el("code", {}, one.address ?? ""),
      one.transport ? `read ${one.transport.respondingTimeouts.readTimeout}, idle ${one.transport.respondingTimeouts.idleTimeout}` : "",
      status(one),
    ]),
    part("Routers", "routers", routers, overview.http.routers.total, ["Name", "Rule", "Entry points", "Service", "Priority", "Status"], (one) => [
      el("strong", {}, one.name),
      el("code", {}, one.rule ?? ""),
      (one.using ?? []).join(", "),
      (one.middlewares?.length ? `${one.middlewares.join(" → ")} → ` : "") + (one.service ?? ""),
      one.priority ?? "",
      status(one),
    ]),
    part("Services", "services", services, overview.http.services.total, ["Name", "Servers", "Used by", "Status"], (one) => [
      el("strong", {}, one.name),
      el("ul", { class: "plain" }, (one.loadBalancer?.servers ?? []).map((server) => el("li", {},
        el("code", {}, server.url), server.weight === 1 ? "" : ` × ${server.weight}`, " ",
        one.serverStatus?.[server.url] === "DOWN" ? badge("bad", "no address") : null))),
      (one.usedBy ?? []).join(", ") || el("span", { class: "note" }, "no router"),
      status(one),
    ]),
    middlewares.length > 0 && part("Middlewares", "middlewares", middlewares, overview.http.middlewares.total, ["Name", "Type", "Sets", "Used by", "Status"], (one) => [
      el("strong", {}, one.name),
      one.type ?? "",
      Object.keys({ ...one.headers?.customRequestHeaders, ...one.headers?.customResponseHeaders }).join(", "),
      (one.usedBy ?? []).join(", "),
      status(one),
    ]),
  ]);
}

function part(title, id, list, total, columns, cells) {
  const more = total > list.length ? `, the first ${count(list.length)} are shown` : "";
  return el("div", { class: "card", id: `part-${id}` },
    el("h3", {}, title, " ", el("span", { class: "note" }, `${count(total)}${more}`)),
    list.length ? table(title, columns, list.map(cells)) : el("p", { class: "empty" }, "None."));
}

function status(one) {
  const kind = { enabled: "good", warning: "warn", disabled: "bad" }[one.status] ?? "quiet";
  return [badge(kind, one.status ?? ""), ...(one.error ?? []).map((text) => el("div", { class: "fault" }, text))];
}
