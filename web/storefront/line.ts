import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { sleep } from "../sdk/calls.js";

/** A point of presence, as /platform.json tells of it. */
export interface Router {
  readonly name: string;
  readonly url: string;
}

/** Somewhere to watch from, with the round trip to each router, by name. */
export interface Place {
  readonly name: string;
  readonly rttMs: Readonly<Record<string, number>>;
}

export interface Platform {
  readonly routers: readonly Router[];
  readonly places: readonly Place[];
  readonly drills: boolean;
  readonly split: boolean;
}

/**
 * The viewer's line to the routers: as long as it is from where the viewer pretends to be, and unplugged where the viewer
 * likes. The client above it notices neither but by what a browser would notice, too: time, and calls that fail.
 */
export class Line {
  place: Place | undefined;
  /** The router that was called last. */
  used: Router | undefined;
  readonly #cut = new Map<string, AbortController>();

  constructor(
    readonly routers: readonly Router[],
    private readonly changed: () => void,
  ) {}

  /** The round trip to a router, in ms; 0 where the browser really is. */
  rttMs(router: Router): number {
    return this.place?.rttMs[router.name] ?? 0;
  }

  isCut(router: Router): boolean {
    return this.#switch(router).signal.aborted;
  }

  /** Unplugs a router, with all that is under way, or plugs it in again. */
  toggle(router: Router): void {
    if (this.isCut(router)) this.#cut.delete(router.url);
    else this.#switch(router).abort(unplugged());
    this.changed();
  }

  /** A transport for the client. */
  transport = (url: string): Transport => this.#transport(url, true);

  /** A transport for what only the page asks, which says nothing of where the viewer's calls go. */
  aside = (url: string): Transport => this.#transport(url, false);

  #transport(baseUrl: string, viewers: boolean): Transport {
    const router = this.routers.find((r) => r.url === baseUrl);
    return createConnectTransport({ baseUrl, useBinaryFormat: true, interceptors: router ? [this.#lengthen(router, viewers)] : [] });
  }

  #lengthen(router: Router, viewers: boolean): Interceptor {
    return (next) => async (request) => {
      const { signal: cut } = this.#switch(router);
      if (cut.aborted) throw unplugged();
      const signal = AbortSignal.any([request.signal, cut]);
      const half = this.rttMs(router) / 2;
      if (half > 0) await sleep(half, signal);
      const response = await next({ ...request, signal });
      if (half > 0) await sleep(half, signal);
      if (viewers && this.used !== router && request.method.name !== "ListKeys") { // which the client measures all routers with
        this.used = router;
        this.changed();
      }
      return response;
    };
  }

  #switch(router: Router): AbortController {
    let cut = this.#cut.get(router.url);
    if (!cut) this.#cut.set(router.url, (cut = new AbortController()));
    return cut;
  }
}

function unplugged(): ConnectError {
  return new ConnectError("the line to this router is unplugged", Code.Unavailable);
}
