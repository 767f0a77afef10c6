// The SDK in node, over Connect's transport in memory.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { mock, test } from "node:test";
import { load } from "./bundle.mjs";

const sdk = await load("test/internals.ts");
const { Calls, Code, ConnectError, createRouterTransport, OfferService, RimlightClient, RimlightError, Routers } = sdk;

const vectors = JSON.parse(await readFile(new URL("../../internal/token/testdata/vectors.json", import.meta.url), "utf8"));

async function publishedKeys() {
  const keys = new sdk.Keys();
  await keys.add(vectors.keys.map((k) => ({
    keyId: sdk.fromHex(k.key_id), publicKey: sdk.fromHex(k.public_key), owner: k.owner, nodeId: k.node_id,
  })));
  return keys;
}

for (const v of vectors.texts) {
  test(`signed texts: ${v.rule} is ${v.want}`, async () => {
    const keys = await publishedKeys();
    const open = { offer_token: () => keys.openOfferToken(v.text), receipt: () => keys.openReceipt(v.text), outcome: () => keys.openOutcome(v.text) }[v.kind];
    if (v.want !== "ok") return assert.rejects(open, (error) => error instanceof sdk.UnverifiedError && error.why === v.want);
    const opened = await open();
    if (v.purchase_id) assert.equal((opened.receipt ?? opened).purchaseId, v.purchase_id);
  });
}

test("signed texts: the first word about a key stands, and a liar's key is left out", async () => {
  const keys = await publishedKeys();
  const [node] = vectors.keys;
  await keys.add([
    { keyId: sdk.fromHex(node.key_id), publicKey: sdk.fromHex(node.public_key), owner: 2, nodeId: "liar" },
    { keyId: sdk.fromHex("0011223344556677"), publicKey: sdk.fromHex(node.public_key), owner: 1, nodeId: "liar" },
  ]);
  await keys.openReceipt(vectors.texts.find((v) => v.kind === "receipt" && v.want === "ok").text);
});

test("token ids and purchase ids are derived as the platform does", async () => {
  for (const v of vectors.token_ids) {
    const id = await sdk.deriveTokenId(sdk.fromHex(v.session), v.drop_id, v.request_id);
    assert.equal(sdk.hex(id), v.token_id);
    assert.equal(await sdk.purchaseIdOf(id), v.purchase_id);
  }
});

test("money is written in the currency's own digits, without a float in between", () => {
  const eur = (minorUnits) => sdk.formatMoney({ currency: "EUR", minorUnits }, "de-DE").replace(/\s/u, " ");
  assert.equal(eur(1900n), "19,00 €");
  assert.equal(eur(5n), "0,05 €");
  assert.equal(eur(12345678901234567890n), "123.456.789.012.345.678,90 €");
  assert.equal(sdk.formatMoney({ currency: "JPY", minorUnits: 1200n }, "en"), "¥1,200");
  assert.equal(sdk.formatMoney({ currency: "KWD", minorUnits: 1n }, "en").replace(/\s/u, " "), "KWD 0.001");
});

test("the platform's clock is as the fastest message tells it", () => {
  const clock = new sdk.ServerClock();
  clock.observe(10_000, 500); // took 100 ms
  clock.observe(10_400, 1_000); // took 200 ms
  assert.equal(clock.now(1_000), 10_500);
  for (let i = 0; i < 8; i++) clock.observe(3_600_000 + i, 2_000 + i); // the machine slept
  assert.equal(clock.now(3_000), 3_601_000);
});

test("a router is changed for a clearly nearer one only, and not for one that just failed", () => {
  let now = 0;
  const routers = new Routers(["http://a/", "http://b"], () => now);
  assert.equal(routers.pick(), "http://a");
  for (const [rule, a, b, want] of [
    ["nobody was measured but b", undefined, 80, "http://b"],
    ["a is a little nearer", 75, 80, "http://b"],
    ["a is nearer by 9 of 20 ms", 11, 20, "http://b"],
    ["a is nearer by 15 of 100 ms", 85, 100, "http://b"],
    ["a is nearer by 30 of 100 ms", 70, 100, "http://a"],
  ]) {
    for (const [i, rtt] of [a, b].entries()) if (rtt !== undefined) routers.states[i].rttMs = rtt;
    assert.equal(routers.pick(), want, rule);
  }
  routers.failed("http://a");
  assert.equal(routers.pick(), "http://b", "a failed");
  now = 999;
  assert.equal(routers.pick(), "http://b", "a is avoided for a second");
  now = 1_000;
  assert.equal(routers.pick(), "http://a", "the second is over");
  for (let i = 0; i < 9; i++) routers.failed("http://a");
  assert.equal(routers.states[0].avoidUntil, 1_000 + 30_000, "never longer than half a minute");
  routers.failed("http://b");
  assert.equal(routers.pick(), "http://b", "all failed: the one whose time is up first");
});

/** Routers by what their handlers do; calls counts how often each was asked. */
function world(handlers) {
  const calls = {};
  const transports = Object.fromEntries(Object.entries(handlers).map(([url, methods]) => {
    const counted = Object.fromEntries(Object.entries(methods).map(([name, f]) => [name, (...args) => {
      calls[url] = (calls[url] ?? 0) + 1;
      return f(...args);
    }]));
    return [url, createRouterTransport(({ service }) => service(OfferService, counted))];
  }));
  const routers = new Routers(Object.keys(handlers));
  return { routers, calls, transports, make: new Calls(routers, (url) => transports[url]) };
}

const gone = () => { throw new ConnectError("nobody there", Code.Unavailable); };
const fine = () => ({ keys: [], nextPageToken: "fine" });
const listKeys = OfferService.method.listKeys;

test("a call goes to the next router when one does not answer, at once", async () => {
  const w = world({ a: { listKeys: gone }, b: { listKeys: fine } });
  const { message, via } = await w.make.unary(listKeys, {});
  assert.equal(message.nextPageToken, "fine");
  assert.deepEqual([via.router, via.tries], ["b", 2]);
  await w.make.unary(listKeys, {});
  assert.deepEqual(w.calls, { a: 1, b: 2 }, "the one that failed is left alone");
});

test("a call that is not idempotent is made once", async () => {
  const w = world({ a: { listKeys: gone }, b: { listKeys: fine } });
  await assert.rejects(w.make.unary({ ...listKeys, idempotency: 0 }, {}), (error) => error instanceof RimlightError && error.unanswered);
  assert.deepEqual(w.calls, { a: 1 });
});

test("a definite answer is not asked for twice", async () => {
  const no = () => { throw new ConnectError("no", Code.FailedPrecondition); };
  const w = world({ a: { listKeys: no }, b: { listKeys: fine } });
  await assert.rejects(w.make.unary(listKeys, {}), (error) => error.code === Code.FailedPrecondition && !error.unanswered);
  assert.deepEqual(w.calls, { a: 1 });
});

// ErrorInfo {reason: NO_UNIT_HERE, domain: rimlight.dev, metadata: {drop_id: d1}} and RetryInfo {0.04 s}.
const NO_UNIT = [
  { type: "google.rpc.ErrorInfo", value: Buffer.from("\n\fNO_UNIT_HERE\x12\frimlight.dev\x1a\r\n\x07drop_id\x12\x02d1", "latin1") },
  { type: "google.rpc.RetryInfo", value: Buffer.from("0a051080b48913", "hex") },
];

test("the platform's reason, its variables and its wait are read", () => {
  const error = new ConnectError("none here", Code.ResourceExhausted);
  error.details = NO_UNIT;
  const read = sdk.toRimlightError(error);
  assert.deepEqual([read.reason, read.metadata, read.retryAfterMs], ["NO_UNIT_HERE", { drop_id: "d1" }, 40]);
  error.details = [{ type: "google.rpc.ErrorInfo", value: Buffer.from("\n\x01X\x12\x05other", "latin1") }];
  assert.equal(sdk.toRimlightError(error).reason, "", "another domain's reason is not ours");
});

test("a call is made again when the platform asks for it, at the same router", async () => {
  let asked = 0;
  const busy = () => {
    if (++asked < 3) {
      const error = new ConnectError("none here", Code.ResourceExhausted);
      error.details = NO_UNIT;
      throw error;
    }
    return fine();
  };
  const w = world({ a: {}, b: {} });
  // As over the wire: the transport in memory would drop details that it did not make itself.
  w.make.transport = () => ({ unary: async () => ({ message: busy(), header: new Headers() }) });
  const { via } = await w.make.unary(listKeys, {});
  assert.deepEqual([via.router, via.tries], ["a", 3]);
});

test("a call that the page aborts is not repeated", async () => {
  const stop = new AbortController();
  const w = world({ a: { listKeys: () => { stop.abort(new Error("enough")); gone(); } }, b: { listKeys: fine } });
  await assert.rejects(w.make.unary(listKeys, {}, stop.signal), /enough/);
  assert.deepEqual(w.calls, { a: 1 });
});

test("the drops go on at another router, from the last token", async () => {
  const drop = (dropId, state) => ({ dropId, state, title: dropId, price: { currencyCode: "EUR", minorUnits: 1n } });
  const tokens = [];
  const a = async function* (request) {
    tokens.push(request.resumeToken);
    yield { event: { case: "snapshot", value: { drops: [drop("d1", sdk.DropState.PLANNED)] } }, resumeToken: "t1" };
    yield { event: { case: "heartbeat", value: {} }, resumeToken: "t2" };
    gone();
  };
  const b = async function* (request) {
    tokens.push(request.resumeToken);
    yield { event: { case: "changed", value: drop("d1", sdk.DropState.OPEN) }, resumeToken: "t3" };
    yield { event: { case: "changed", value: drop("d2", sdk.DropState.PLANNED) }, resumeToken: "t4" };
  };
  const w = world({ "http://a": { watchDrops: a, listKeys: gone }, "http://b": { watchDrops: b, listKeys: () => ({}) } });
  const client = new RimlightClient({ routers: ["http://a", "http://b"], transport: (url) => w.transports[url] });
  const seen = [];
  for await (const view of client.watchDrops()) {
    seen.push([view.live, ...view.drops.map((d) => `${d.id} ${d.state}`)]);
    if (view.drops.length === 2) break;
  }
  assert.deepEqual(seen, [[true, "d1 planned"], [false, "d1 planned"], [true, "d1 open"], [true, "d1 open", "d2 planned"]]);
  assert.deepEqual(tokens, ["", "t2"]);
});

const OFFER = vectors.texts.find((v) => v.kind === "offer_token" && v.want === "ok").text;
const offer = {
  dropId: "02020202-0202-0202-0202-020202020202", title: "A thing", price: { currency: "EUR", minorUnits: 1900n }, expiresAt: 0, arm: "",
  region: "", requestId: "r1", token: OFFER, deliveryKeys: [],
};
const GENUINE = vectors.texts.find((v) => v.kind === "receipt" && v.want === "ok");
const OUTCOME = vectors.texts.find((v) => v.kind === "outcome" && v.want === "ok").text;
const keysAnswer = () => ({ keys: vectors.keys.map((k) => ({ keyId: sdk.fromHex(k.key_id), publicKey: sdk.fromHex(k.public_key), owner: k.owner, nodeId: k.node_id })) });

/** A client whose viewer session is the one in the vectors. */
function viewer(methods, store = new sdk.MemoryStore()) {
  const w = world({ "http://a": { listKeys: keysAnswer, ...methods } });
  mock.method(globalThis.crypto, "getRandomValues", (bytes) => bytes.fill(3));
  const client = new RimlightClient({ routers: ["http://a"], transport: (url) => w.transports[url], store, sealer: async () => sdk });
  mock.restoreAll();
  return { client, store, calls: w.calls };
}

const accepts = (receipt) => () => ({ receipt, purchaseId: GENUINE.purchase_id, region: "europe-west3" });
const options = { paymentReference: "tp_ok" };

test("a redemption's receipt is verified and kept", async () => {
  const { client, store } = viewer({ redeemOffer: accepts(GENUINE.text) });
  const result = await client.redeem(offer, options);
  assert.equal(result.kind, "accepted");
  assert.equal((await store.get(GENUINE.purchase_id)).receipt, GENUINE.text);
  assert.deepEqual(await client.verify(GENUINE.purchase_id), { receipt: true, outcome: false });
});

test("details are sealed for the offer's depots, and a repeat after a reload sends the same bytes", async () => {
  const { publicKey } = await crypto.subtle.generateKey("X25519", true, ["deriveBits"]);
  const keys = [new Uint8Array(await crypto.subtle.exportKey("raw", publicKey))];
  const sent = [];
  const redeemOffer = (request) => (sent.push(request.deliveryDetails), accepts(GENUINE.text)());
  const store = new sdk.MemoryStore();
  const redeem = (where, more) => viewer({ redeemOffer }, store).client.redeem({ ...offer, ...more }, { ...options, deliveryDetails: new TextEncoder().encode(where) });
  await redeem("Rue de la Paix 1", { deliveryKeys: keys });
  await redeem("Rue de la Paix 1", { deliveryKeys: keys });
  await redeem("Rue de la Paix 2", { deliveryKeys: keys });
  await redeem("Rue de la Paix 1", {});
  assert.deepEqual(sent[0], sent[1]);
  assert.notDeepEqual(sent[0], sent[2], "another address is another redemption: the platform says so");
  assert.ok(sent[0].length > 256 && !Buffer.from(sent[0]).includes("Paix"));
  assert.equal(sent[3].length, 0, "nobody needs to know where a digital good goes");
});

const grants = () => ({ decision: { case: "granted", value: { offerToken: OFFER } } });

test("the calls of one intention are one trace, over a reload, and what is none has none", async () => {
  const sent = {};
  const hear = (name, answer) => function (request, context) {
    sent[name] = context.requestHeader.get("traceparent");
    return answer(request);
  };
  const watch = async function* () { yield { purchase: { purchaseId: GENUINE.purchase_id, state: 9, outcome: OUTCOME } }; };
  const methods = {
    listKeys: hear("keys", keysAnswer), requestOffer: hear("offer", grants), redeemOffer: hear("redeem", accepts(GENUINE.text)), watchPurchase: hear("watch", watch),
  };
  const first = viewer(methods);
  const requestId = "00112233-4455-4677-8899-aabbccddeeff";
  await first.client.requestOffer({ dropId: offer.dropId, requestId });
  await first.client.redeem({ ...offer, requestId }, options);
  await viewer(methods, first.store).client.resume(() => {});
  const want = "00-8899aabbccddeeff0011223344554677-8899aabbccddeeff-00";
  assert.deepEqual(sent, { keys: null, offer: want, redeem: want, watch: want });
  await first.client.requestOffer({ dropId: offer.dropId, requestId: "no\nheader" });
  assert.equal(sent.offer, null, "an id of the page's own that is no trace's");
});

test("the keys are there before the tap that needs them", async () => {
  const asked = [];
  const { client } = viewer({
    listKeys: () => (asked.push("keys"), keysAnswer()), requestOffer: grants, redeemOffer: () => (asked.push("redeem"), accepts(GENUINE.text)()),
  });
  await client.requestOffer({ dropId: offer.dropId });
  assert.equal((await client.redeem(offer, options)).kind, "accepted");
  assert.deepEqual(asked, ["keys", "redeem"]);
});

test("keys that could not be had before the tap are asked for again", async () => {
  let asked = 0;
  const listKeys = () => {
    if (asked++ === 0) throw new ConnectError("not now", Code.Internal);
    return keysAnswer();
  };
  const { client } = viewer({ listKeys, requestOffer: grants, redeemOffer: accepts(GENUINE.text) });
  await client.requestOffer({ dropId: offer.dropId });
  assert.equal((await client.redeem(offer, options)).kind, "accepted");
  assert.equal(asked, 2);
});

test("a new node's key is asked for until others have heard of it", async () => {
  let asked = 0;
  const { client } = viewer({ listKeys: () => (asked++ < 3 ? { keys: [] } : keysAnswer()), redeemOffer: accepts(GENUINE.text) });
  mock.timers.enable({ apis: ["setTimeout"] });
  const tick = setInterval(() => mock.timers.tick(1_000), 1);
  const result = await client.redeem(offer, options);
  clearInterval(tick);
  mock.timers.reset();
  assert.deepEqual([result.kind, asked], ["accepted", 4]);
});

test("a receipt that is not genuine, or for another price, is no acceptance, and kept all the same", async () => {
  const forged = vectors.texts.find((v) => v.want === "forged" && v.kind === "receipt").text;
  for (const [receipt, changed, why] of [[forged, offer, "forged"], [GENUINE.text, { ...offer, price: { currency: "EUR", minorUnits: 1n } }, "mismatch"]]) {
    const { client, store } = viewer({ redeemOffer: accepts(receipt) });
    await assert.rejects(client.redeem(changed, options), (error) => error instanceof sdk.UnverifiedError && error.why === why);
    assert.equal((await store.get(GENUINE.purchase_id)).receipt, receipt);
  }
});

test("a purchase is noted before it is asked for, and forgotten after a definite no", async () => {
  const { client, store } = viewer({
    redeemOffer: async () => {
      assert.equal((await store.get(GENUINE.purchase_id)).offerToken, OFFER);
      throw new ConnectError("sold out", Code.FailedPrecondition);
    },
  });
  assert.equal((await client.redeem(offer, options)).kind, "refused");
  assert.deepEqual(await store.all(), []);
});

test("a definite no does not take an earlier receipt away", async () => {
  let first = true;
  const { client, store } = viewer({
    redeemOffer: () => {
      if (!first) throw new ConnectError("over", Code.FailedPrecondition);
      first = false;
      return accepts(GENUINE.text)();
    },
  });
  await client.redeem(offer, options);
  assert.equal((await client.redeem(offer, options)).kind, "refused");
  assert.equal((await store.get(GENUINE.purchase_id)).receipt, GENUINE.text);
});

test("without an answer the result is unknown, and after a reload the token finds the purchase", async () => {
  const lost = viewer({ redeemOffer: gone });
  mock.timers.enable({ apis: ["setTimeout"] }); // the tries, without their waits
  const tick = setInterval(() => mock.timers.tick(1_000), 1);
  const result = await lost.client.redeem(offer, options);
  clearInterval(tick);
  mock.timers.reset();
  assert.deepEqual([result.kind, result.purchaseId], ["unknown", GENUINE.purchase_id]);

  const presented = [];
  const watch = async function* ({ credential }) {
    presented.push(credential.case);
    yield { purchase: { purchaseId: GENUINE.purchase_id, state: 2 } };
    yield { purchase: { purchaseId: GENUINE.purchase_id, state: 9, outcome: OUTCOME } };
  };
  const { client, store } = viewer({ watchPurchase: watch }, lost.store);
  const seen = [];
  await client.resume((p) => seen.push([p.state, p.final]), undefined, (_, error) => { throw error; });
  assert.deepEqual(seen, [["received", false], ["voucher", true]]);
  assert.deepEqual(presented, ["offerToken"]);
  assert.equal((await store.get(GENUINE.purchase_id)).outcome, OUTCOME);
  await client.resume(() => assert.fail("what is final is not asked for again"));
});

test("a choice goes with what shows that the purchase is the viewer's, and a voucher with the tap", async () => {
  const asked = [];
  const { client } = viewer({
    redeemOffer: (request) => (asked.push(request.voucher), accepts(GENUINE.text)(request)),
    chooseMakeGood: ({ credential, choice, hints }) => {
      asked.push([credential, choice, hints.dropId === offer.dropId]);
      return { purchase: { purchaseId: GENUINE.purchase_id, state: 12, voucher: { text: "spend me" }, choiceDeadline: { seconds: 5n } } };
    },
  });
  await client.redeem(offer, { ...options, voucher: "v1" });
  const view = await client.chooseMakeGood(GENUINE.purchase_id, "money");
  assert.deepEqual(asked, ["v1", [{ case: "receipt", value: GENUINE.text }, 2, true]]);
  assert.deepEqual([view.choiceUntil, view.voucher.text, view.final], [5000, "spend me", false]);
  await assert.rejects(client.chooseMakeGood("nobody's", "voucher"), /no purchase/);
});

test("an outcome that does not say what the answer says is no outcome", async () => {
  const watch = async function* () {
    yield { purchase: { purchaseId: GENUINE.purchase_id, state: 8, outcome: OUTCOME } }; // delivered, it says; the outcome says voucher
  };
  const { client, store } = viewer({ redeemOffer: accepts(GENUINE.text), watchPurchase: watch });
  await client.redeem(offer, options);
  await assert.rejects(async () => { for await (const _ of client.follow(GENUINE.purchase_id)); }, /mismatch/);
  assert.equal((await store.get(GENUINE.purchase_id)).outcome, undefined);
});

test("a place in the line is an answer, not an error", async () => {
  const { client } = viewer({ requestOffer: () => ({ decision: { case: "pending", value: { position: 12n, retryAfter: { seconds: 3n } } } }) });
  const answer = await client.requestOffer({ dropId: offer.dropId, requestId: "r9" });
  assert.deepEqual([answer.kind, answer.position, answer.retryAfterMs, answer.requestId], ["pending", 12, 3000, "r9"]);
});
