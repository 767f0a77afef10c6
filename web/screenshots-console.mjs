// Makes docs/images/console-*.png: a brownout of the busiest region by day, and a slow call's explanation by night.
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { startBrowser } from "./test/browser.mjs";
import { openConsole } from "./test/console.mjs";
import { startPlatform } from "./test/platform.mjs";

const images = join(import.meta.dirname, "../docs/images");
const platform = await startPlatform({ routers: "europe-west1,us-west1,asia-south1", tls: false, args: ["--drills", "--viewers", "600"] });
const browser = await startBrowser();
try {
  const light = await openConsole(browser, platform.urls[0], { viewport: { width: 1440, height: 1000 } });
  await light.waitForSelector("#link.live");
  await wait(60_000); // a past to draw
  const victim = await light.getAttribute("#regions tbody tr", "data-region");
  await platform.verb("fault", "brownout", victim, "--for", "60s", "--added", "1s");
  await light.waitForSelector(`#slips li.active[data-region="${victim}"]`, { timeout: 60_000 });
  await wait(5_000); // what came of it
  await light.screenshot({ path: join(images, "console-light.png"), fullPage: true });

  const dark = await openConsole(browser, platform.urls[0], { colorScheme: "dark", viewport: { width: 1440, height: 1000 } });
  await dark.locator("#decisions tbody tr", { hasText: victim }).locator("button").first().click({ timeout: 30_000 });
  await dark.waitForSelector("dialog[open] .sentence");
  await dark.screenshot({ path: join(images, "console-dark.png") });
} finally {
  await browser.close();
  await platform.stop();
}
