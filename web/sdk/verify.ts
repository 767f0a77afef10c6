import { fromBinary } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import type { Message } from "@bufbuild/protobuf";
import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import type { OfferToken, Outcome, Receipt, SigningKey } from "../../gen/ts/rimlight/offer/v1/signed_pb.js";
import { KeyOwner, OfferTokenSchema, OutcomeSchema, ReceiptSchema } from "../../gen/ts/rimlight/offer/v1/signed_pb.js";
import { concat, hex, uuidBytes } from "./bytes.js";
import { UnverifiedError } from "./errors.js";

// text = base64url( key_id[8] || signature[64] || payload ); signature = Ed25519( domain || payload ).
// The payload is verified as the bytes it came in and only then decoded. internal/token is the other half.
const KEY_ID = 8;
const HEADER = KEY_ID + 64;

interface Kind<M extends Message> {
  readonly domain: string;
  readonly owner: KeyOwner;
  readonly schema: GenMessage<M>;
}

const OFFER_TOKEN: Kind<OfferToken> = { domain: "offer-token/v1\0", owner: KeyOwner.NODE, schema: OfferTokenSchema };
const RECEIPT: Kind<Receipt> = { domain: "receipt/v1\0", owner: KeyOwner.NODE, schema: ReceiptSchema };
const OUTCOME: Kind<Outcome> = { domain: "outcome/v1\0", owner: KeyOwner.VERIFIER, schema: OutcomeSchema };

/** The published keys. The first word about a key stands. */
export class Keys {
  readonly #keys = new Map<string, SigningKey>();

  /** Takes keys in; one whose id does not belong to its bytes is left out. */
  async add(keys: readonly SigningKey[]): Promise<void> {
    for (const key of keys) {
      const id = hex(key.keyId);
      const digest = await sha256(key.publicKey);
      if (key.publicKey.length === 32 && id === hex(digest.subarray(0, KEY_ID)) && !this.#keys.has(id)) this.#keys.set(id, key);
    }
  }

  async openOfferToken(text: string): Promise<OfferToken> {
    return (await this.#open(OFFER_TOKEN, text)).message;
  }

  async openOutcome(text: string): Promise<Outcome> {
    return (await this.#open(OUTCOME, text)).message;
  }

  /** Opens a receipt and the offer token inside it. The key that signed must be that of the node which it names. */
  async openReceipt(text: string): Promise<{ receipt: Receipt; offer: OfferToken }> {
    const { message: receipt, key } = await this.#open(RECEIPT, text);
    if (key.nodeId !== receipt.nodeId) throw new UnverifiedError("forged");
    const offer = await this.openOfferToken(receipt.offerToken);
    if (receipt.purchaseId !== (await purchaseIdOf(offer.tokenId))) throw new UnverifiedError("malformed");
    return { receipt, offer };
  }

  async #open<M extends Message>(kind: Kind<M>, text: string): Promise<{ message: M; key: SigningKey }> {
    const raw = decode(text);
    const key = this.#keys.get(hex(raw.subarray(0, KEY_ID)));
    if (!key) throw new UnverifiedError("unknown_key");
    if (key.owner !== kind.owner) throw new UnverifiedError("forged");
    const payload = raw.subarray(HEADER);
    const signed = concat(new TextEncoder().encode(kind.domain), payload);
    if (!(await ed25519(key.publicKey, raw.subarray(KEY_ID, HEADER), signed))) throw new UnverifiedError("forged");
    return { message: parse(kind.schema, payload), key };
  }
}

/** The public name of the purchase that token id K may become. */
export async function purchaseIdOf(tokenId: Uint8Array): Promise<string> {
  return hex((await sha256(concat(new TextEncoder().encode("purchase-id/v1\0"), tokenId))).subarray(0, 16));
}

/** K of an intention, as every node derives it. */
export async function deriveTokenId(session: Uint8Array, dropId: string, requestId: string): Promise<Uint8Array> {
  const encode = new TextEncoder();
  const input = concat(encode.encode("token-id/v1\0"), session, uuidBytes(dropId), encode.encode(requestId));
  return (await sha256(input)).subarray(0, 16);
}

/** Reads the token that this client was just handed, without asking who signed it. */
export function readOfferToken(text: string): OfferToken {
  return parse(OfferTokenSchema, decode(text).subarray(HEADER));
}

function decode(text: string): Uint8Array<ArrayBuffer> {
  let raw: Uint8Array<ArrayBuffer>;
  try {
    raw = base64Decode(text) as Uint8Array<ArrayBuffer>;
  } catch {
    throw new UnverifiedError("malformed");
  }
  // One spelling only: no padding, no line breaks, no bits left over in the last character.
  if (raw.length < HEADER || base64Encode(raw, "url") !== text) throw new UnverifiedError("malformed");
  return raw;
}

function parse<M extends Message>(schema: GenMessage<M>, payload: Uint8Array): M {
  try {
    return fromBinary(schema, payload);
  } catch {
    throw new UnverifiedError("malformed");
  }
}

async function ed25519(publicKey: Uint8Array, signature: Uint8Array, signed: Uint8Array): Promise<boolean> {
  let key: CryptoKey;
  try {
    key = await crypto.subtle.importKey("raw", publicKey as BufferSource, "Ed25519", false, ["verify"]);
  } catch {
    throw new UnverifiedError("unsupported");
  }
  return crypto.subtle.verify("Ed25519", key, signature as BufferSource, signed as BufferSource);
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as BufferSource));
}
