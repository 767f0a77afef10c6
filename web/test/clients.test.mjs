// The official clients, unmodified, in Chromium, from another origin, against a platform with TLS.
import assert from "node:assert/strict";
import { get } from "node:https";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { page as pages, serve, startBrowser } from "./browser.mjs";
import { bundle } from "./bundle.mjs";
import { startPlatform } from "./platform.mjs";

const CONNECT = ["connect-web gRPC-Web", "connect-web Connect", "connect-web Connect JSON"];
const UNARY = ["grpc-web text", "grpc-web binary", ...CONNECT];
const STREAMING = ["grpc-web text", ...CONNECT]; // the official grpc-web streams in text mode only

const [OK, CANCELED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNAVAILABLE] = [0, 1, 3, 4, 14];
const DROP = "01890000-0000-7000-8000-000000000000";
const SESSION = Buffer.alloc(16, 7).toString("base64");

let platform, browser, site, page, protocols;

before(async () => {
  platform = await startPlatform();
  browser = await startBrowser();
  site = await serve(pages(await bundle("test/pages/clients.ts")));
  page = await browser.newPage({ ignoreHTTPSErrors: true });
  protocols = await protocolsOf(page);
  await page.goto(site.origin);
  await page.waitForFunction(() => "call" in window);
});

after(async () => {
  await browser?.close();
  await site?.stop();
  await platform?.stop();
});

const call = (client, method, request, rest = {}) =>
  page.evaluate((c) => window.call(c), { client, router: platform.urls[0], method, request, ...rest });

/** Which HTTP version each answer came by. */
async function protocolsOf(page) {
  const seen = new Set();
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("Network.enable");
  devtools.on("Network.responseReceived", ({ response }) => {
    if (response.url.startsWith(platform.urls[0])) seen.add(response.protocol);
  });
  return seen;
}

for (const client of UNARY) {
  test(`${client}: a unary call brings its values and headers`, async () => {
    const answer = await call(client, "listKeys", { pageSize: 2 });
    assert.equal(answer.code, OK, answer.text);
    assert.equal(answer.messages[0].keys.length, 2);
    for (const key of answer.messages[0].keys) assert.equal(Buffer.from(key.publicKey, "base64").length, 32);
    assert.match(answer.headers["rimlight-decision"], /^europe-west1\//);
    assert.ok(answer.headers["rimlight-region"]);
    if (client === "connect-web gRPC-Web") assert.equal(answer.trailers["grpc-status"], "0"); // others keep it to themselves
  });

  test(`${client}: an error keeps its code, text and details`, async () => {
    const answer = await call(client, "redeemOffer", {
      hints: { dropId: DROP }, offerToken: "garbage", viewerSessionId: SESSION, paymentReference: "tp_ok",
    });
    assert.equal(answer.code, INVALID_ARGUMENT);
    assert.equal(answer.text, "the token or receipt is not genuine");
    assert.deepEqual(answer.details.map((d) => d.type), ["google.rpc.ErrorInfo"]);
    assert.match(answer.details[0].bytes, /TOKEN_INVALID.*rimlight\.dev/s);
    // It is there to be explained. grpc-web does not always tell an error's headers.
    if (client.startsWith("connect-web")) assert.match({ ...answer.headers, ...answer.trailers }["rimlight-decision"], /^europe-west1\//);
  });

  test(`${client}: every broken field is named`, async () => {
    const answer = await call(client, "requestOffer", {});
    assert.equal(answer.code, INVALID_ARGUMENT);
    assert.deepEqual(answer.details.map((d) => d.type), ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]);
    assert.match(answer.details[1].bytes, /hints.*viewer_session_id/s);
  });

  test(`${client}: a deadline that nobody can meet ends the call`, async () => {
    // Shorter than the way to the nearest region; grpc-web sends no deadline that is over before it looks at it.
    const answer = await call(client, "listKeys", {}, { timeoutMs: 5 });
    assert.equal(answer.code, DEADLINE_EXCEEDED, answer.text);
  });
}

for (const client of STREAMING) {
  test(`${client}: a stream is read message by message, until its deadline`, async () => {
    const answer = await call(client, "watchDrops", {}, { timeoutMs: 2000 });
    assert.equal(answer.code, DEADLINE_EXCEEDED, answer.text);
    assert.ok(answer.messages[0].snapshot, "the first message is a snapshot");
    assert.ok(answer.times[0] < 1500, `the first message came after ${answer.times[0]} ms, with the end of the stream`);
  });

  test(`${client}: a cancelled stream ends`, async () => {
    const answer = await call(client, "watchDrops", {}, { cancelAfter: 1 });
    assert.equal(answer.code, CANCELED);
    assert.equal(answer.messages.length, 1);
  });

  test(`${client}: a stream that fails at once says why`, async () => {
    const answer = await call(client, "watchPurchase", { receipt: "garbage" });
    assert.equal(answer.code, INVALID_ARGUMENT);
    assert.match(answer.details[0].bytes, /TOKEN_INVALID/);
  });
}

test("the router notices that viewers cancelled", { timeout: 30_000 }, async () => {
  const cancelled = /^grpc_server_handled_total\{(?=[^}]*grpc_code="Canceled")(?=[^}]*grpc_method="WatchDrops")/m;
  for (;;) { // the word of it may still be on its way
    const metrics = await new Promise((resolve, reject) => {
      get(`${platform.urls[0]}/metrics`, { rejectUnauthorized: false }, (response) => resolve(text(response))).on("error", reject);
    });
    if (cancelled.test(metrics)) return;
  }
});

test("ten streams run side by side over one HTTP/2 connection", async () => {
  const answers = await Promise.all(
    Array.from({ length: 10 }, (_, i) => call(STREAMING[i % STREAMING.length], "watchDrops", {}, { timeoutMs: 4000 })));
  for (const [i, answer] of answers.entries()) {
    assert.ok(answer.messages.length > 0, `stream ${i} brought nothing: ${answer.text}`);
    assert.ok(answer.times[0] < 3000, `stream ${i} waited ${answer.times[0]} ms`);
  }
  assert.deepEqual([...protocols], ["h2"]);
});

// The last one: it stops the platform.
test("a stream that ends in an error after its messages says why", async () => {
  const before = await page.evaluate(() => window.begun);
  const streams = STREAMING.map((client) => call(client, "watchDrops", {}));
  await page.waitForFunction((n) => window.begun >= n, before + STREAMING.length);
  platform.interrupt();
  for (const [i, answer] of (await Promise.all(streams)).entries()) {
    assert.equal(answer.code, UNAVAILABLE, `${STREAMING[i]}: ${answer.code} ${answer.text}`);
    assert.ok(answer.messages.length > 0, STREAMING[i]);
    assert.match(answer.details[0].bytes, /DRAINING/, STREAMING[i]);
  }
});
