// The console in Chromium: through a brownout of a real platform, and over a made-up fleet of a thousand regions.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { startBrowser } from "./browser.mjs";
import { assertClean, heapOf, openConsole, timeLapse } from "./console.mjs";
import { startFleet } from "./fleet.mjs";
import { startPlatform } from "./platform.mjs";

// How long the thousand regions are watched, in minutes of virtual time; `make bench-console` watches for 60.
const MINUTES = 12;
const SPEED = 60;

let browser;
before(async () => { browser = await startBrowser(); });
after(async () => { await browser?.close(); });

const live = (page) => page.waitForSelector("#link.live");

test("a brownout is told, explained, and can be answered with a drain that was tried first", async (t) => {
  // One router: the console lists the slow calls of the router it is asked on, and the busiest region must be one of its.
  const platform = await startPlatform({ tls: false, routers: "europe-west1", args: ["--drills", "--viewers", "600"] });
  t.after(() => platform.stop());
  const page = await openConsole(browser, platform.urls[0]);
  t.after(() => page.context().close());
  await live(page);
  assert.match(await page.textContent("#drill"), /Drills are on/);

  // The busiest region, once viewers buy there: fewer calls are no evidence.
  let victim = "";
  await until(async () => {
    const { windows = [] } = await platform.verb("slips");
    const busiest = windows.filter((w) => w.scope === "SLIP_SCOPE_REGION").sort((a, b) => b.calls - a.calls)[0];
    victim = busiest?.name ?? "";
    return Number(busiest?.calls ?? 0) > 40;
  });
  const began = Date.now();
  await platform.verb("fault", "brownout", victim, "--for", "30s", "--added", "1s");
  await page.waitForSelector("#drill.active");
  assert.match(await page.textContent("#drill"), new RegExp(`${victim}: brownout of \\+1,000 ms`));
  let slip;
  await until(async () => {
    const { slips = [] } = await platform.verb("slips");
    slip = slips.find((s) => s.region === victim && Date.parse(s.startTime) > began);
    return slip;
  });
  await page.waitForSelector(`#slips li[data-slip="${slip.slipId}"]`);
  assert.ok(await page.locator("#slips .timeline .slip").count() > 0, "it is on the timeline, too");

  // One of its slow calls, in plain words.
  await page.locator("#decisions tbody tr", { hasText: victim }).locator("button").first().click();
  await page.waitForSelector("dialog[open] .sentence");
  const told = (await page.locator("dialog[open] .sentence").allTextContents()).join(" ");
  t.diagnostic(told);
  assert.match(told, new RegExp(`reached the router europe-west1 .*${victim} was asked .*and (answered in|given up after|failed after) .* after [\\d,]+ ms`));
  assert.ok((await page.locator("dialog[open] tbody tr").count()) >= 4, "every region that it could have been is named");
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => !document.querySelector("dialog[open]"));

  // The drain's dry run: nothing without the token, nothing with a wrong one, and nothing changes with the right one.
  await page.click(`#regions tr[data-region="${victim}"] button`);
  assert.ok(await page.isDisabled("#dry-run"));
  await page.fill("#token", "certainly not this one");
  await page.click("#dry-run");
  await page.waitForSelector("dialog[open] [role=alert]");
  const directory = join(platform.dir, "config/rimlight/credentials");
  const { sre } = JSON.parse(readFileSync(join(directory, readdirSync(directory)[0]), "utf8"));
  await page.fill("#token", sre);
  await page.click("#dry-run");
  await page.waitForSelector("#prediction");
  assert.match(await page.textContent(`#prediction tr[data-region="${victim}"] td:nth-child(3)`), /^0 %$/, "a drained region wins nothing");
  assert.match(await page.textContent("#prediction"), /From [1-9][\d,]* calls of the last minute/);
  const { regions } = await platform.verb("regions");
  assert.ok(regions.every((r) => r.mode === "REGION_MODE_SERVING"), "a dry run changes nothing");

  // And then for good, as who and why are written down.
  await page.fill("#reason", "it browns out");
  await page.click("#dry-run");
  await page.waitForSelector("#apply:enabled");
  await page.click("#apply");
  await page.waitForFunction(() => [...document.querySelectorAll("dialog[open] [role=status]")].some((s) => s.textContent.includes("Done.")));
  const mode = async () => (await platform.verb("regions")).regions.find((r) => r.name === victim).mode;
  await until(async () => (await mode()) === "REGION_MODE_DRAINED");
  const { entries } = await platform.verb("audit", "--operators");
  assert.ok(entries.some((e) => e.target === victim && e.asked.startsWith("drained") && e.reason === "it browns out" && e.role === "sre"), JSON.stringify(entries));
  await page.keyboard.press("Escape");
  await page.waitForFunction((name) => /drained/i.test(document.querySelector(`#regions tr[data-region="${name}"]`)?.textContent ?? ""), victim);
  await platform.verb("undrain", victim);
  await until(async () => (await mode()) === "REGION_MODE_SERVING");
  assert.ok(!page.url().includes(sre), "the token is in no address");
  await assertClean(assert, page);
});

test("it goes on where it was after a broken connection, and says meanwhile that it is lost", async (t) => {
  const fleet = await startFleet({ regions: 8, everyMs: 100 });
  t.after(() => fleet.stop());
  const page = await openConsole(browser, fleet.url);
  t.after(() => page.context().close());
  await live(page);
  await page.waitForFunction(() => document.querySelector("#slips"));
  fleet.cut();
  await page.waitForSelector("#link.lost");
  await live(page);
  assert.deepEqual(fleet.resumed, ["", "first"], "slips go on from the resume token");
  assert.equal(fleet.watches(), 2);
});

test("a tab that slept for an hour held nothing open, and catches up with one round of calls", async (t) => {
  const fleet = await startFleet({ regions: 8, everyMs: 100 });
  t.after(() => fleet.stop());
  const page = await openConsole(browser, fleet.url, {
    script: () => {
      let visibility = "visible";
      Object.defineProperty(document, "visibilityState", { get: () => visibility });
      window.look = (v) => {
        visibility = v;
        document.dispatchEvent(new Event("visibilitychange"));
      };
    },
    virtual: true,
  });
  t.after(() => page.context().close());
  await live(page);
  await page.evaluate(() => window.look("hidden"));
  await until(async () => { // in steps shorter than the silence that breaks a connection: the router goes on talking meanwhile
    await page.clock.fastForward(5_000);
    return (await page.textContent("#link")).includes("asleep");
  });
  await until(() => fleet.open === 0);
  await page.clock.fastForward(3_600_000);
  fleet.calls.clear();
  await page.evaluate(() => window.look("visible"));
  await live(page);
  await until(() => fleet.calls.size === 7);
  const most = Math.max(...fleet.calls.values());
  assert.ok(most <= 4, `one call of each kind, two of decisions, and what a moment brings; got ${JSON.stringify([...fleet.calls])}`);
  assert.equal(fleet.watches(), 1);
});

test("a thousand regions stay readable, and take no more memory over time", async (t) => {
  const fleet = await startFleet({ regions: 1_000 });
  t.after(() => fleet.stop());
  let page = await openConsole(browser, fleet.url);
  await page.waitForSelector("#regions tbody tr");
  const [shown, paint] = await page.evaluate(() => [performance.now(), performance.getEntriesByName("first-contentful-paint")[0]?.startTime]);
  await page.context().close();
  await until(() => fleet.open === 0);

  page = await openConsole(browser, fleet.url, { script: timeLapse(SPEED) });
  t.after(() => page.context().close());
  await page.waitForSelector("#regions tbody tr");

  assert.equal(await page.locator("#regions tbody tr").count(), 40, "the table is limited");
  assert.ok((await page.locator("#map .dot").count()) < 30, "the map puts neighbours together");
  await page.keyboard.press("/");
  await page.keyboard.type("us-east4-13");
  await page.waitForFunction(() => document.querySelector("#regions h2 small")?.textContent === "3 of 1000");
  await page.fill("#filter", "");

  fleet.seconds = 0;
  fleet.everyMs = 1_000 / SPEED;
  await until(() => fleet.seconds > 60);
  const early = await heapOf(page);
  await until(() => fleet.seconds > MINUTES * 60);
  fleet.everyMs = 1_000; // what a busy machine has not read yet is no leak: it gets read now
  let late;
  await until(async () => (late = await heapOf(page)) < 60);
  const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
  t.diagnostic(`1,000 regions: first paint ${Math.round(paint)} ms, regions shown ${Math.round(shown)} ms, heap ${early.toFixed(1)} MB after 1 min, ${late.toFixed(1)} MB after ${MINUTES} min of updates, ${nodes} elements`);
  assert.ok(nodes < 4_000, `${nodes} elements`);
  assert.deepEqual(page.problems, []);
});

async function until(condition) {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50));
}
