import type { DescMessage, DescMethodServerStreaming, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import type { Transport } from "@connectrpc/connect";
import { monotonicNow } from "./clock.js";
import { type RimlightError, toRimlightError } from "./errors.js";
import type { Routers } from "./routers.js";
import type { Via } from "./views.js";

// One try gets what a region takes at worst, a call as long as a viewer waits; fulfillment moves a unit between regions
// in about two seconds of the latter.
const TRY_MS = 2_000;
const CALL_MS = 8_000;
const TRIES = 8;

// The mean wait before a repeat when nobody said how long: a few round trips around the world.
const QUIET_RETRY_MS = 200;
const STREAM_RETRY_MAX_MS = 10_000;

// Servers send something every 15 s; after this much silence a stream is dead, whatever TCP believes.
const SILENCE_MS = 25_000;

/** Makes calls over several routers, and repeats those that may be repeated. */
export class Calls {
  readonly #transports = new Map<string, Transport>();

  constructor(
    readonly routers: Routers,
    private readonly connect: (url: string) => Transport,
  ) {}

  transport(url: string): Transport {
    let transport = this.#transports.get(url);
    if (!transport) this.#transports.set(url, (transport = this.connect(url)));
    return transport;
  }

  /** One unary call to one router, with the time that it took. */
  async once<I extends DescMessage, O extends DescMessage>(
    url: string, method: DescMethodUnary<I, O>, input: MessageInitShape<I>, timeoutMs: number, signal?: AbortSignal,
  ): Promise<{ message: MessageShape<O>; header: Headers; tookMs: number }> {
    const began = monotonicNow();
    const { message, header } = await this.transport(url).unary(method, signal, timeoutMs, traceOf(input), input);
    return { message, header, tookMs: monotonicNow() - began };
  }

  /**
   * A unary call: at another router when one does not answer, again when the platform asks for it, and only if the method
   * is idempotent. The same input every time: its request_id or token makes one call of all tries.
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>, input: MessageInitShape<I>, signal?: AbortSignal,
  ): Promise<{ message: MessageShape<O>; via: Via }> {
    const began = monotonicNow();
    const idempotent = method.idempotency !== MethodOptions_IdempotencyLevel.IDEMPOTENCY_UNKNOWN;
    const routers = this.routers.states.length;
    for (let tries = 1; ; tries++) {
      const url = this.routers.pick();
      const left = began + CALL_MS - monotonicNow();
      try {
        const { message, header } = await this.once(url, method, input, Math.min(TRY_MS, left), signal);
        this.routers.answered(url);
        return {
          message,
          via: {
            router: url, region: header.get("rimlight-region") ?? "", decision: header.get("rimlight-decision") ?? "",
            tookMs: monotonicNow() - began, tries,
          },
        };
      } catch (thrown) {
        signal?.throwIfAborted();
        const error = toRimlightError(thrown);
        this.#judge(url, error);
        const wait = error.retryAfterMs ?? (error.unanswered ? (tries < routers ? 0 : QUIET_RETRY_MS) : undefined);
        const waitMs = wait === undefined ? 0 : jitter(wait);
        if (wait === undefined || !idempotent || tries === TRIES || monotonicNow() + waitMs >= began + CALL_MS) throw error;
        await sleep(waitMs, signal);
      }
    }
  }

  /**
   * The messages of a stream that begins again, elsewhere if need be, whenever it ends, until the caller has enough.
   * input is asked anew for each beginning, so that it can carry the newest resume token. lost hears why a stream ended.
   */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>, input: () => MessageInitShape<I>,
    lost: (error: RimlightError | undefined) => MessageShape<O> | undefined, signal?: AbortSignal,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    for (let failures = 0; ; ) {
      signal?.throwIfAborted();
      const url = this.routers.pick();
      const silence = new AbortController();
      const stop = signal ? AbortSignal.any([signal, silence.signal]) : silence.signal;
      let watchdog: ReturnType<typeof setTimeout> | undefined;
      const listen = () => {
        clearTimeout(watchdog);
        watchdog = setTimeout(() => silence.abort(), SILENCE_MS);
      };
      let error: RimlightError | undefined;
      try {
        listen();
        const request = input();
        const response = await this.transport(url).stream(method, stop, undefined, traceOf(request), single(request));
        for await (const message of response.message) {
          listen();
          failures = 0;
          this.routers.answered(url);
          yield message;
        }
      } catch (thrown) {
        signal?.throwIfAborted();
        error = toRimlightError(thrown);
        this.#judge(url, error);
        if (!error.unanswered && error.retryAfterMs === undefined) throw error;
      } finally {
        clearTimeout(watchdog);
        silence.abort(); // also when the caller has enough: nothing is left open
      }
      const last = lost(error);
      if (last) yield last;
      const wait = error?.retryAfterMs ?? Math.min(QUIET_RETRY_MS * 2 ** failures, STREAM_RETRY_MAX_MS);
      failures++;
      await sleep(jitter(wait), signal);
    }
  }

  #judge(url: string, error: RimlightError): void {
    // An answer with a reason came from the platform: the router works. DRAINING is its own.
    if (error.reason === "DRAINING" || (error.unanswered && error.reason === "")) this.routers.failed(url);
    else this.routers.answered(url);
  }
}

/**
 * The W3C trace that a call is part of: all calls of one intention have the request_id, so they have one trace, and one root,
 * which nobody records. A UUID's fixed bits go to the half that no sampler looks at.
 */
function traceOf(input: object): HeadersInit | undefined {
  const { hints } = input as { hints?: { requestId?: string } };
  const halves = /^([\da-f]{16})([\da-f]{16})$/.exec(hints?.requestId?.replaceAll("-", "") ?? "");
  return halves ? { traceparent: `00-${halves[2]}${halves[1]}-${halves[2]}-00` } : undefined;
}

async function* single<T>(message: T): AsyncGenerator<T> {
  yield message;
}

/** Half to one and a half times: those who failed together do not return together. */
function jitter(ms: number): number {
  return ms * (0.5 + Math.random());
}

export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const done = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}
