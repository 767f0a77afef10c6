// What seals delivery details: opened here with the private halves that depots have. That a depot's own program opens it, too, is
// for the storefront's test.
import assert from "node:assert/strict";
import { createHash, webcrypto } from "node:crypto";
import { mock, test } from "node:test";
import { Aes128Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { load } from "./bundle.mjs";

const { english, seal, fromBinary, SealedDetailsSchema, RimlightError } = await load("test/internals.ts");
const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes128Gcm() });
const DROP = "01890000-0000-7000-8000-000000000000";
const PURCHASE = "00112233445566778899aabbccddeeff";
const text = (s) => new TextEncoder().encode(s);
const sha256 = (b) => createHash("sha256").update(b).digest();

async function depot() {
  const pair = await suite.kem.generateKeyPair();
  return { pair, raw: new Uint8Array(await suite.kem.serializePublicKey(pair.publicKey)) };
}

/** Opens an envelope as a depot does; the length is that of the padded details. */
async function open(envelope, { pair, raw }, drop = DROP, purchase = PURCHASE) {
  const info = Buffer.concat([text("delivery-details/v1\0"), Buffer.from(drop.replaceAll("-", ""), "hex"), Buffer.from(purchase, "hex")]);
  const { keys, ciphertext } = fromBinary(SealedDetailsSchema, envelope);
  const mine = keys.find(({ keyId }) => Buffer.compare(keyId, sha256(raw).subarray(0, 8)) === 0);
  if (!mine) throw new Error("sealed to others");
  const content = await suite.open({ recipientKey: pair.privateKey, enc: mine.sealedKey.slice(0, 32), info }, mine.sealedKey.slice(32));
  const key = await webcrypto.subtle.importKey("raw", content, "AES-GCM", false, ["decrypt"]);
  const padded = Buffer.from(await webcrypto.subtle.decrypt({ name: "AES-GCM", iv: new Uint8Array(12), additionalData: info }, key, ciphertext));
  return { details: padded.subarray(0, padded.lastIndexOf(0x80)).toString(), length: padded.length };
}

test("each depot opens it, a stranger does not, nor anybody for another purchase", async () => {
  const [a, b, stranger] = [await depot(), await depot(), await depot()];
  const { envelope } = await seal(text("Rue de la Paix 1"), [a.raw, b.raw], DROP, PURCHASE);
  for (const d of [a, b]) assert.deepEqual(await open(envelope, d), { details: "Rue de la Paix 1", length: 256 });
  await assert.rejects(open(envelope, stranger), /others/);
  await assert.rejects(open(envelope, a, DROP, "ff" + PURCHASE.slice(2)));
  await assert.rejects(open(envelope, a, "11" + DROP.slice(2)));
  assert.ok(!Buffer.from(envelope).includes("Paix"));
});

test("details up to 2 KiB for eight depots fit into 3 KiB, and more are neither", async () => {
  const depots = await Promise.all(Array.from({ length: 9 }, depot));
  const keys = depots.map((d) => d.raw);
  const { envelope } = await seal(text("x".repeat(2048)), keys, DROP, PURCHASE);
  assert.ok(envelope.length <= 3072, `${envelope.length} bytes`);
  assert.equal((await open(envelope, depots[7])).details.length, 2048);
  await assert.rejects(open(envelope, depots[8]), /others/);
  for (const n of [0, 2049]) await assert.rejects(seal(new Uint8Array(n), keys, DROP, PURCHASE), RangeError);
});

test("what was sealed for a purchase is sent again, unless the details changed", async () => {
  const { raw } = await depot();
  const first = await seal(text("Rue de la Paix 1"), [raw], DROP, PURCHASE);
  assert.equal(await seal(text("Rue de la Paix 1"), [raw], DROP, PURCHASE, first), first);
  assert.notDeepEqual((await seal(text("Rue de la Paix 1"), [raw], DROP, PURCHASE)).envelope, first.envelope);
  assert.notEqual(await seal(text("Rue de la Paix 2"), [raw], DROP, PURCHASE, first), first);
});

test("a browser without the curve is told so, in words for its viewer, and nothing is sealed", async () => {
  const { raw } = await depot();
  const { generateKey } = webcrypto.subtle;
  mock.method(webcrypto.subtle, "generateKey", function (algorithm, ...rest) {
    if (algorithm === "X25519") return Promise.reject(new DOMException("unknown", "NotSupportedError"));
    return generateKey.call(this, algorithm, ...rest);
  });
  try {
    await assert.rejects(seal(text("Rue de la Paix 1"), [raw], DROP, PURCHASE), (error) =>
      error instanceof RimlightError && error.reason === "SEALING_UNSUPPORTED" && !error.unanswered);
  } finally {
    mock.restoreAll();
  }
  assert.match(english.refused.SEALING_UNSUPPORTED, /Update it/);
});

// The same table as internal/cardnumber has.
test("card numbers are found before they are sealed", async () => {
  const { raw } = await depot();
  for (const [details, found] of [
    ["4111111111111111", true], ["4111 1111 1111 1111", true], ["card 5500-0055-5555-5559 thanks", true], ["378282246310005", true],
    ["4222222222222", true], ["6304000000000000000", true], ["12 4111 1111 1111 1111", true], ["4111 1111 1111 1111 10115", true],
    ["4111111111111112", false], ["411111111111", false], ["41111111111111110000", false], ["41111111a11111111", false],
  ]) {
    const sealing = seal(text(details), [raw], DROP, PURCHASE);
    if (found) await assert.rejects(sealing, (error) => error instanceof RimlightError && error.reason === "CARD_NUMBER_REFUSED", details);
    else await sealing;
  }
  await seal(Uint8Array.of(0xff, ...text("4111111111111111")), [raw], DROP, PURCHASE); // no text
});
