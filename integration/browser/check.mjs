// Looks at the dashboard in Chromium: node check.mjs CHECK URL. Prints what it measures; exits with 1 on the first failure.
// `tests/browser.rs` starts the daemon with the functions that are used here.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [check, base, program] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];
const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 360, height: 740 };
const TIMEOUT = 20_000;

const invoke = async (path) => (await fetch(`${base}/invoke/${path}`)).text();
const debug = async (path) => (await fetch(`${base}/debug/${path}`)).json();
const instanceOf = async (name) => (await debug(`functions/${name}`)).instances[0].id;

/** Opens a page and notes what must not happen: errors, and requests to others. */
async function open(context, path, { scheme = "light", size = WIDE } = {}) {
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  page.faults = [];
  page.on("console", (message) => message.type() === "error" && page.faults.push(message.text()));
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== base) page.faults.push(`request to ${request.url()}`);
  });
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme: scheme });
  const response = await page.goto(base + path);
  assert.equal(response.status(), 200, path);
  return page;
}

async function close(page, what) {
  assert.deepEqual(page.faults, [], what);
  await page.close();
}

async function checkAccessibility(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  assert.deepEqual(found, [], what);
}

async function checkWidth(page, what) {
  const [scrolled, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(scrolled <= shown, `${what} is ${scrolled} px wide, the window ${shown}`);
}

/** A picture that is empty, or nearly, has few colours. */
async function checkPicture(context, page, what, fewest = 40, share = 0.97) {
  const picture = (await page.screenshot()).toString("base64");
  const canvas = await context.newPage();
  const [colours, most] = await canvas.evaluate(async (data) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    const counts = new Map();
    for (const pixel of new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer)) {
      counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
    }
    return [counts.size, Math.max(...counts.values()) / (image.width * image.height)];
  }, picture);
  await canvas.close();
  assert.ok(colours > fewest && most < share, `${what}: ${colours} colours, ${most} of one`);
}

const checks = {
  async pages(context) {
    await invoke("f/pid");
    await invoke("html/pid");
    await Promise.all([1, 2, 3, 4].map(() => invoke("crash/")));
    const [f, html] = [await instanceOf("f"), await instanceOf("html")];
    const paths = [
      "/ui/", "/ui/functions/f", "/ui/functions/crash", "/ui/functions/broken", `/ui/instances/${html}`, "/ui/boots",
      `/ui/boots/${f}`, "/ui/memory", "/ui/errors",
    ];
    for (const path of paths) {
      for (const scheme of ["light", "dark"]) {
        const what = `${path} ${scheme}`;
        const page = await open(context, path, { scheme });
        await page.waitForFunction(() => document.getElementById("lost").hidden);
        await checkAccessibility(page, what);
        await checkPicture(context, page, what);
        await page.setViewportSize(NARROW);
        await checkWidth(page, what);
        await checkAccessibility(page, `${what}, narrow`);
        await checkPicture(context, page, `${what}, narrow`);
        // A zoom of 200 %.
        await page.setViewportSize({ width: WIDE.width / 2, height: WIDE.height / 2 });
        await checkWidth(page, `${what}, zoomed`);
        await close(page, what);
      }
    }
  },

  async live(context) {
    await invoke("f/pid");
    const page = await open(context, "/ui/functions/f");
    await page.locator("details").first().locator("summary").click();
    await page.locator("main .scroll").first().focus();
    const times = [];
    // The best of some: this machine may be busy.
    while (times.length < 5 && !(Math.min(...times) <= 1000)) {
      await invoke("f/pid");
      const id = await instanceOf("f");
      const row = page.locator(`#ended tr[data-key="${id}"]`);
      await page.locator(`#instances tr[data-key="${id}"]`).waitFor();
      await invoke("f/exit?code=3");
      const ended = performance.now();
      await row.waitFor();
      times.push(performance.now() - ended);
      assert.match(await row.innerText(), /exited with status 3/);
    }
    console.log("a crash appears after", times.map(Math.round), "ms");
    assert.ok(Math.min(...times) <= 1000, `${times}`);
    assert.ok(await page.locator("details").first().evaluate((details) => details.open), "what was opened stays open");
    assert.equal(await page.evaluate(() => document.activeElement.className), "scroll", "the focus stays");
    await page.goto(`${base}/ui/`);
    const failing = page.locator('#functions tr[data-key="crash"]');
    for (let times = 0; times < 4; times++) await invoke("crash/");
    await failing.getByText("failing").waitFor();
    await page.locator("#attention .notices").getByText("does not start").waitFor();
    await close(page, "live");
  },

  async triggers(context) {
    const page = await open(context, "/ui/functions/timer");
    const last = page.locator('#triggers tr[data-key="cron-0"] time').first();
    await last.waitFor();
    const before = await last.getAttribute("datetime");
    await page.waitForFunction(
      (before) => document.querySelector('#triggers tr[data-key="cron-0"] time').dateTime > before, before);
    const row = page.locator('#triggers tr[data-key="mqtt-0"]');
    await row.getByText("home/door").waitFor();
    await row.getByText("connecting", { exact: true }).waitFor();
    await checkAccessibility(page, "triggers");
    await page.setViewportSize(NARROW);
    await checkWidth(page, "triggers, narrow");
    await page.goto(`${base}/ui/`);
    const card = page.locator("#status .card", { hasText: "Triggers" });
    await card.getByText("next firing").waitFor();
    await card.getByText("1 subscription").waitFor();
    await page.locator("#attention .notices").getByText("not connected to mqtt://").waitFor();
    await checkWidth(page, "the overview with triggers, narrow");
    await checkAccessibility(page, "the overview with triggers");
    await close(page, "triggers");
  },

  async output(context) {
    await invoke("html/pid");
    const id = await instanceOf("html");
    const page = await open(context, `/ui/instances/${id}`);
    await page.locator("#lines").getByText("<img src=x onerror=", { exact: false }).first().waitFor();
    const line = (text) => page.locator("#lines li", { hasText: text });
    await invoke("html/say?line=first");
    await line("first").waitFor();
    await page.locator("#pause").click();
    await invoke("html/say?line=second");
    await page.getByText("Go on (1 new)").waitFor();
    assert.equal(await line("second").count(), 0, "a paused page gets no lines");
    await page.locator("#pause").click();
    await line("second").waitFor();
    await page.locator("#search").fill("SECOND");
    assert.ok(await line("first").isHidden() && await line("second").isVisible(), "search");
    assert.match(await page.locator("#matches").innerText(), /^1 of \d+ lines$/);
    await page.locator("#copy").click();
    await page.getByText("Copied").waitFor();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /second$/);
    await page.locator("#search").fill("");
    const [images, owned] = await page.evaluate(() => [document.querySelectorAll("main img").length, globalThis.owned]);
    assert.deepEqual([images, owned], [0, undefined], "output is text");
    // A page that is shown again goes on behind the last line.
    await page.locator("#live").click();
    await invoke("html/say?line=third");
    await page.locator("#live").click();
    await line("third").waitFor();
    assert.equal(await line("second").count(), 1, "no line comes twice");
    await invoke("html/exit?code=4");
    await page.locator("#status").getByText("gone").waitFor();
    await line("ended: exited with status 4").waitFor();
    await close(page, "output");
  },

  async controls(context) {
    const page = await open(context, "/ui/");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await back();
    await page.locator("#theme").selectOption("dark");
    const dark = await back();
    assert.notEqual(light, dark);
    await page.goto(`${base}/ui/memory`);
    assert.equal(await back(), dark, "the choice is kept");
    assert.equal(await page.locator("#theme").inputValue(), "dark");
    await page.locator("#theme").selectOption("system");
    assert.equal(await back(), light);
    await page.goto(`${base}/ui/`);
    await page.locator("#find").fill("cra");
    await page.keyboard.press("Enter");
    await page.waitForURL(/find=cra/);
    assert.deepEqual(await page.locator("#functions tbody th").allInnerTexts(), ["crash"]);
    await page.locator("#functions tbody a").click();
    await page.getByRole("heading", { name: "crash", level: 1 }).waitFor();
    await close(page, "controls");
  },

  async actions(context) {
    await invoke("f/pid");
    const id = await instanceOf("f");
    const page = await open(context, "/ui/functions/f");
    await page.locator(`#instances tr[data-key="${id}"]`).waitFor();
    page.once("dialog", (dialog) => dialog.dismiss());
    await page.getByRole("button", { name: `Stop instance ${id.slice(0, 8)}` }).click();
    await page.getByRole("button", { name: "Restart" }).click();
    await page.locator("#status").getByText("Done.").waitFor();
    await page.locator(`#ended tr[data-key="${id}"]`).waitFor();
    await invoke("f/pid");
    const stopped = await instanceOf("f");
    assert.notEqual(stopped, id);
    page.once("dialog", (dialog) => dialog.accept());
    // The row came with an event, after the page.
    await page.locator(`#instances tr[data-key="${stopped}"]`).getByRole("button").click();
    await page.locator(`#ended tr[data-key="${stopped}"]`).waitFor();
    await invoke("f/pid");
    const next = await instanceOf("f");
    assert.notEqual(next, stopped);
    await page.goto(`${base}/ui/instances/${next}`);
    page.once("dialog", (dialog) => dialog.dismiss());
    await page.getByRole("button", { name: "Stop" }).click();
    assert.equal(await page.locator("#status").getByText("idle").count(), 1, "the question was answered with no");
    page.once("dialog", (dialog) => dialog.accept());
    await page.getByRole("button", { name: "Stop" }).click();
    await page.locator("#status").getByText("gone").waitFor();
    await close(page, "actions");
  },

  async scriptless(_, browser) {
    const context = await browser({ javaScriptEnabled: false });
    await invoke("f/pid");
    const id = await instanceOf("f");
    for (const [path, text] of [
      ["/ui/", "misconfigured"], ["/ui/functions/f", "1 idle"], [`/ui/instances/${id}`, "ready after"], ["/ui/boots", "ready"],
      [`/ui/boots/${id}`, "first byte"], ["/ui/memory", "128 MiB"], ["/ui/errors", "function_misconfigured"],
    ]) {
      const page = await open(context, path);
      const shown = await page.locator("main").innerText();
      assert.ok(shown.includes(text), `${path} without scripts has no ${text}: ${shown}`);
      assert.equal(await page.locator("noscript").count(), 1);
      await close(page, path);
    }
    await context.close();
  },

  async large(context) {
    const times = [];
    while (times.length < 5 && !(Math.min(...times) < 1000)) {
      const page = await open(context, "/ui/");
      assert.match(await page.locator(".pager").innerText(), /1–50 of 10,0\d\d/);
      times.push(await page.evaluate(() => performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd));
      await close(page, "large");
    }
    console.log("10,000 functions are there after", times.map(Math.round), "ms");
    assert.ok(Math.min(...times) < 1000, `${times}`);
  },

  async report(context) {
    const page = await context.newPage();
    const requests = [], faults = [];
    page.on("request", (request) => requests.push(request.url()));
    page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
    for (const [size, what] of [[WIDE, "wide"], [NARROW, "narrow"]]) {
      await page.setViewportSize(size);
      await page.goto(base);
      await checkWidth(page, `the ${what} report`);
      await checkAccessibility(page, `the ${what} report`);
      await checkPicture(context, page, `the ${what} report`);
    }
    assert.deepEqual([new Set(requests).size, faults], [1, []], "nothing is loaded");
    const plots = await page.locator("svg").all();
    assert.ok(plots.length >= 4, `${plots.length} plots`);
    await page.setViewportSize(WIDE);
    for (const plot of plots) {
      await plot.scrollIntoViewIfNeeded();
      await checkPicture(context, plot, `the plot ${await plot.locator("title").first().textContent()}`, 20, 0.985);
      const outside = await plot.evaluate((svg) => {
        const frame = svg.getBoundingClientRect();
        const inside = (box) => box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
        return [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim() && !inside(text.getBoundingClientRect())).map((text) => text.textContent);
      });
      assert.deepEqual(outside, [], "text is cut off");
    }
    await page.close();
  },

  async lost(context) {
    const page = await open(context, "/ui/");
    await page.locator("#functions").waitFor();
    assert.ok(await page.locator("#lost").isHidden());
    console.log("stop the daemon");
    await page.getByText("The connection to the daemon is lost").waitFor();
    assert.ok(await page.locator("#functions tbody tr").count() > 0, "the last state stays");
    await page.close();
  },
};

const contexts = [];
const directories = [];
async function browser(options = {}) {
  const directory = mkdtempSync(join(tmpdir(), "unifaas-browser-"));
  directories.push(directory);
  const launched = await chromium.launchPersistentContext(directory, {
    executablePath: program, headless: true, args: ARGUMENTS, permissions: ["clipboard-read", "clipboard-write"], ...options,
  });
  contexts.push(launched);
  return launched;
}

try {
  await checks[check](await browser(), browser);
} finally {
  await Promise.allSettled(contexts.map((context) => context.close()));
  directories.forEach((directory) => rmSync(directory, { recursive: true, force: true }));
}
