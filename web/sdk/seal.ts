/**
 * Seals delivery details to those who may send the parcel: docs/decisions/0019, internal/sealed is the other half. Loaded for
 * physical goods only, as a chunk of its own. HPKE (RFC 9180) is @hpke/core's, over the browser's own cryptography.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Aes128Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { SealedDetailsSchema } from "../../gen/ts/rimlight/offer/v1/sealed_pb.js";
import { concat, hex, uuidBytes } from "./bytes.js";
import { RimlightError } from "./errors.js";
import type { Sealed } from "./store.js";

const MOST = 2048;
const RECIPIENTS = 8;
const PAD_TO = 256;

/** The envelope of one purchase. Details that were sealed for it before get the same one, since a repeat must be the same. */
export async function seal(
  details: Uint8Array, publicKeys: readonly Uint8Array[], dropId: string, purchaseId: string, before?: Sealed,
): Promise<Sealed> {
  if (details.length === 0 || details.length > MOST) throw new RangeError(`delivery details have 1 to ${MOST} bytes`);
  if (hasCardNumber(details)) {
    // Nobody after this can look.
    throw new RimlightError("the delivery details look like they hold a card number", Code.InvalidArgument, "CARD_NUMBER_REFUSED");
  }
  const digest = await sha256(details);
  if (before && hex(before.digest) === hex(digest)) return before;
  // A browser from before 2025 may have all of WebCrypto but this curve. Nothing was sent yet, and nothing else may carry an address.
  await crypto.subtle.generateKey("X25519", false, ["deriveBits"]).catch(() => {
    throw new RimlightError("this browser cannot seal delivery details (X25519): a newer one can", Code.Unimplemented, "SEALING_UNSUPPORTED");
  });

  const info = concat(new TextEncoder().encode("delivery-details/v1\0"), uuidBytes(dropId), uuidBytes(purchaseId));
  const content = crypto.getRandomValues(new Uint8Array(16));
  const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes128Gcm() });
  const keys = await Promise.all(publicKeys.slice(0, RECIPIENTS).map(async (publicKey) => {
    const recipientPublicKey = await suite.kem.deserializePublicKey(bytes(publicKey));
    const { enc, ct } = await suite.seal({ recipientPublicKey, info: bytes(info) }, bytes(content));
    return { keyId: (await sha256(publicKey)).subarray(0, 8), sealedKey: concat(new Uint8Array(enc), new Uint8Array(ct)) };
  }));
  const padded = new Uint8Array((Math.floor(details.length / PAD_TO) + 1) * PAD_TO);
  padded.set(details);
  padded[details.length] = 0x80;
  const key = await crypto.subtle.importKey("raw", content, "AES-GCM", false, ["encrypt"]);
  const iv = new Uint8Array(12); // of zeros: the key is used once
  const ciphertext = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: bytes(info) }, key, padded));
  return { digest, envelope: toBinary(SealedDetailsSchema, create(SealedDetailsSchema, { keys, ciphertext })) };
}

const bytes = (b: Uint8Array) => b as Uint8Array<ArrayBuffer>;

async function sha256(b: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes(b)));
}

/** 13 to 19 digits in whole groups that at most one separator divides, with the right check digit: as internal/cardnumber. */
function hasCardNumber(details: Uint8Array): boolean {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(details);
  } catch {
    return false; // no text
  }
  for (const [row] of text.matchAll(/\d+(?:[ \t\n\-./:_,]\d+)*/g)) {
    const groups = row.split(/\D/);
    for (let from = 0; from < groups.length; from++) {
      for (let to = from + 1; to <= groups.length; to++) {
        const digits = groups.slice(from, to).join("");
        if (digits.length > 19) break;
        if (digits.length >= 13 && luhn(digits)) return true;
      }
    }
  }
  return false;
}

function luhn(digits: string): boolean {
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    let v = Number(digits[digits.length - 1 - i]);
    if (i % 2 === 1 && (v *= 2) > 9) v -= 9;
    sum += v;
  }
  return sum % 10 === 0;
}
