// A purchase as it ships: web/dist, in Chromium, from another origin, over TLS, at a platform of its own.
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";
import { serve, startBrowser } from "./browser.mjs";
import { startPlatform } from "./platform.mjs";

const dist = join(import.meta.dirname, "../dist");
const types = { ".js": "text/javascript", ".html": "text/html", ".css": "text/css" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src https://127.0.0.1:*; base-uri 'none'; require-trusted-types-for 'script'";
const DEAD = "https://127.0.0.1:1"; // nobody listens there

let platform, browser, site;

before(async () => {
  const pages = { "/shop.html": { type: "text/html", body: `<!doctype html><html lang="en"><title>Shop</title><script type="module" src="/shop.js"></script>` } };
  for (const name of await readdir(dist, { recursive: true })) {
    if (types[extname(name)]) pages[`/${name}`] = { type: types[extname(name)], body: await readFile(join(dist, name)) };
  }
  pages["/shop.js"] = { type: "text/javascript", body: `import * as rimlight from "./client.js"; import "./element.js"; window.rimlight = rimlight; window.sealer = () => import("./seal.js");` };
  [platform, browser, site] = await Promise.all([startPlatform({ traces: true }), startBrowser(), serve(pages, POLICY)]);
});

after(async () => {
  await browser?.close();
  await site?.stop();
  await platform?.stop();
});

/** A page with the element, and what it tells. routers: the first is dead, so that every purchase is one after a failover. */
async function shop(context, payment) {
  const page = await context.newPage();
  await page.goto(`${site.origin}/shop.html`);
  await page.waitForFunction(() => "rimlight" in window);
  await page.evaluate(([routers, paymentReference]) => {
    window.told = [];
    for (const name of ["rimlight-result", "rimlight-purchase"]) document.addEventListener(name, (e) => window.told.push({ ...e.detail, price: undefined, voucher: undefined, via: e.detail.via }));
    const drop = document.createElement("rimlight-drop");
    drop.setAttribute("routers", routers.join(" "));
    drop.setAttribute("payment-reference", paymentReference);
    document.body.append(drop);
  }, [[DEAD, ...platform.urls], payment]);
  return page;
}

/** The final state of a purchase, once the page has told it. */
async function final(page, id) {
  const told = await page.waitForFunction((id) => window.told.find((t) => t.purchaseId === id && t.final), id, { timeout: 120_000 });
  return told.jsonValue();
}

/**
 * Taps until a tap is accepted, which it returns. One tap is not enough: between a look at the button and the tap the demo's drop
 * may end, and on a busy machine a tap may be refused or get no answer in time. The first drop opens 15 s after the start.
 */
async function buy(page) {
  const accepted = await page.waitForFunction(() => {
    void document.querySelector("rimlight-drop").buy(); // nothing, while the button is disabled or a tap is under way
    return window.told.find((t) => t.kind === "accepted");
  }, undefined, { polling: 250, timeout: 150_000 });
  return accepted.jsonValue();
}

test("the element buys past a dead router, and the receipt verifies after a reload", async () => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await shop(context, "tp_ok");
  const accepted = await buy(page);
  assert.ok(platform.urls.includes(accepted.via.router), `accepted through ${accepted.via.router}`);
  const last = await final(page, accepted.purchaseId);
  assert.equal(last.state, "delivered");
  assert.match(last.licenceKey, /^[0-9A-Z-]{20,}$/);

  await page.reload();
  await page.waitForFunction(() => "rimlight" in window);
  const kept = await page.evaluate(async ([routers, id]) => {
    const client = new window.rimlight.RimlightClient({ routers });
    const { purchaseId, receipt } = (await client.purchases()).find((p) => p.purchaseId === id);
    return { id: purchaseId, receipt, verified: await client.verify(id) };
  }, [platform.urls, accepted.purchaseId]);
  assert.deepEqual(kept, { id: accepted.purchaseId, receipt: accepted.receipt, verified: { receipt: true, outcome: true } });
  await context.close();
});

test("a page that goes away after the receipt presents it again, and hears the outcome", async () => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await shop(context, "tp_decline");
  await page.route("**/WatchPurchase", () => {}); // else it may hear the outcome before it goes, and nothing is left to be heard
  const { purchaseId } = await buy(page);
  await page.close(); // nothing but IndexedDB stays

  const again = await shop(context, "tp_ok");
  const last = await final(again, purchaseId);
  assert.deepEqual([last.purchaseId, last.state, last.reason], [purchaseId, "voucher", "PAYMENT_DECLINED"]);
  await context.close();
});

// What each service does for one purchase.
const TRACED = {
  router: ["rimlight.offer.v1.OfferService/RequestOffer", "rimlight.offer.v1.OfferService/RedeemOffer", "rimlight.offer.v1.OfferService/WatchPurchase", "router.attempt"],
  region: ["rimlight.offer.v1.OfferService/RequestOffer", "rimlight.offer.v1.OfferService/RedeemOffer", "rimlight.offer.v1.OfferService/WatchPurchase", "region.decide", "journal.commit", "region.forward"],
  verifier: ["verifier.ingest", "verifier.settle", "verifier.pay", "ledger.commit", "verifier.order", "verifier.outcome"],
  fulfillment: ["rimlight.fulfillment.v1.OrderService/PlaceOrders", "fulfillment.assign"],
  node: ["node.pack", "node.send"],
};

test("a purchase is one trace, from the page to the parcel", async () => {
  await platform.verb("drops", "create", "--channel", "parcels", "--title", "Poster", "--units", "20", "--price", "19", "--sku", "poster", "--opens", "1s", "--duration", "30m");
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const sent = {};
  page.on("request", (request) => {
    const method = request.url().split("/").at(-1);
    if (request.method() === "POST") sent[method] = request.headers().traceparent;
  });
  await page.goto(`${site.origin}/shop.html`);
  await page.waitForFunction(() => "rimlight" in window);
  const state = await page.evaluate(async (routers) => {
    const client = new window.rimlight.RimlightClient({ routers, channelId: "parcels", consent: ["delivery"], sealer: window.sealer });
    for await (const { drops } of client.watchDrops()) {
      const open = drops.find((d) => d.state === "open" && !d.soldOut && d.deliveryKeys.length > 0);
      if (!open) continue;
      const offer = await client.requestOffer({ dropId: open.id });
      if (offer.kind !== "granted") continue;
      const bought = await client.redeem(offer.offer, { paymentReference: "tp_ok", deliveryDetails: new TextEncoder().encode("1 Test Street") });
      if (bought.kind !== "accepted") continue; // it was over just then
      for await (const p of client.follow(bought.purchaseId)) if (p.final) return p.state;
    }
  }, platform.urls);
  assert.equal(state, "shipped");
  const [, trace, root] = sent.RequestOffer.split("-");
  assert.deepEqual([sent.RedeemOffer, sent.WatchPurchase], [sent.RequestOffer, sent.RequestOffer], "one traceparent for all calls of a purchase");
  assert.equal(sent.WatchDrops, undefined, "what is no purchase is in no trace of the page's");

  let spans, missing;
  for (const until = Date.now() + 60_000; ; await new Promise((wait) => setTimeout(wait, 50))) {
    spans = platform.spans().filter((s) => s.trace === trace);
    missing = Object.entries(TRACED).flatMap(([service, names]) => names.filter((name) => !spans.some((s) => s.service === service && s.name === name)).map((name) => `${service}: ${name}`));
    if (missing.length === 0 || Date.now() > until) break;
  }
  assert.deepEqual(missing, []);
  const ids = new Set(spans.map((s) => s.span));
  assert.deepEqual(spans.filter((s) => s.parent !== root && !ids.has(s.parent)).map((s) => s.name), [], "every span has its parent in the trace, or is a call of the page");
  await context.close();
});

test("the overlay for OBS is transparent, and shows the drop without a button", async () => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  await page.goto(`${site.origin}/examples/overlay.html?lang=de&routers=${encodeURIComponent(platform.urls.join(" "))}`);
  await page.locator('rimlight-drop >> [part="time"]').waitFor();
  assert.match(await page.locator('rimlight-drop >> [part="price"]').textContent(), /^1[0-9],00\s[€$]$/);
  assert.equal(await page.locator("rimlight-drop >> [part=button]").isVisible(), false);
  const see = (selector) => page.locator(selector).evaluate((e) => getComputedStyle(e).backgroundColor);
  assert.deepEqual([await see("html"), await see("body")], ["rgba(0, 0, 0, 0)", "rgba(0, 0, 0, 0)"]);
  assert.deepEqual(problems, []);
  await context.close();
});
