import { Code, ConnectError } from "@connectrpc/connect";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

/** The domain of this platform's google.rpc.ErrorInfo. */
const DOMAIN = "rimlight.dev";

/** A call that failed for good, or as often as it may be repeated. */
export class RimlightError extends Error {
  override readonly name = "RimlightError";

  constructor(
    message: string,
    /** The code of gRPC and Connect, such as Code.Unavailable. */
    readonly code: Code,
    /** Why, as in rimlight.errors.v1.Reason without its prefix; "" when nothing of the platform answered. */
    readonly reason: string = "",
    /** The variables of the message. */
    readonly metadata: Readonly<Record<string, string>> = {},
    /** How long the platform asks to wait before the same call, in ms. */
    readonly retryAfterMs?: number,
  ) {
    super(message);
  }

  /** Whether nobody can say if the call was carried out: no answer came. */
  get unanswered(): boolean {
    return this.code === Code.Unavailable || this.code === Code.DeadlineExceeded || this.code === Code.Canceled;
  }
}

/** A signature, or what a signed text says, does not match. Whatever the answer claimed is not to be believed. */
export class UnverifiedError extends Error {
  override readonly name = "UnverifiedError";

  constructor(
    /**
     * malformed: no signed text. unknown_key: signed with a key that is not published. forged: the signature is wrong, or
     * the key may not sign this. mismatch: genuine, but of another purchase. unsupported: this browser cannot verify
     * Ed25519, or the page is not a secure context.
     */
    readonly why: "malformed" | "unknown_key" | "forged" | "mismatch" | "unsupported",
  ) {
    super(`a signed text could not be verified: ${why}`);
  }
}

/** Reads whatever a transport threw. */
export function toRimlightError(thrown: unknown): RimlightError {
  const error = ConnectError.from(thrown);
  // fetch says TypeError for everything between DNS and a broken connection.
  const code = error.cause instanceof TypeError ? Code.Unavailable : error.code;
  let reason = "";
  let metadata: Record<string, string> = {};
  let retryAfterMs: number | undefined;
  for (const detail of error.details) {
    if (!("type" in detail)) continue; // only what came over the wire has one
    if (detail.type === "google.rpc.ErrorInfo") {
      const info = readErrorInfo(detail.value);
      if (info.domain === DOMAIN) ({ reason, metadata } = info);
    } else if (detail.type === "google.rpc.RetryInfo") {
      retryAfterMs = readRetryInfo(detail.value);
    }
  }
  return new RimlightError(error.rawMessage, code, reason, metadata, retryAfterMs);
}

// The two details that clients act on, read by hand: their generated code would cost more than the rest of this file.

/** The fields of a message by number; numbers of fixed size, which neither has, are left out. */
function fields(bytes: Uint8Array, each: (number: number, value: Uint8Array | number) => void): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (wire === WireType.LengthDelimited) each(number, reader.bytes());
    else if (wire === WireType.Varint) each(number, Number(reader.int64()));
    else reader.skip(wire);
  }
}

const text = (value: Uint8Array | number) => (typeof value === "number" ? "" : new TextDecoder().decode(value));

function readErrorInfo(bytes: Uint8Array) {
  const info = { reason: "", domain: "", metadata: {} as Record<string, string> };
  fields(bytes, (number, value) => {
    if (number === 1) info.reason = text(value);
    else if (number === 2) info.domain = text(value);
    else if (number === 3 && typeof value !== "number") {
      const entry = ["", ""];
      fields(value, (n, part) => (entry[n - 1] = text(part)));
      info.metadata[entry[0]!] = entry[1]!;
    }
  });
  return info;
}

function readRetryInfo(bytes: Uint8Array): number {
  let ms = 0;
  fields(bytes, (_, duration) => typeof duration !== "number" && fields(duration, (n, value) => (ms += Number(value) * (n === 1 ? 1e3 : 1e-6))));
  return ms;
}
