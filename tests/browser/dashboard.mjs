// Drives the dashboard of a running agent in Chromium, as a person would, and looks at what it shows.
//
//   node dashboard.mjs URL [OUTPUT]     e.g. http://127.0.0.1:9000/dashboard/ target/browser
//
// The agent must have served some requests, with Jaeger behind it. Pictures go to OUTPUT. What a live node cannot be
// asked for (hostile text, Jaeger away, a Jaeger with pages) is put into the api's answers on their way.

import { mkdtempSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, output = "."] = process.argv.slice(2);
if (!url) {
  console.error("usage: node dashboard.mjs URL [OUTPUT]");
  process.exit(2);
}
mkdirSync(output, { recursive: true });

const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
const PATIENCE_MS = 20_000;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HOSTILE = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";
const api = new URL("/api/", url);

/** A page with an empty profile; what it complains of is gathered. */
async function inBrowser(options, work) {
  const profile = mkdtempSync(join(tmpdir(), "dashboard-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: BROWSER,
    headless: true,
    viewport: { width: 1280, height: 800 },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ...options,
  });
  try {
    const page = context.pages()[0] ?? await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
    page.on("console", (message) => {
      if (!["error", "warning"].includes(message.type())) return;
      // The browser itself logs each answer that is not 2xx; a trace that Jaeger has not yet is an ordinary answer.
      const isAnswer = message.text().startsWith("Failed to load resource") && message.location().url.includes("/api/traces/");
      if (!isAnswer) complaints.push(`console: ${message.text()} (${message.location().url})`);
    });
    await work(page, complaints);
    const hacked = await page.evaluate(() => window.hacked);
    equal(hacked, undefined, "text from a request ran as a script");
    equal(complaints.join("\n"), "", "the page complains");
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

function ok(value, what) {
  if (!value) throw new Error(what);
}

function equal(found, expected, what) {
  if (found !== expected) throw new Error(`${what}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
}

async function json(path) {
  const response = await fetch(new URL(path, api));
  ok(response.ok, `${path} answers ${response.status}`);
  return response.json();
}

async function picture(page, name, fullPage = false) {
  if (fullPage) await page.evaluate(() => scrollTo({ top: 0, behavior: "instant" }));
  await page.screenshot({ path: join(output, `${name}.png`), fullPage });
}

/** Serious findings of axe on the page as it is. */
async function accessible(page, where) {
  // By the debugger: the page's policy lets no foreign script in, which is right.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  const lines = grave.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map(({ html }) => html.slice(0, 160)).join(" | ")}`);
  equal(lines.join("\n"), "", `axe finds, in ${where}`);
}

/** The request that the list should show on top among those with a trace: slow, sampled. */
async function slowest() {
  const { requests } = await json("requests");
  const request = requests.find((one) => one.sampled && one.phases.length > 1 && one.status === 200);
  ok(request, "the agent tells of no sampled request; send it some first");
  return request;
}

async function changed(page, pattern, change) {
  await page.route(pattern, async (route) => {
    const response = await route.fetch();
    const body = await response.json();
    await route.fulfill({ response, json: change(body) ?? body });
  });
}

const tests = {
  "the features say what is on": () => inBrowser({}, async (page) => {
    await page.goto(url);
    const overview = await json("overview");
    const tile = page.locator("[data-feature=tracing]");
    await tile.waitFor();
    equal(overview.features.tracing, "OpenTelemetry", "the api's tracing");
    equal(await tile.locator(".value").textContent(), "On", "the tile of tracing");
    const tiles = await page.locator("[data-feature]").evaluateAll((all) => all.map((one) => one.dataset.feature));
    equal(tiles.join(" "), "tracing probes jaeger spans metrics", "the tiles");
    await page.locator("[data-feature=jaeger] .value", { hasText: "Connected" }).waitFor();
  }),

  "entry points, routers and services are listed": () => inBrowser({}, async (page) => {
    await page.goto(url);
    for (const [list, part] of [["entrypoints", "entrypoints"], ["http/routers", "routers"], ["http/services", "services"]]) {
      const names = (await json(list)).map((one) => one.name);
      ok(names.length, `the api has no ${list}`);
      const shown = page.locator(`#part-${part} tbody tr`);
      await shown.first().waitFor();
      const cells = await shown.locator("td:first-child").allTextContents();
      equal(cells.join(), names.join(), `the list of ${part}`);
    }
    const [router] = await json("http/routers");
    ok((await page.locator("#part-routers").textContent()).includes(router.rule), "the rule is not shown");
    const probes = page.locator("#part-probes tbody tr");
    await probes.first().waitFor();
    const named = await probes.locator("td:first-child").allTextContents();
    ok(named.every((name) => name), "a probe has no name");
    await picture(page, "home", true);
  }),

  "a slow request has its waterfall of phases": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await page.goto(url);
    const row = page.locator(`.request[data-trace="${request.trace_id}"]`).first();
    await row.waitFor();
    ok((await row.locator(".path").textContent()).includes(request.path), "its path is not shown");
    const segments = await row.locator(".segment").evaluateAll((all) => all.map((one) => [one.dataset.phase, one.getBoundingClientRect().width]));
    ok(segments.some(([phase]) => phase === request.dominant), `no segment of ${request.dominant}`);
    ok(segments.every(([, width]) => width >= 1), "a segment is too small to be seen");
    const widest = segments.reduce((a, b) => (b[1] > a[1] ? b : a));
    equal(widest[0], request.dominant, "the widest segment");
    await row.locator(`.segment[data-phase="${request.dominant}"]`).first().hover();
    const tooltip = page.locator("#tooltip");
    await tooltip.waitFor();
    ok((await tooltip.textContent()).includes("µs"), "the tooltip tells no microseconds");
    ok(await row.locator(".badge", { hasText: "coverage" }).count(), "no coverage badge");
    await picture(page, "requests");
  }),

  "a click opens the whole trace of all services": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await page.goto(url);
    await page.locator(`.request[data-trace="${request.trace_id}"]`).first().click();
    await page.locator("#phases .waterfall tbody tr").first().waitFor();
    const phases = await page.locator("#phases .waterfall tbody tr").evaluateAll((all) => all.map((one) => one.dataset.phase));
    equal(phases.join(), request.phases.map(({ name }) => name).join(), "the phases of the waterfall");
    const sum = (await page.locator("#phases tfoot .number").first().textContent()).replaceAll(",", "");
    equal(sum, String(request.duration_us), "the sum of the phases");
    await page.locator(".span-row").first().waitFor();
    const trace = (await json(`traces/${request.trace_id}`)).data[0];
    const wanted = new Set(Object.values(trace.processes).map(({ serviceName }) => serviceName));
    const rows = await page.locator(".span-row").evaluateAll((all) => all.map((one) => one.dataset.service));
    ok(rows.length >= trace.spans.length, `${rows.length} rows for ${trace.spans.length} spans`);
    for (const service of wanted) ok(rows.includes(service), `no span of ${service}`);
    ok(wanted.size > 1, "only one service took part");
    const first = page.locator(".span-row").first();
    await first.focus();
    await page.keyboard.press("Enter");
    equal(await first.getAttribute("aria-expanded"), "true", "the span opens by the keyboard");
    const details = page.locator(".span-details:not([hidden])");
    ok((await details.textContent()).includes("wayspan."), "the span's attributes are not shown");
    await picture(page, "trace");
    await picture(page, "trace-whole", true);
    await accessible(page, "the trace");
    await page.goBack();
    await page.locator("#request-list").waitFor();
  }),

  "a link to a trace opens it without the list": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await changed(page, "**/api/requests", () => ({ nowMonoNs: 1, requests: [] }));
    await page.goto(`${url}#trace=${request.trace_id}`);
    await page.locator(".span-row").first().waitFor();
    await page.locator("#phases .waterfall tbody tr").first().waitFor();
  }),

  "the dependency graph is drawn": () => inBrowser({}, async (page) => {
    const edges = (await json("dependencies")).data ?? [];
    const between = edges.filter(({ parent, child }) => parent !== child);
    ok(between.length, "Jaeger knows no calls between services");
    await page.goto(url);
    await page.locator(".graph").waitFor();
    for (const { parent, child } of between) {
      const edge = page.locator(`.edge[data-parent="${parent}"][data-child="${child}"]`);
      await edge.first().waitFor({ state: "attached" });
      ok(Number(await edge.getAttribute("data-calls")) > 0, `${parent} to ${child} has no count`);
    }
    const boxes = await page.locator(".node").evaluateAll((all) => all.map((one) => one.getBoundingClientRect().toJSON()));
    equal(boxes.length, new Set(edges.flatMap(({ parent, child }) => [parent, child])).size, "nodes");
    const overlaps = boxes.some((a, i) => boxes.slice(i + 1).some((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
    ok(!overlaps, "nodes lie over each other");
    await page.locator("#map").scrollIntoViewIfNeeded();
    await page.locator("#map").screenshot({ path: join(output, "graph.png") });
  }),

  "text from requests, traces and faults is shown and never becomes an element": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await changed(page, "**/api/requests", (body) => {
      body.requests.unshift({
        ...request, trace_id: "ab".repeat(16), path: `/${HOSTILE}`, host: HOSTILE, name: HOSTILE, router: HOSTILE, service: HOSTILE,
        error: HOSTILE, coverage: `partial: ${HOSTILE}`, dominant: HOSTILE, upstream: HOSTILE,
      });
    });
    await changed(page, "**/api/traces/*", (body) => {
      for (const span of body.data[0].spans) {
        span.operationName = HOSTILE;
        span.tags.push({ key: HOSTILE, type: "string", value: HOSTILE });
        span.logs = [{ timestamp: span.startTime, fields: [{ key: "event", value: HOSTILE }] }];
        span.warnings = [HOSTILE];
      }
    });
    // The hostile request has no trace of its own.
    await page.route(`**/api/traces/${"ab".repeat(16)}`, async (route) => {
      const body = await json(`traces/${request.trace_id}`);
      body.data[0].spans.forEach((span) => span.tags.push({ key: HOSTILE, type: "string", value: HOSTILE }));
      await route.fulfill({ json: body });
    });
    await changed(page, "**/api/status", (body) => { body.faults = [HOSTILE]; });
    await changed(page, "**/api/dependencies*", (body) => { body.data = [{ parent: HOSTILE, child: "x", callCount: 1 }]; });
    await page.goto(url);
    const row = page.locator(`.request[data-trace="${"ab".repeat(16)}"]`);
    await row.waitFor();
    equal(await row.locator(".path").textContent(), `/${HOSTILE}`, "the path");
    await page.locator("#faults").waitFor();
    await page.locator(".node").first().waitFor();
    const noElements = async () => {
      const made = await page.evaluate(() => document.querySelectorAll("img:not([src='icon.svg']), body script, [onerror]").length);
      equal(made, 0, "elements made from text");
    };
    await noElements();
    await picture(page, "hostile");
    await row.click();
    await page.locator(".span-row").first().click();
    ok((await page.locator(".span-details").first().textContent()).includes(HOSTILE), "the attribute is not shown");
    await noElements();
  }),

  "without Jaeger a request's own phases are the trace": () => inBrowser({}, async (page) => {
    const request = await slowest();
    const away = { configured: true, url: "http://127.0.0.1:16686", up: false, ui: false, message: "Jaeger does not answer", remedy: "start Jaeger" };
    await changed(page, "**/api/jaeger", () => away);
    await page.goto(url);
    await page.locator(`.request[data-trace="${request.trace_id}"]`).first().click();
    await page.locator("#phases .waterfall tbody tr").first().waitFor();
    const said = page.locator("#whole-trace");
    ok((await said.textContent()).includes("Jaeger does not answer"), "it does not say why there is no whole trace");
    equal(await page.locator(".span-row").count(), 0, "spans");
    await picture(page, "without-jaeger");
    await page.goBack();
    ok((await page.locator("#map").textContent()).includes("Jaeger does not answer"), "the map does not say why it is empty");
    equal(await page.locator("[data-feature=jaeger] .value").textContent(), "Away", "the tile of Jaeger");
  }),

  "a Jaeger with pages is linked to": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await changed(page, "**/api/jaeger", (body) => ({ ...body, ui: true }));
    await page.goto(`${url}#trace=${request.trace_id}`);
    const link = page.locator("#trace a[target=_blank]");
    await link.waitFor();
    const { url: base } = await json("jaeger");
    equal(await link.getAttribute("href"), `${base}/trace/${request.trace_id}`, "the link");
  }),

  "the filter and the pause work by the keyboard": () => inBrowser({}, async (page) => {
    const request = await slowest();
    await page.goto(url);
    await page.locator(".request").first().waitFor();
    await page.locator("#filter").focus();
    await page.keyboard.type("no such request anywhere");
    await page.locator("#request-list .empty").waitFor();
    await page.locator("#filter").fill(`${request.method} ${request.dominant}`);
    await page.locator(`.request[data-trace="${request.trace_id}"]`).first().waitFor();
    await page.locator("#pause").focus();
    await page.keyboard.press("Space");
    equal(await page.locator("#pause").getAttribute("aria-pressed"), "true", "paused");
    let asked = 0;
    await page.route("**/api/requests", (route) => { asked += 1; return route.continue(); });
    await page.waitForTimeout(4500);
    equal(asked, 0, "questions while paused");
    await page.keyboard.press("Space");
    await page.waitForRequest("**/api/requests");
    const focused = page.locator(".request").first();
    await focused.focus();
    await page.waitForResponse("**/api/requests");
    await page.waitForTimeout(200);
    ok(await page.evaluate(() => document.activeElement?.classList.contains("request")), "the list takes the focus away");
  }),

  "the agent going away is said, and coming back, too": () => inBrowser({}, async (page, complaints) => {
    await page.goto(url);
    await page.locator(".tile").first().waitFor();
    await page.route("**/api/**", (route) => route.abort());
    const banner = page.locator("#banners .bad");
    await banner.waitFor();
    ok((await banner.textContent()).includes("Not connected"), "the banner");
    await page.unroute("**/api/**");
    await banner.waitFor({ state: "detached" });
    // The browser logs each failed question.
    complaints.splice(0, complaints.length, ...complaints.filter((line) => !line.includes("ERR_FAILED")));
  }),

  "axe finds nothing serious, light, dark and on a phone": async () => {
    const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
    for (const [name, options] of [["light", {}], ["dark", { colorScheme: "dark" }], ["phone", phone], ["phone-dark", { ...phone, colorScheme: "dark" }]]) {
      await inBrowser(options, async (page) => {
        const request = await slowest();
        await page.goto(url);
        await page.locator(".request").first().waitFor();
        await page.locator("#part-services").waitFor();
        await page.locator(".graph").waitFor();
        await accessible(page, name);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        ok(wide <= 0, `${name}: the page is ${wide} px too wide`);
        await picture(page, name, true);
        await page.goto(`${url}#trace=${request.trace_id}&span=${request.span_id}`);
        await page.locator(".span-row").first().waitFor();
        await page.locator(".span-row").first().click();
        await accessible(page, `${name}, trace`);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        ok(wider <= 0, `${name}: the trace is ${wider} px too wide`);
        await picture(page, `${name}-trace`, true);
      });
    }
  },
};

let passed = 0, failed = 0;
for (const [name, run] of Object.entries(tests)) {
  const began = performance.now();
  try {
    await run();
    passed += 1;
    console.log(`ok      ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n        ${String(error.stack ?? error).replaceAll("\n", "\n        ")}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
