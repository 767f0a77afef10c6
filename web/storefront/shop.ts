import { type DropClient, sealer } from "../element/element.js";
import type { BuyOptions, BuyResult, DropsView } from "../sdk/client.js";
import { type DropInfo, forgetViewer, type KeptPurchase, type PurchaseView, RimlightClient } from "../sdk/index.js";
import { Latest } from "./latest.js";
import type { Line, Place } from "./line.js";

// Over HTTP/1.1 a browser holds six connections to a host: one carries the drops, and taps must find one free.
const STREAMS = 3;

/** What the page does with what it hears. */
export interface Listener {
  /** A tap was answered, and the receipt is verified; tookMs is what the viewer waited. */
  bought(drop: DropInfo, result: BuyResult, tookMs: number): void;
  changed(purchase: PurchaseView): void;
  /** A purchase cannot be followed any more. */
  lost(purchaseId: string, error: unknown): void;
}

/**
 * One viewer in the shop: one client and one stream of drops for all that the page shows, and every purchase followed
 * once, whoever looks.
 */
export class Shop {
  client: RimlightClient;
  /** The text of a voucher that pays the next tap. */
  voucher = "";
  readonly drops = new Latest<DropsView>();
  readonly #followed = new Map<string, Latest<PurchaseView>>();
  #stop = new AbortController();

  constructor(
    private readonly line: Line,
    private readonly listener: Listener,
  ) {
    this.client = this.#enter();
  }

  /** Watches from another place, from now on. */
  move(place: Place | undefined): void {
    this.line.place = place;
    this.line.used = undefined;
    this.client = this.#enter();
  }

  /** Goes on as a viewer who has bought nothing yet. */
  becomeSomebodyElse(): void {
    forgetViewer();
    this.client = this.#enter();
  }

  #enter(): RimlightClient {
    this.#stop.abort();
    this.#stop = new AbortController();
    const near = [...this.line.routers].sort((a, b) => this.line.rttMs(a) - this.line.rttMs(b));
    const client = new RimlightClient({
      routers: near.map((r) => r.url), transport: this.line.transport, sealer, consent: ["delivery"], // the address field says so
    });
    void this.#watch(client, this.#stop.signal);
    return client;
  }

  async #watch(client: RimlightClient, signal: AbortSignal): Promise<void> {
    await client.measure(signal);
    try {
      for await (const view of client.watchDrops(signal)) this.drops.set(view);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** The part of a client that the element of one channel uses. */
  channel(id: string): DropClient {
    const of = (view: DropsView) => ({ ...view, drops: view.drops.filter((d) => d.channelId === id) });
    const { drops } = this;
    return {
      now: () => this.client.now(),
      watchDrops: async function* (signal) {
        for await (const view of drops.watch(signal)) yield of(view);
      },
      claim: (drop, options) => this.#claim(drop, options),
      follow: (purchaseId, signal) => this.follow(purchaseId).watch(signal),
      resume: async () => {}, // the page does, once for all channels
      chooseMakeGood: (purchaseId, choice, signal) => this.client.chooseMakeGood(purchaseId, choice, signal),
    };
  }

  async #claim(drop: DropInfo, options: BuyOptions): Promise<BuyResult> {
    const tapped = performance.now();
    const result = await this.client.claim(drop, { ...options, ...(this.voucher && { voucher: this.voucher }) });
    this.listener.bought(drop, result, performance.now() - tapped);
    return result;
  }

  /** A purchase as it changes; it is asked for once. */
  follow(purchaseId: string): Latest<PurchaseView> {
    let view = this.#followed.get(purchaseId);
    if (!view) {
      this.#followed.set(purchaseId, (view = new Latest()));
      void this.#follow(purchaseId, view);
    }
    return view;
  }

  async #follow(purchaseId: string, view: Latest<PurchaseView>): Promise<void> {
    try {
      for await (const purchase of this.client.follow(purchaseId)) {
        view.set(purchase);
        this.listener.changed(purchase);
      }
    } catch (error) {
      this.listener.lost(purchaseId, error);
    } finally {
      view.end();
    }
  }

  /** Presents the receipts of earlier visits again, those without an outcome first. */
  async resume(kept: readonly KeptPurchase[]): Promise<void> {
    const queue = [...kept].sort((a, b) => Number(Boolean(a.outcome)) - Number(Boolean(b.outcome)));
    const worker = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        for await (const _ of this.follow(next.purchaseId).watch()); // to its end
      }
    };
    await Promise.all(Array.from({ length: STREAMS }, worker));
  }
}
