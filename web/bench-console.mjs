// What the console costs a browser with a thousand regions: Chromium at a made-up router that tells of all of them once a
// second. The page's clock runs sixty times as fast, so that an hour of updates passes in a minute.
// `make bench-console`; WRITE=1 puts the table into bench/README.md.
import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import { startBrowser } from "./test/browser.mjs";
import { heapOf, openConsole, timeLapse } from "./test/console.mjs";
import { startFleet } from "./test/fleet.mjs";

const REGIONS = 1_000;
const OPENINGS = 5;
const MINUTES = Number(process.env.CONSOLE_MINUTES ?? 60);
const SPEED = 60;
const README = new URL("../bench/README.md", import.meta.url);

const load = loadavg()[0];
const fleet = await startFleet({ regions: REGIONS });
const browser = await startBrowser();
try {
  const paints = [], shown = [];
  for (let i = 0; i < OPENINGS; i++) {
    const page = await openConsole(browser, fleet.url);
    await page.waitForSelector("#regions tbody tr");
    const [at, paint] = await page.evaluate(() => [performance.now(), performance.getEntriesByName("first-contentful-paint")[0]?.startTime]);
    paints.push(paint);
    shown.push(at);
    await page.context().close();
    while (fleet.open > 0) await tick();
  }
  fleet.seconds = 0;
  fleet.everyMs = 1_000 / SPEED;
  const page = await openConsole(browser, fleet.url, { script: timeLapse(SPEED) });
  await page.waitForSelector("#regions tbody tr");
  while (fleet.seconds <= 60) await tick();
  const early = await heapOf(page);
  while (fleet.seconds <= MINUTES * 60) await tick();
  const late = await heapOf(page);
  const elements = await page.evaluate(() => document.querySelectorAll("*").length);
  const table = `| with ${REGIONS.toLocaleString("en")} regions | |
|---|---:|
| first contentful paint, ms, median of ${OPENINGS} (worst) | ${both(paints)} |
| regions shown, ms from the navigation, median of ${OPENINGS} (worst) | ${both(shown)} |
| heap after 1 minute of updates, MB | ${early.toFixed(1)} |
| heap after ${MINUTES} minutes of updates, MB | ${late.toFixed(1)} |
| elements in the document | ${elements.toLocaleString("en")} |

What this cannot show: the page draws four times a second of real time, so it drew a sixtieth as often as in a real hour; polls are answered with
the same bytes each time; router and browser share this machine. Heap is what is left after a collection.

*${new Date().toISOString().slice(0, 10)}, ${cpus()[0].model.trim()}, ${cpus().length} cores, Chromium ${browser.version()}, load average ${load.toFixed(2)} at the start.*`;
  console.log(table);
  if (process.env.WRITE) await write(table);
} finally {
  await browser.close();
  await fleet.stop();
}

function both(times) {
  times.sort((a, b) => a - b);
  return `${Math.round(times[times.length >> 1])} (${Math.round(times.at(-1))})`;
}

function tick() {
  return new Promise((resolve) => setTimeout(resolve, 50));
}

async function write(section) {
  const text = await readFile(README, "utf8");
  const marked = /(<!-- figure console -->\n)[^]*?(\n<!-- end of console -->)/;
  if (!marked.test(text)) throw new Error("bench/README.md has no place for the figure console");
  await writeFile(README, text.replace(marked, (_, before, after) => before + section + after));
}
