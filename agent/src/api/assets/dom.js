// Elements, formats and questions to the api. Text becomes text here and nothing else: no markup is ever parsed, so
// whatever a request carried in its path cannot become an element.

/** An element with properties (`class`, `dataset`, `on`, attributes) and children: nodes, or text. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    // The style object, not the attribute: the page's policy forbids inline styles that are parsed.
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Draws again only where what is shown has changed, so that focus, selection and scrolling stay. */
export function redraw(node, shown, draw) {
  const key = JSON.stringify(shown);
  if (node.shownAs === key) return;
  node.shownAs = key;
  node.replaceChildren(...[draw()].flat().filter(Boolean));
}

/** Asks the api; an error carries what the api said. */
export async function ask(path) {
  let response;
  try {
    response = await fetch(`../api/${path}`, { signal: AbortSignal.timeout(15000), cache: "no-store" });
  } catch {
    throw Object.assign(new Error("the agent does not answer"), { away: true });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const { message = `the agent answers ${response.status}`, remedy = "" } = body;
  throw Object.assign(new Error(message), { status: response.status, remedy });
}

const numbers = new Intl.NumberFormat("en");

export const count = (value) => numbers.format(value);
export const micros = (us) => `${numbers.format(us)} µs`;

/** A duration as a person says it: three digits and a unit. */
export function duration(us) {
  const three = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${three(us / 1000)} ms`;
  return `${three(us / 1e6)} s`;
}

export const percent = (part, whole) => {
  const share = whole > 0 ? (100 * part) / whole : 0;
  return share > 0 && share < 0.1 ? "<0.1 %" : `${share.toFixed(share < 10 ? 1 : 0)} %`;
};

export function ago(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/** A table that turns into cards on a phone: each cell knows its column. */
export function table(label, columns, rows) {
  return el("table", { "aria-label": label },
    el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) =>
      el("td", { dataset: { label: columns[i] } }, el("div", {}, cell)))))));
}

/** A small word with a colour: `good`, `warn`, `bad` or `quiet`. */
export const badge = (kind, text, title) => el("span", { class: `badge ${kind}`, title }, text);

const tip = byId("tooltip");

/** Shows text beside the pointer while it is over the node. */
export function tooltip(node, lines) {
  node.addEventListener("pointerenter", () => {
    tip.replaceChildren(...lines().map((line, i) => el(i ? "div" : "strong", {}, line)));
    tip.hidden = false;
  });
  node.addEventListener("pointermove", (event) => {
    const { offsetWidth: width, offsetHeight: height } = tip;
    const left = Math.min(event.clientX + 14, innerWidth - width - 8);
    const top = event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  });
  node.addEventListener("pointerleave", hideTooltip);
}

export function hideTooltip() {
  tip.hidden = true;
}
