// <rimlight-drop> in Chromium, under a policy without inline styles, eval or HTML from strings.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { page as pages, POLICY, serve, startBrowser } from "./browser.mjs";
import { bundle } from "./bundle.mjs";

let browser, site, page;

before(async () => {
  browser = await startBrowser();
  site = await serve(pages(await bundle("test/pages/element.ts")));
});

after(async () => {
  await browser?.close();
  await site?.stop();
});

beforeEach(async () => {
  await page?.close();
  page = await browser.newPage();
  await page.clock.install({ time: new Date("2026-01-01T12:00:00Z") });
  await page.goto(site.origin);
  await page.waitForFunction(() => "tools" in window);
  await page.clock.pauseAt(new Date("2026-01-01T13:00:00Z")); // from here on time passes only where a test says so
});

const part = (name) => page.locator(`rimlight-drop >> [part="${name}"]`);
const text = (name) => part(name).textContent();
const spoken = () => page.locator("rimlight-drop >> .spoken").textContent();
const show = (...args) => page.evaluate(([opens, closes, more]) => window.tools.platform.show([window.tools.drop(opens, closes, more)]), args);
const disabled = () => part("button").getAttribute("aria-disabled");

async function until(read, want) {
  for (let i = 0; i < 100; i++) {
    if ((await read()) === want) return;
    await page.clock.runFor(1);
  }
  assert.equal(await read(), want);
}

test("it shows a drop in the page's language, and nothing breaks the policy", async () => {
  await show(-1000, 80_000);
  await until(() => text("title"), "A thing");
  assert.equal(await text("price"), "€19.00");
  await page.evaluate(() => { document.documentElement.lang = "de"; });
  await show(-1000, 80_000, { title: "Ein Ding" });
  await until(() => text("title"), "Ein Ding");
  assert.match(await text("price"), /^19,00\s€$/);
  assert.equal(await part("button").evaluate((b) => getComputedStyle(b).borderTopLeftRadius), "8px", "the stylesheet is in force");
  assert.deepEqual(await page.evaluate(() => window.violations), []);
});

test("it counts by the platform's clock, which is an hour ahead of the browser's", async () => {
  await show(65_000, 155_000);
  await until(() => text("label"), "Opens in");
  assert.equal(await text("time"), "1:05");
  await page.clock.runFor(5_000);
  assert.equal(await text("time"), "1:00");
  assert.equal(await disabled(), "true");
  await show(-500, 89_500);
  await until(() => text("label"), "Closes in");
  assert.equal(await text("time"), "1:30");
  assert.equal(await disabled(), "false");
});

test("it says once at 60, 30 and 10 s that time runs out, and is silent otherwise", async () => {
  await page.evaluate(() => {
    window.heard = [];
    const node = window.tools.element.shadowRoot.querySelector(".spoken");
    new MutationObserver(() => window.heard.push(node.textContent)).observe(node, { childList: true, characterData: true, subtree: true });
  });
  await show(-1000, 65_000);
  await until(() => text("label"), "Closes in");
  await page.clock.runFor(70_000);
  assert.deepEqual(await page.evaluate(() => window.heard), ["60 seconds left.", "30 seconds left.", "10 seconds left."]);
  assert.equal(await part("status").getAttribute("role"), "status");
  assert.equal(await part("countdown").getAttribute("aria-live"), null, "the seconds themselves are not read aloud");
});

test("a page that slept says the last mark only", async () => {
  await show(-1000, 65_000);
  await until(() => text("label"), "Closes in");
  await page.clock.fastForward(40_000);
  assert.equal(await spoken(), "30 seconds left.");
});

for (const key of ["Enter", "Space"]) {
  test(`it is bought from with ${key}, and the focus stays where it was through every state`, async () => {
    await page.evaluate(() => {
      const { platform } = window.tools;
      platform.result = { kind: "accepted", purchaseId: "p1", receipt: "r", region: "europe-west3", acceptedAt: 0, via: {} };
      platform.purchases = ["accepted", "received", "captured", "delivered"].map((state) => ({ purchaseId: "p1", state, final: state === "delivered" }));
      window.states = [];
      document.addEventListener("rimlight-purchase", (e) => window.states.push(e.detail.state));
    });
    await show(-1000, 80_000);
    await until(disabled, "false");
    await page.keyboard.press("Tab");
    const focused = () => page.evaluate(() => window.tools.element.shadowRoot.activeElement?.getAttribute("part"));
    assert.equal(await focused(), "button");
    await page.keyboard.press(key);
    await until(() => text("status"), "Delivered.");
    assert.deepEqual(await page.evaluate(() => window.states), ["accepted", "received", "captured", "delivered"]);
    assert.equal(await focused(), "button");
    await show(-1000, 80_000, { soldOut: true });
    await until(disabled, "true");
    assert.equal(await focused(), "button", "a button that cannot be used keeps the focus");
    await page.keyboard.press(key);
    assert.equal((await page.evaluate(() => window.tools.platform.claims)).length, 1, "and does nothing");
  });
}

test("it never takes the focus", async () => {
  await page.evaluate(() => {
    const input = document.createElement("input");
    document.body.prepend(input);
    input.focus();
    window.tools.platform.result = { kind: "refused", reason: "VIEWER_LIMIT", message: "" };
  });
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.evaluate(() => window.tools.element.buy());
  await until(() => text("status"), "You have your share of this drop already.");
  assert.equal(await page.evaluate(() => document.activeElement.localName), "input");
});

test("what was said at one drop does not stand above the next", async () => {
  await page.evaluate(() => {
    window.tools.platform.result = { kind: "refused", reason: "VIEWER_LIMIT", message: "" };
  });
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.evaluate(() => window.tools.element.buy());
  await until(() => text("status"), "You have your share of this drop already.");
  await show(5_000, 95_000, { id: "d2" });
  await until(() => text("status"), "");
});

test("a parcel is sold where the page knows where to, while somebody can send it", async () => {
  const parcel = { physical: true, deliveryKeys: [] };
  await show(-1000, 80_000, parcel);
  await until(() => text("title"), "A thing");
  assert.equal(await part("button").isHidden(), true, "nobody says where to");
  await page.evaluate(() => { window.tools.element.deliver = async () => new TextEncoder().encode("Rue de la Paix 1"); });
  await show(-1000, 80_000, parcel);
  await until(() => text("status"), "Nobody can send it right now.");
  assert.equal(await disabled(), "true");
  await page.evaluate(() => {
    const { platform, drop } = window.tools;
    platform.show([drop(-1000, 80_000, { physical: true, deliveryKeys: [new Uint8Array(32)] })]);
  });
  await until(disabled, "false");
  await part("button").press("Enter");
  await until(() => page.evaluate(() => window.tools.platform.addresses[0]), "Rue de la Paix 1");
  await show(-1000, 80_000, { id: "d2" });
  await until(() => text("status"), "");
  await part("button").press("Enter");
  await until(() => page.evaluate(() => window.tools.platform.claims.length), 2);
  assert.equal(await page.evaluate(() => window.tools.platform.addresses.length), 1, "a digital good goes nowhere");
});

test("a place in the line is told, and asked for again with the same request id", async () => {
  await page.evaluate(() => {
    window.tools.platform.result = { kind: "pending", position: 12, retryAfterMs: 3000, requestId: "r1", via: {} };
  });
  await show(-1000, 80_000);
  await until(disabled, "false");
  await part("button").click();
  await until(() => text("status"), "You are number 12 in line.");
  await page.evaluate(() => { window.tools.platform.result = { kind: "refused", reason: "SOLD_OUT", message: "" }; });
  await page.clock.runFor(3_000);
  await until(() => text("status"), "Sold out.");
  assert.deepEqual(await page.evaluate(() => window.tools.platform.claims), [{ paymentReference: "tp_ok" }, { paymentReference: "tp_ok", requestId: "r1" }]);
});

test("what a player says of the media time goes with the tap", async () => {
  await page.evaluate(() => { window.tools.element.mediaTimeMs = () => 12_345; });
  await show(-1000, 80_000);
  await until(disabled, "false");
  await part("button").click();
  await until(() => page.evaluate(() => window.tools.platform.claims[0]?.mediaTimeMs), 12_345);
});

test("the example with hls.js tells the media time of the video that it plays", async () => {
  const html = `<!doctype html><html lang="en"><title>Player</title><video muted></video><rimlight-drop></rimlight-drop><script type="module" src="/page.js"></script>`;
  const player = await serve(
    { ...pages(await bundle("examples/hls.ts")), "/hls.html": { type: "text/html", body: html } }, `${POLICY}; media-src blob: 'self'; worker-src blob:`);
  try {
    await page.goto(`${player.origin}/hls.html?stream=/live.m3u8&channel=aurora`);
    await page.waitForFunction(() => document.querySelector("video").src !== "" && document.querySelector("rimlight-drop").mediaTimeMs);
    assert.equal(await page.evaluate(() => {
      Object.defineProperty(document.querySelector("video"), "currentTime", { value: 12.345 });
      return document.querySelector("rimlight-drop").mediaTimeMs();
    }), 12_345);
    assert.equal(await page.locator("rimlight-drop").getAttribute("channel"), "aurora");
  } finally {
    await page.goto("about:blank");
    await player.stop();
  }
});

test("of two open drops it shows the one that it can sell", async () => {
  const both = () => page.evaluate(() => {
    const { platform, drop } = window.tools;
    platform.show([drop(-2000, 80_000, { id: "p1", title: "A print", physical: true, deliveryKeys: [new Uint8Array(32)] }), drop(-1000, 80_000, { id: "d2", title: "A recording" })]);
  });
  await both();
  await until(() => text("title"), "A recording");
  await page.evaluate(() => { window.tools.element.deliver = async () => new TextEncoder().encode("Rue de la Paix 1"); });
  await both();
  await until(() => text("title"), "A print");
});

// Silence as MP3: MPEG-1 layer III, 128 kbit/s, 44.1 kHz; a frame of zeros after its header is silent.
function silence(seconds) {
  const frame = Buffer.alloc(417);
  frame.set([0xff, 0xfb, 0x90, 0x64]);
  return Buffer.concat(Array(Math.round(seconds * 44_100 / 1152)).fill(frame));
}

test("the example with hls.js tells the time since the stream began, wherever the playlist begins", async () => {
  const html = `<!doctype html><html lang="en"><title>Player</title><video muted></video><rimlight-drop></rimlight-drop><script type="module" src="/page.js"></script>`;
  const began = Date.UTC(2026, 0, 2, 9), anHour = 3_600_000;
  const playlist = `#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:900\n` +
    `#EXT-X-PROGRAM-DATE-TIME:${new Date(began + anHour).toISOString()}\n#EXTINF:4.0,\n/900.mp3\n#EXTINF:4.0,\n/901.mp3\n#EXT-X-ENDLIST\n`;
  const player = await serve({
    ...pages(await bundle("examples/hls.ts")), "/hls.html": { type: "text/html", body: html },
    "/live.m3u8": { type: "application/vnd.apple.mpegurl", body: playlist },
    "/900.mp3": { type: "audio/mpeg", body: silence(4) }, "/901.mp3": { type: "audio/mpeg", body: silence(4) },
  }, `${POLICY}; media-src blob: 'self'; worker-src blob:`);
  try {
    await page.goto(`${player.origin}/hls.html?stream=/live.m3u8&began=${began}`);
    for (const second of [0, 3]) {
      await page.evaluate((at) => { document.querySelector("video").currentTime = at; }, second);
      await page.waitForFunction((want) => {
        const told = document.querySelector("rimlight-drop").mediaTimeMs?.();
        return Math.abs(told - want) < 500; // encoders begin a frame early or late
      }, anHour + 1000 * second, { timeout: 60_000 });
    }
  } finally {
    await page.goto("about:blank");
    await player.stop();
  }
});

test("a choice between voucher and money stays until it is made, with its deadline", async () => {
  await page.evaluate(() => {
    const { platform } = window.tools;
    platform.result = { kind: "accepted", purchaseId: "p1", receipt: "r", region: "here", acceptedAt: 0, via: {} };
    platform.purchases = [{ purchaseId: "p1", dropId: "d1", state: "choice_required", final: false, reason: "ORDER_FAILED", price: {}, choiceUntil: Date.UTC(2026, 0, 2, 9, 30) }];
    document.documentElement.lang = "en-GB";
  });
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.evaluate(() => window.tools.element.buy());
  await until(() => part("choice").isVisible(), true);
  assert.match(await text("status"), /^This did not work out\. Choose a voucher or your money until 2 Jan 2026, /);
  await show(5_000, 95_000, { id: "d2" });
  await until(() => text("label"), "Opens in");
  assert.equal(await part("choice").isVisible(), true, "the next drop does not take it away");
  assert.equal(await text("voucher"), "Take a voucher");
  await part("money").press("Enter");
  await until(() => part("choice").isVisible(), false);
  assert.deepEqual(await page.evaluate(() => window.tools.platform.chosen), ["p1 money"]);
  assert.equal(await page.evaluate(() => window.tools.element.shadowRoot.activeElement.getAttribute("part")), "card", "the keyboard is where it was");
});

test("a lost connection is told", async () => {
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.evaluate(() => window.tools.platform.show([window.tools.drop(-1000, 80_000)], false));
  await until(() => text("status"), "The connection is lost. Trying again…");
});

test("nothing moves for viewers who asked for that", async () => {
  const transition = () => part("button").evaluate((b) => getComputedStyle(b).transitionDuration);
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.emulateMedia({ reducedMotion: "no-preference" });
  assert.equal(await transition(), "0.2s");
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.equal(await transition(), "0s");
});

test("a page themes it by its parts", async () => {
  await show(-1000, 80_000);
  await until(disabled, "false");
  await page.evaluate(() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("rimlight-drop::part(button) { border-radius: 3px } rimlight-drop { --rimlight-accent: rgb(1, 2, 3) }");
    document.adoptedStyleSheets = [sheet];
  });
  assert.deepEqual(await part("button").evaluate((b) => [getComputedStyle(b).borderTopLeftRadius, getComputedStyle(b).backgroundColor]), ["3px", "rgb(1, 2, 3)"]);
});
