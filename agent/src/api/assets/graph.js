// The dependency graph: who calls whom, how often. Layers from left to right, calls backwards bend round below.

import { count, el, svg } from "./dom.js";

const HEIGHT = 38, ROW = 62, GAP = 120, PAD = 16;

/** Draws Jaeger's edges `{parent, child, callCount}`; nodes that are the ingress itself stand out. */
export function graph(edges, own) {
  const between = edges.filter(({ parent, child }) => parent !== child);
  const self = new Map(edges.filter(({ parent, child }) => parent === child).map((edge) => [edge.parent, edge.callCount]));
  const names = [...new Set(edges.flatMap(({ parent, child }) => [parent, child]))].sort();
  const { layers, place, bends } = layout(names, between);
  const columns = layers.map((layer) => Math.max(...layer.map((node) => width(node)), 60));
  const left = columns.map((_, i) => PAD + columns.slice(0, i).reduce((sum, wide) => sum + wide + GAP, 0));
  const tall = Math.max(...layers.map((layer) => layer.length));
  const size = { width: left.at(-1) + columns.at(-1) + PAD, height: tall * ROW + PAD };
  const at = (node) => {
    const { layer, row } = place.get(node);
    const shift = ((tall - layers[layer].length) * ROW) / 2;
    return { x: left[layer], y: PAD / 2 + shift + row * ROW + ROW / 2, w: typeof node === "string" ? width(node) : columns[layer] };
  };
  const most = Math.max(...between.map((edge) => edge.callCount), 1);
  const drawing = svg("svg", {
    class: "graph", role: "img", viewBox: `0 0 ${size.width} ${size.height}`, width: size.width, height: size.height,
    "aria-label": `Dependency graph: ${edges.map((edge) => `${edge.parent} calls ${edge.child} ${edge.callCount} times`).join("; ")}`,
  },
  svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse", markerUnits: "userSpaceOnUse" },
    svg("path", { d: "M0 0 8 4 0 8z", class: "arrow" }))),
  between.map((edge) => drawEdge(edge, at, bends.get(edge), size, most)),
  names.map((name) => {
    const { x, y, w } = at(name);
    return svg("g", { class: name === own ? "node own" : "node", "data-service": name },
      svg("rect", { x, y: y - HEIGHT / 2, width: w, height: HEIGHT, rx: 8 }),
      svg("text", { x: x + w / 2, y: self.has(name) ? y - 2 : y + 5, "text-anchor": "middle" }, short(name)),
      self.has(name) && svg("text", { x: x + w / 2, y: y + 13, "text-anchor": "middle", class: "self" }, `↻ ${count(self.get(name))} inside`),
      svg("title", {}, name));
  }));
  const rows = edges.map((edge) => el("tr", {}, el("td", {}, edge.parent), el("td", {}, edge.child), el("td", { class: "number" }, count(edge.callCount))));
  return [
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Dependency graph, scrolls sideways" }, drawing),
    el("details", {}, el("summary", {}, "As a table"), el("table", { class: "calls", "aria-label": "Calls between services" },
      el("thead", {}, el("tr", {}, ["Caller", "Called", "Calls"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows))),
  ];
}

const short = (name) => (name.length > 24 ? `${name.slice(0, 23)}…` : name);
const width = (node) => (typeof node === "string" ? Math.max(96, short(node).length * 8 + 32) : 0);

function drawEdge(edge, at, bends, size, most) {
  const from = at(edge.parent), to = at(edge.child);
  const points = [{ x: from.x + from.w, y: from.y }, ...(bends ?? []).flatMap((bend) => {
    const { x, y, w } = at(bend);
    return [{ x, y }, { x: x + w, y }];
  }), { x: to.x - 2, y: to.y }];
  let path, label;
  if (to.x > from.x) {
    path = `M${points[0].x} ${points[0].y}`;
    for (let i = 1; i < points.length; i += 1) {
      const [a, b] = [points[i - 1], points[i]];
      const middle = (a.x + b.x) / 2;
      path += i % 2 ? `C${middle} ${a.y} ${middle} ${b.y} ${b.x} ${b.y}` : `L${b.x} ${b.y}`;
    }
    const [a, b] = points.slice(-2);
    label = { x: a.x + (b.x - a.x) * 0.62, y: a.y + (b.y - a.y) * 0.69 };
  } else {
    const low = Math.min(Math.max(from.y, to.y) + ROW * 0.8, size.height - 6);
    path = `M${from.x + from.w} ${from.y}C${from.x + from.w + 60} ${low} ${to.x - 60} ${low} ${to.x - 2} ${to.y}`;
    label = { x: (from.x + from.w + to.x) / 2, y: low - 12 };
  }
  return svg("g", { class: "edge", "data-parent": edge.parent, "data-child": edge.child, "data-calls": edge.callCount },
    svg("path", { d: path, "marker-end": "url(#arrow)", "stroke-width": (1.2 + 2 * Math.log1p(edge.callCount) / Math.log1p(most)).toFixed(2) }),
    svg("text", { x: label.x, y: label.y + 4, "text-anchor": "middle" }, count(edge.callCount)),
    svg("title", {}, `${edge.parent} → ${edge.child}: ${count(edge.callCount)} calls`));
}

/** Layers by the longest way from a root; an edge over several layers gets a bend in each between. */
function layout(names, edges) {
  const calls = new Map(names.map((name) => [name, []]));
  for (const edge of edges) calls.get(edge.parent).push(edge.child);
  const called = new Set(edges.map((edge) => edge.child));
  const level = new Map(), open = new Set(), order = [];
  const back = new Set();
  // Depth first: an edge to a node whose visit is open closes a circle, and is left out of the layering.
  const visit = (name) => {
    if (level.has(name)) return;
    level.set(name, 0);
    open.add(name);
    for (const next of calls.get(name)) {
      if (open.has(next)) back.add(`${name}\n${next}`);
      else visit(next);
    }
    open.delete(name);
    order.unshift(name);
  };
  names.filter((name) => !called.has(name)).forEach(visit);
  names.forEach(visit);
  for (const name of order) {
    for (const next of calls.get(name)) {
      if (!back.has(`${name}\n${next}`)) level.set(next, Math.max(level.get(next), level.get(name) + 1));
    }
  }
  const layers = [];
  const put = (node, layer) => (layers[layer] ??= []).push(node);
  names.forEach((name) => put(name, level.get(name)));
  const bends = new Map(), links = [];
  for (const edge of edges) {
    const [from, to] = [level.get(edge.parent), level.get(edge.child)];
    const list = [];
    for (let layer = from + 1; layer < to; layer += 1) {
      const bend = { edge, layer };
      list.push(bend);
      put(bend, layer);
    }
    if (list.length) bends.set(edge, list);
    if (to > from) [edge.parent, ...list, edge.child].reduce((a, b) => (links.push([a, b]), b));
  }
  return { layers, place: orderRows(layers, links), bends };
}

/** Orders each layer by the middle of its neighbours, some times back and forth: fewer crossings. */
function orderRows(layers, links) {
  const place = new Map();
  const settle = () => layers.forEach((layer, i) => layer.forEach((node, row) => place.set(node, { layer: i, row })));
  settle();
  const middle = (node, side) => {
    const rows = links.filter((link) => link[1 - side] === node).map((link) => place.get(link[side]).row);
    return rows.length ? rows.reduce((sum, row) => sum + row, 0) / rows.length : place.get(node).row;
  };
  for (let round = 0; round < 6; round += 1) {
    const side = round % 2;
    for (const layer of side ? [...layers].reverse() : layers) {
      const keys = new Map(layer.map((node) => [node, middle(node, side)]));
      layer.sort((a, b) => keys.get(a) - keys.get(b));
      settle();
    }
  }
  return place;
}
