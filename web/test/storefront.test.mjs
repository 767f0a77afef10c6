// The storefront as `rimlight dev` serves it: in Chromium, over TLS with HTTP/2, on a desk and on a phone.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { startBrowser } from "./browser.mjs";
import { startPlatform } from "./platform.mjs";

const SLOW = { timeout: 60_000 };
const vectors = JSON.parse(await readFile(new URL("../../internal/token/testdata/vectors.json", import.meta.url), "utf8"));
const LICENCE = /^[0-9A-Z-]{20,}$/;

let platform, browser, context, page, problems, protocols;

before(async () => {
  [platform, browser] = await Promise.all([startPlatform({ args: ["--drills"] }), startBrowser()]);
  // One drop that outlasts all tests: none of them meets its end by chance. It opens once every region has its lease.
  await platform.verb("drops", "create", "--channel", "bench", "--title", "A thing", "--units", "500", "--price", "19", "--opens", "15s", "--duration", "10m");
});

after(async () => {
  await browser?.close();
  await platform?.stop();
});

beforeEach(async () => {
  context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1120, height: 800 } });
  page = await context.newPage();
  problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (m) => m.type() === "error" && !m.text().includes("Failed to load resource") && problems.push(m.text()));
  protocols = new Set();
  const devtools = await context.newCDPSession(page);
  await devtools.send("Network.enable");
  devtools.on("Network.responseReceived", ({ response }) => protocols.add(response.protocol));
  await page.goto(platform.urls[0]);
});

afterEach(async () => {
  assert.deepEqual(problems, [], "errors on the page, or breaches of its policy");
  await context.close();
});

/** Taps at the drop of these tests, with the keyboard. */
async function buy(card = "tp_ok") {
  await page.check(`input[value=${card}]`);
  await page.locator(".channel", { hasText: "bench" }).locator("rimlight-drop >> button[aria-disabled=false]").press("Enter", SLOW);
}

const purchase = (on) => on.locator(".purchase").first();
const inState = (state) => page.locator(`.purchase[data-state=${state}]`).waitFor(SLOW);

test("it buys over TLS with HTTP/2, says why there, and the receipt verifies after a reload", async () => {
  await page.selectOption("#place", "europe-west2");
  await buy();
  await inState("delivered");
  const card = purchase(page);
  assert.match(await card.locator(".big").textContent(), /^[0-9.]+ ms$/);
  assert.equal(await card.locator(".figures").textContent().then((text) => text.includes("europe-west3")), true, "the region that is nearest");
  assert.match(await card.locator(".why").textContent(), /^europe-west3 is expected to answer soonest: /);
  await card.locator("[data-verified=true]").waitFor();
  const key = await card.locator(".key").textContent();
  assert.match(key, LICENCE);
  assert.match(await card.textContent(), /TEST/);
  assert.deepEqual([...protocols], ["h2"]);

  await page.reload();
  await inState("delivered");
  await purchase(page).locator("[data-verified=true]").waitFor();
  assert.equal(await purchase(page).locator(".key").textContent(), key);
  assert.match(await purchase(page).locator(".big").textContent(), /ms$/);
  assert.equal(await page.locator(".purchase").count(), 1);
});

test("a payment that needs the buyer waits for the button, and goes on over a reload", async () => {
  await buy("tp_action_required");
  await inState("action_required");
  await page.reload();
  await page.getByRole("button", { name: "Confirm the TEST payment" }).press("Enter", SLOW);
  await inState("delivered");
  assert.match(await purchase(page).locator(".key").textContent(), LICENCE);
});

test("a declined payment ends in a voucher, and another viewer buys in the same drop", async () => {
  await buy("tp_decline");
  await inState("voucher");
  await page.getByRole("button", { name: "Be another viewer" }).click();
  await buy();
  await inState("delivered");
  assert.equal(await page.locator(".purchase").count(), 2);
});

test("a voucher pays the next purchase, once", async () => {
  await buy("tp_decline");
  await inState("voucher");
  await page.getByRole("button", { name: "Use this voucher" }).press("Enter", SLOW);
  await page.getByText("The next tap uses your price lock of €19.00").waitFor(SLOW);
  await page.getByRole("button", { name: "Be another viewer" }).click();
  const text = await page.evaluate(async (id) => {
    const { RimlightClient } = await import("/client.js");
    for await (const p of new RimlightClient({ routers: [location.origin] }).follow(id)) if (p.final) return p.voucher.text;
  }, await purchase(page).getAttribute("data-purchase"));
  const asked = page.waitForRequest((request) => request.url().endsWith("/ClaimOffer"), SLOW);
  await buy();
  assert.ok(text && (await asked).postDataBuffer().includes(text), "the voucher is in the call");
  await inState("delivered");
  assert.equal(await page.locator("#voucher").isVisible(), false);
});

// The depot's own process opens what the page sealed, in another implementation of HPKE.
test("a parcel's address is sealed in the page, and the depot that packs can read it", async () => {
  const { drop } = await platform.verb("drops", "create", "--channel", "posters", "--title", "A poster", "--units", "20", "--price", "15",
    "--sku", "poster", "--opens", "1s", "--duration", "10m");
  const loaded = [];
  page.on("request", (request) => loaded.push(new URL(request.url()).pathname));
  const tap = page.locator(".channel", { hasText: "posters" }).locator("rimlight-drop >> [part=button][aria-disabled=false]");
  await tap.waitFor(SLOW);
  assert.ok(!loaded.includes("/seal.js"), "what seals is loaded for the first parcel");
  const address = page.getByLabel("Where parcels go");
  await address.fill("CANARY card 4111 1111 1111 1111");
  await tap.press("Enter");
  await page.locator(".channel", { hasText: "posters" }).getByText("holds a card number").waitFor(SLOW);
  assert.ok(!loaded.some((path) => path.endsWith("/ClaimOffer")), "nothing was sent");

  await address.fill("CANARY Rue de la Paix 1");
  const asked = page.waitForRequest((request) => request.url().endsWith("/ClaimOffer"), SLOW);
  await tap.press("Enter");
  const body = (await asked).postDataBuffer();
  assert.ok(body.length > 400 && !body.includes("CANARY") && body.includes(drop.drop?.dropId ?? drop.dropId), "the address is not readable in the call");
  await inState("shipped");
  await purchase(page).locator("[data-verified=true]").waitFor(SLOW);
  const kept = await page.evaluate(async () => {
    const { IndexedDbStore } = await import("/client.js");
    return (await (await IndexedDbStore.open()).all())[0].sealed?.envelope.length;
  });
  assert.ok(kept > 300, "the envelope is kept with the purchase, for repeats");
});

// What a node that breaks a parcel leads to is for the command line's tests: here the platform's answers are made up.
test("an order that failed after it was paid lets the viewer choose, until the time that it shows", async () => {
  await buy();
  await inState("delivered");
  const id = await purchase(page).getAttribute("data-purchase");
  const field = (number, bytes) => Buffer.concat([Buffer.from([number << 3 | 2, bytes.length]), bytes]);
  const deadline = Buffer.from([8, 0x80, 0xa8, 0xd6, 0xb9, 0x07]); // Timestamp{seconds: 2e9}
  let state = 11; // CHOICE_REQUIRED
  const answer = () => field(1, Buffer.concat([field(1, Buffer.from(id)), Buffer.from([3 << 3, state]), ...(state === 11 ? [field(14, deadline)] : [])]));
  const chosen = [];
  await page.route("**/WatchPurchase", (route) => {
    const end = Buffer.from(JSON.stringify({ error: { code: "unavailable" } })); // so that it is asked for again
    const body = Buffer.concat([Buffer.from([0, 0, 0, 0, answer().length]), answer(), Buffer.from([2, 0, 0, 0, end.length]), end]);
    return route.fulfill({ contentType: "application/connect+proto", body });
  });
  await page.route("**/ChooseMakeGood", (route) => {
    state = 9; // VOUCHER
    chosen.push(route.request().postDataBuffer().at(-1));
    return route.fulfill({ contentType: "application/proto", body: answer() });
  });
  await page.reload();
  await inState("choice_required");
  assert.match(await purchase(page).locator(".outcome").textContent(), /Choose a voucher or your money until May 18, 2033, .* After that, it is your money\./);
  await page.setViewportSize({ width: 390, height: 844 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than a phone");
  await page.getByRole("button", { name: "Take a voucher" }).press("Enter", SLOW);
  await inState("voucher");
  assert.deepEqual(chosen, [1], "MAKE_GOOD_VOUCHER, the message's last field");
});

test("with the router unplugged, the next tap goes through another", async () => {
  await page.selectOption("#place", "europe-west2");
  await page.locator(".routers .used", { hasText: "europe-west1" }).waitFor(SLOW);
  await page.getByRole("button", { name: "Unplug europe-west1" }).press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Plug in", "the focus stays");
  await buy();
  await inState("delivered");
  assert.match(await purchase(page).locator(".figures").textContent(), /us-west1/);
});

test("with its region cut off, the next tap is decided elsewhere", async () => {
  await page.selectOption("#place", "europe-west2");
  const region = page.locator("#regions tr", { hasText: "europe-west3" });
  await region.locator(".good").waitFor(SLOW);
  assert.match(await page.locator("#outage-command").textContent(), /^rimlight fault partition europe-west3 /);
  await platform.verb("fault", "partition", "europe-west3", "--for", "20s");
  await region.locator(".bad").waitFor(SLOW);
  await buy();
  await inState("delivered");
  assert.doesNotMatch(await purchase(page).locator(".figures").textContent(), /europe-west3/);
  await region.locator(".good").waitFor(SLOW);
});

test("a receipt of another run is not passed off as verified, and can be forgotten", async () => {
  await page.locator("rimlight-drop").first().waitFor(SLOW);
  const { text, purchase_id } = vectors.texts.find((v) => v.want === "ok" && v.kind === "receipt");
  await page.evaluate(async ([receipt, purchaseId]) => {
    const { IndexedDbStore } = await import("/client.js");
    const store = await IndexedDbStore.open();
    await store.put({ purchaseId, dropId: "01890000-0000-7000-8000-000000000000", title: "Long ago", price: { currency: "EUR", minorUnits: 100n }, keptMs: 0, receipt, region: "nowhere" });
  }, [text, purchase_id]);
  await page.reload();
  const old = page.locator(".purchase", { hasText: "Long ago" });
  await old.getByText("Signed with a key that this platform does not publish").waitFor(SLOW);
  assert.equal(await old.locator("[data-verified]").count(), 0);
  await old.getByRole("button", { name: "Forget it" }).click();
  await old.waitFor({ state: "detached" });
  await page.reload();
  await page.getByText("None yet.").waitFor(SLOW);
});

test("a drop that is sold out says so at once", async () => {
  const { drop } = await platform.verb("drops", "create", "--channel", "attic", "--title", "The last one", "--units", "1", "--price", "5", "--opens", "1s");
  await platform.verb("buy", "--drop", drop.drop?.dropId ?? drop.dropId);
  const attic = page.locator(".channel", { hasText: "attic" });
  await attic.locator(".stock", { hasText: "sold out" }).waitFor(SLOW);
  assert.equal(await attic.locator('rimlight-drop >> [part="status"]').textContent(), "Sold out.");
  assert.equal(await attic.locator("rimlight-drop >> [part=button]").getAttribute("aria-disabled"), "true");
});

test("on a phone nothing is wider than the screen", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.locator("#regions tr").nth(3).waitFor(SLOW);
  await page.locator("#outage summary").click();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
});
