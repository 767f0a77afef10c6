// Runs in the browser: one call by one official client, told as plain data.
import type { DescMessage, DescMethod, DescMethodServerStreaming, DescMethodUnary, JsonValue } from "@bufbuild/protobuf";
import { fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { GrpcWebClientBase, MethodDescriptor, MethodType, type ClientReadableStream, type RpcError } from "grpc-web";
import { OfferService } from "../../../gen/ts/rimlight/offer/v1/offer_service_pb.js";

interface Call {
  client: "grpc-web text" | "grpc-web binary" | "connect-web gRPC-Web" | "connect-web Connect" | "connect-web Connect JSON";
  router: string;
  method: keyof typeof OfferService.method;
  request: JsonValue;
  timeoutMs?: number;
  /** Cancel after so many messages. */
  cancelAfter?: number;
}

interface Answer {
  messages: JsonValue[];
  /** When each message came, in ms since the call began. */
  times: number[];
  headers: Record<string, string>;
  trailers: Record<string, string>;
  code: number;
  text: string;
  /** The type URLs of the details, and their bytes as latin-1. */
  details: { type: string; bytes: string }[];
}

async function call(c: Call): Promise<Answer> {
  return c.client.startsWith("grpc-web") ? byGrpcWeb(c) : byConnect(c);
}

function fresh(): Answer {
  return { messages: [], times: [], headers: {}, trailers: {}, code: 0, text: "", details: [] };
}

function byGrpcWeb(c: Call): Promise<Answer> {
  const method: DescMethod = OfferService.method[c.method];
  const client = new GrpcWebClientBase({ format: c.client === "grpc-web text" ? "text" : "binary" });
  const streaming = method.methodKind === "server_streaming";
  const descriptor = new MethodDescriptor<Uint8Array, DescMessage>(
    `/${method.parent.typeName}/${method.name}`, streaming ? MethodType.SERVER_STREAMING : MethodType.UNARY,
    Uint8Array as never, Object as never, (bytes: Uint8Array) => bytes, (bytes: Uint8Array) => bytes);
  const metadata: Record<string, string> = {};
  if (c.timeoutMs) metadata["deadline"] = String(Date.now() + c.timeoutMs);
  const request = toBinary(method.input, fromJson(method.input, c.request));
  const url = `${c.router}/${method.parent.typeName}/${method.name}`;
  const answer = fresh();
  const began = performance.now();
  return new Promise((resolve) => {
    const take = (bytes: unknown) => {
      if (answer.messages.length === 0) window.begun++;
      answer.messages.push(toJson(method.output, fromBinary(method.output, bytes as Uint8Array)));
      answer.times.push(performance.now() - began);
    };
    const fail = (error: RpcError) => {
      answer.code = error.code;
      answer.text = error.message;
      answer.trailers = { ...answer.trailers, ...error.metadata };
      const packed = answer.trailers["grpc-status-details-bin"];
      if (packed) answer.details = statusDetails(base64Decode(packed));
    };
    // "end" does not come after an error, and "status" comes before either: what is told is complete a turn later.
    const finish = () => setTimeout(() => resolve(answer), 0);
    let stream: ClientReadableStream<DescMessage>;
    if (streaming) {
      stream = client.serverStreaming(url, request, metadata, descriptor);
      stream.on("data", (bytes) => {
        take(bytes);
        if (c.cancelAfter === answer.messages.length) {
          stream.cancel();
          answer.code = Code.Canceled;
          finish();
        }
      });
      stream.on("error", (error) => (fail(error), finish()));
      stream.on("end", finish);
    } else {
      stream = client.rpcCall(url, request, metadata, descriptor, (error, bytes) => {
        if (error) fail(error);
        else take(bytes);
        finish();
      });
    }
    stream.on("metadata", (headers) => (answer.headers = headers));
    stream.on("status", (status) => (answer.trailers = { ...answer.trailers, ...status.metadata }));
  });
}

async function byConnect(c: Call): Promise<Answer> {
  const answer = fresh();
  const transport = c.client === "connect-web gRPC-Web"
    ? createGrpcWebTransport({ baseUrl: c.router })
    : createConnectTransport({ baseUrl: c.router, useBinaryFormat: c.client === "connect-web Connect" });
  const stop = new AbortController();
  const began = performance.now();
  const method: DescMethod = OfferService.method[c.method];
  try {
    if (method.methodKind === "unary") await one(transport, method as DescMethodUnary);
    else await many(transport, method as DescMethodServerStreaming);
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    answer.code = error.code;
    answer.text = error.rawMessage;
    error.metadata.forEach((value, key) => (answer.trailers[key] = value));
    for (const detail of error.details) {
      if ("type" in detail) answer.details.push({ type: detail.type, bytes: latin1(detail.value) });
    }
  }
  return answer;

  async function one(t: Transport, unary: DescMethodUnary) {
    const { message, header, trailer } = await t.unary(unary, stop.signal, c.timeoutMs, undefined, fromJson(method.input, c.request));
    answer.messages.push(toJson(method.output, message));
    answer.times.push(performance.now() - began);
    note(header, trailer);
  }

  async function many(t: Transport, streaming: DescMethodServerStreaming) {
    const input = (async function* () { yield fromJson(method.input, c.request); })();
    const { message, header, trailer } = await t.stream(streaming, stop.signal, c.timeoutMs, undefined, input);
    note(header, trailer);
    for await (const m of message) {
      if (answer.messages.length === 0) window.begun++;
      answer.messages.push(toJson(method.output, m));
      answer.times.push(performance.now() - began);
      if (c.cancelAfter === answer.messages.length) stop.abort();
    }
    note(header, trailer);
  }

  function note(header: Headers, trailer: Headers) {
    header.forEach((value, key) => (answer.headers[key] = value));
    trailer.forEach((value, key) => (answer.trailers[key] = value));
  }
}

/** Takes the details out of a google.rpc.Status: field 3, each a google.protobuf.Any. */
function statusDetails(bytes: Uint8Array): Answer["details"] {
  const details: Answer["details"] = [];
  const any = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const varint = (at: number): [number, number] => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = any.getUint8(at++);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return [value, at];
    }
  };
  const walk = (at: number, end: number, each: (field: number, from: number, to: number) => void) => {
    while (at < end) {
      let tag: number;
      let size: number;
      [tag, at] = varint(at);
      [size, at] = varint(at);
      if ((tag & 7) === 0) continue; // the varint was the value
      each(tag >> 3, at, at + size);
      at += size;
    }
  };
  walk(0, bytes.length, (field, from, to) => {
    if (field !== 3) return;
    const detail = { type: "", bytes: "" };
    walk(from, to, (part, begin, stop) => {
      const text = latin1(bytes.subarray(begin, stop));
      if (part === 1) detail.type = text.slice(text.lastIndexOf("/") + 1);
      else detail.bytes = text;
    });
    details.push(detail);
  });
  return details;
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

declare global {
  interface Window {
    call: typeof call;
    /** How many streams have brought a message. */
    begun: number;
  }
}
window.call = call;
window.begun = 0;
