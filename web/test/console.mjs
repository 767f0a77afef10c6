// The console in a browser: opened, and its violations of the policy noted.

/** Opens the console of a router in a page of its own. */
export async function openConsole(browser, url, { colorScheme = "light", viewport = { width: 1440, height: 900 }, script, virtual = false } = {}) {
  const context = await browser.newContext({ colorScheme, viewport, reducedMotion: "reduce" });
  context.setDefaultTimeout(120_000); // a machine with other work is no failure
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (e) => page.problems.push(String(e)));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
  });
  if (virtual) {
    await page.clock.install();
    await page.addInitScript(() => Date.now()); // until it is asked for the time, the test clock's timeOrigin is -1
  }
  if (script) await page.addInitScript(script);
  await page.goto(`${url}/console`);
  return page;
}

/** Fails if the page broke its policy or threw. */
export async function assertClean(assert, page) {
  assert.deepEqual(await page.evaluate(() => window.violations), [], "the policy was broken");
  assert.deepEqual(page.problems, [], "the page threw");
}

/** Makes the page's clock and longer timers run faster. It draws as often as ever, and the network is as it is. */
export function timeLapse(speed) {
  return `{
    const { now } = Date, began = now(), timeout = window.setTimeout, interval = window.setInterval;
    Date.now = () => began + (now() - began) * ${speed};
    window.setTimeout = (f, ms = 0, ...rest) => timeout(f, ms > 250 ? ms / ${speed} : ms, ...rest);
    window.setInterval = (f, ms = 0, ...rest) => interval(f, ms / ${speed}, ...rest);
  }`;
}

/** What the page's scripts hold, in MB, after a collection. */
export async function heapOf(page) {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("HeapProfiler.collectGarbage");
  const { usedSize } = await devtools.send("Runtime.getHeapUsage");
  await devtools.detach();
  return usedSize / 1e6;
}
