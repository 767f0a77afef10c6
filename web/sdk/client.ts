import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Transport } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { Drop } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
import type { Offer, OfferPending, OfferRefused } from "../../gen/ts/rimlight/offer/v1/offer_pb.js";
import { OfferService, WatchDropsResponseSchema } from "../../gen/ts/rimlight/offer/v1/offer_service_pb.js";
import { Calls } from "./calls.js";
import { monotonicNow, ServerClock } from "./clock.js";
import { RimlightError } from "./errors.js";
import { Purchases } from "./purchases.js";
import { Routers, type RouterState } from "./routers.js";
import { viewerSession } from "./session.js";
import { type KeptPurchase, openStore, type PurchaseStore } from "./store.js";
import { deriveTokenId, purchaseIdOf, readOfferToken } from "./verify.js";
import { type DropInfo, dropInfo, type MakeGood, millis, money, type OfferInfo, type PurchaseView, type ReasonName, reasonName, type Via } from "./views.js";

export interface ClientOptions {
  /** One or more router URLs; the nearest that works is used. */
  readonly routers: readonly string[];
  /** The channel whose drops are sold here; empty: all. The viewer's session is per channel. */
  readonly channelId?: string;
  /** What the viewer agreed to; nothing by default. The browser's Global Privacy Control is added by itself. */
  readonly consent?: readonly Purpose[];
  /** Zones that must process the viewer's calls, such as "eu"; empty: any. */
  readonly residencyZones?: readonly string[];
  /** Where purchases are kept; the browser's database by default. */
  readonly store?: PurchaseStore;
  /** Seals delivery details, for who sells physical goods: () => import("@rimlight/client/seal"). Loaded when it is needed. */
  readonly sealer?: () => Promise<Pick<typeof import("./seal.js"), "seal">>;
  /** How to reach a router; Connect over fetch by default. */
  readonly transport?: (url: string) => Transport;
}

/** What a viewer may agree to, in the order of rimlight.offer.v1.Purpose. */
const PURPOSES = ["personalisation", "delivery", "measurement"] as const;
export type Purpose = (typeof PURPOSES)[number];

export interface OfferOptions {
  readonly dropId: string;
  /** The player's position in the stream, in ms. */
  readonly mediaTimeMs?: number;
  /** Given again for the same intention: after a pending answer. */
  readonly requestId?: string;
  readonly signal?: AbortSignal;
}

export interface BuyOptions {
  /** An opaque reference to a payment that the viewer authorised; never a card number. */
  readonly paymentReference: string;
  /**
   * Where a physical good goes, at most 2 KiB; needs consent for delivery. Sealed here to those who may send it, so that
   * nobody else reads it; not sent at all for a digital good.
   */
  readonly deliveryDetails?: Uint8Array;
  /** The text of a voucher to pay with: voucher.text of another purchase. */
  readonly voucher?: string;
  readonly signal?: AbortSignal;
}

/** The viewer waits in the drop's line: ask again after this time, with the same requestId. */
export interface Pending {
  readonly kind: "pending";
  readonly position: number;
  readonly retryAfterMs: number;
  readonly requestId: string;
  readonly via: Via;
}

/** A definite no, with its reason. */
export interface Refused {
  readonly kind: "refused";
  readonly reason: ReasonName;
  /** One sentence for people. */
  readonly message: string;
  readonly via?: Via;
}

/** Accepted by a node, durably; the receipt is verified and kept. */
export interface Accepted {
  readonly kind: "accepted";
  readonly purchaseId: string;
  readonly receipt: string;
  readonly region: string;
  readonly acceptedAt: number;
  readonly via: Via;
}

/** No answer came. It may have been accepted: resume() finds out, and the same intention can be repeated safely. */
export interface Unknown {
  readonly kind: "unknown";
  readonly purchaseId: string;
  readonly message: string;
}

export type OfferResult = { readonly kind: "granted"; readonly offer: OfferInfo; readonly via: Via } | Pending | Refused;
export type BuyResult = Accepted | Pending | Refused | Unknown;

export interface DropsView {
  /** In the order of their opening. */
  readonly drops: readonly DropInfo[];
  /** Whether the platform is being heard; if not, the drops are as last heard. */
  readonly live: boolean;
}

// Stands in the stream of drops for "the platform is not heard".
const LOST = create(WatchDropsResponseSchema);

// When the platform does not say how long to wait in line.
const PENDING_MS = 1_000;

// How old a measurement may be when a call is about to be made.
const MEASURE_EVERY_MS = 60_000;
const MEASURE_MS = 2_000;

/** One viewer at a platform. Nothing is sent before the first call. */
export class RimlightClient {
  readonly #options: ClientOptions;
  readonly #routers: Routers;
  readonly #calls: Calls;
  readonly #clock = new ServerClock();
  readonly #session: Uint8Array;
  #measured = -Infinity;
  #purchases?: Promise<Purchases>;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#routers = new Routers(options.routers);
    const connect = options.transport ?? ((baseUrl: string) => createConnectTransport({ baseUrl, useBinaryFormat: true }));
    this.#calls = new Calls(this.#routers, connect);
    this.#session = viewerSession(options.channelId ?? "");
  }

  /** The platform's time, in ms since 1970: what countdowns count by. */
  now(): number {
    return this.#clock.now();
  }

  /** What is known of each router. */
  get routers(): readonly RouterState[] {
    return this.#routers.states;
  }

  /** Times a small call through every router. Done by itself, too, when the last measurement is a minute old. */
  async measure(signal?: AbortSignal): Promise<void> {
    this.#measured = monotonicNow();
    await Promise.all(this.#routers.states.map(async ({ url }) => {
      try {
        const small = { hints: this.#hints({}), pageSize: 1 };
        await this.#calls.once(url, OfferService.method.listKeys, small, MEASURE_MS, signal); // handshake and preflight
        const { tookMs } = await this.#calls.once(url, OfferService.method.listKeys, small, MEASURE_MS, signal);
        this.#routers.measured(url, tookMs);
      } catch {
        if (!signal?.aborted) this.#routers.failed(url);
      }
    }));
  }

  /** The drops, now and as they change, over as many streams as it takes; break out of the loop, or abort, to stop. */
  async *watchDrops(signal?: AbortSignal): AsyncGenerator<DropsView, void, undefined> {
    this.#getReady();
    let resumeToken = "";
    const drops = new Map<string, Drop>();
    const view = (live: boolean): DropsView => ({
      drops: [...drops.values()].map(dropInfo).sort((a, b) => a.opensAt - b.opensAt), live,
    });
    let heard = false;
    const messages = this.#calls.stream(
      OfferService.method.watchDrops,
      () => ({ hints: this.#hints({}), channelId: this.#options.channelId ?? "", resumeToken }),
      (error) => error && LOST, signal,
    );
    for await (const message of messages) {
      if (message === LOST) {
        if (heard) yield view((heard = false));
        continue;
      }
      if (message.serverTime) this.#clock.observe(millis(message.serverTime));
      resumeToken = message.resumeToken || resumeToken;
      const { event } = message;
      if (event.case === "snapshot") {
        drops.clear();
        for (const drop of event.value.drops) drops.set(drop.dropId, drop);
      } else if (event.case === "changed") {
        drops.set(event.value.dropId, event.value);
      } else if (heard) {
        continue;
      }
      yield view((heard = true));
    }
  }

  /** Asks for a price. Reserves nothing. */
  async requestOffer(options: OfferOptions): Promise<OfferResult> {
    this.#getReady();
    const requestId = options.requestId ?? crypto.randomUUID();
    const { message, via } = await this.#calls.unary(OfferService.method.requestOffer, {
      hints: this.#hints({ dropId: options.dropId, requestId }), ...this.#viewer(), ...mediaTime(options),
    }, options.signal);
    const { decision } = message;
    switch (decision.case) {
      case "granted":
        return { kind: "granted", offer: offerInfo(decision.value.offer, decision.value.offerToken, requestId), via };
      case "pending":
        return pending(decision.value, requestId, via);
      default:
        return refused(decision.value, via);
    }
  }

  /** Buys what was offered. The offer's token names the intention: repeating it never buys twice. */
  async redeem(offer: OfferInfo, options: BuyOptions): Promise<BuyResult> {
    const purchases = await this.#kept();
    const purchaseId = await purchaseIdOf(readOfferToken(offer.token).tokenId);
    const { dropId, title, price, requestId, token: offerToken } = offer;
    const sealed = await this.#seal(purchases, purchaseId, dropId, offer.deliveryKeys, options.deliveryDetails);
    const expected = { purchaseId, dropId, title, price, keptMs: this.now(), offerToken, requestId, ...sealed };
    return this.#buy(purchases, expected, async () => {
      const { message, via } = await this.#calls.unary(OfferService.method.redeemOffer, {
        hints: this.#hints({ dropId, requestId }), offerToken, ...this.#viewer(),
        ...payment(options, sealed),
      }, options.signal);
      return purchases.accept(expected, this.#session, message.receipt, message.region, millis(message.acceptTime), via);
    });
  }

  /** Asks and buys in one round trip, at the drop's price or less. */
  async claim(drop: DropInfo, options: BuyOptions & Pick<OfferOptions, "mediaTimeMs" | "requestId">): Promise<BuyResult> {
    this.#keepMeasured();
    const purchases = await this.#kept();
    const requestId = options.requestId ?? crypto.randomUUID();
    const purchaseId = await purchaseIdOf(await deriveTokenId(this.#session, drop.id, requestId));
    const sealed = await this.#seal(purchases, purchaseId, drop.id, drop.deliveryKeys, options.deliveryDetails);
    const expected = {
      purchaseId, dropId: drop.id, title: drop.title, price: drop.price, keptMs: this.now(), requestId, session: this.#session, ...sealed,
    };
    return this.#buy(purchases, expected, async () => {
      const { message, via } = await this.#calls.unary(OfferService.method.claimOffer, {
        hints: this.#hints({ dropId: drop.id, requestId }), ...this.#viewer(), ...payment(options, sealed), ...mediaTime(options),
        maxPrice: { currencyCode: drop.price.currency, minorUnits: drop.price.minorUnits },
      }, options.signal);
      const { decision } = message;
      switch (decision.case) {
        case "accepted": {
          const a = decision.value;
          // The offer may be cheaper than the drop: what was accepted is what the receipt must say.
          return purchases.accept({ ...expected, price: money(a.offer?.price) }, this.#session, a.receipt, a.region, millis(a.acceptTime), via);
        }
        case "pending":
          return pending(decision.value, requestId, via);
        default:
          return refused(decision.value, via);
      }
    });
  }

  /** One purchase, now and as it changes; ends after its final state, whose outcome is verified. */
  async *follow(purchaseId: string, signal?: AbortSignal): AsyncGenerator<PurchaseView, void, undefined> {
    yield* (await this.#kept()).follow(purchaseId, signal);
  }

  /**
   * Chooses a voucher or the money for a purchase in choice_required, until choiceUntil. The same choice again is the same
   * answer; after another one the error's reason is NO_CHOICE_PENDING. follow() tells what comes of it.
   */
  async chooseMakeGood(purchaseId: string, choice: MakeGood, signal?: AbortSignal): Promise<PurchaseView> {
    return (await this.#kept()).choose(purchaseId, choice, signal);
  }

  /**
   * Presents every kept receipt again whose outcome is not final, and calls back with each state, until all are final or
   * the signal aborts. For the start of a page. Errors of single purchases go to failed.
   */
  async resume(
    show: (purchase: PurchaseView) => void, signal?: AbortSignal, failed: (purchaseId: string, error: unknown) => void = () => {},
  ): Promise<void> {
    const purchases = await this.#kept();
    const open = (await purchases.all()).filter((p) => !p.outcome);
    await Promise.all(open.map(async ({ purchaseId }) => {
      try {
        for await (const view of purchases.follow(purchaseId, signal)) show(view);
      } catch (error) {
        if (!signal?.aborted) failed(purchaseId, error);
      }
    }));
  }

  /** What this browser keeps, newest first. */
  async purchases() {
    return (await (await this.#kept()).all()).sort((a, b) => b.keptMs - a.keptMs);
  }

  /** Verifies a kept purchase's receipt, and its outcome if there is one, against the published keys. */
  async verify(purchaseId: string): Promise<{ receipt: boolean; outcome: boolean }> {
    return (await this.#kept()).verify(purchaseId);
  }

  /** Forgets a purchase. Without its receipt nobody else can read it, and nobody heals a node that lost its disk. */
  async forget(purchaseId: string): Promise<void> {
    await (await this.#kept()).forget(purchaseId);
  }

  async #buy(purchases: Purchases, expected: Parameters<Purchases["intend"]>[0], call: () => Promise<BuyResult>): Promise<BuyResult> {
    await purchases.intend(expected); // before the call: its answer may be lost
    try {
      const result = await call();
      if (result.kind === "refused") await purchases.withdraw(expected.purchaseId);
      return result;
    } catch (error) {
      if (!(error instanceof RimlightError)) throw error; // unverified, or aborted: what is kept stays
      if (error.unanswered && error.reason !== "NO_REGION") {
        return { kind: "unknown", purchaseId: expected.purchaseId, message: error.message };
      }
      // Another body under this token was accepted before: the purchase stands, as the first call made it.
      if (error.reason !== "REQUEST_REPLAYED") await purchases.withdraw(expected.purchaseId);
      if (!DECISIONS.has(error.code)) throw error;
      return { kind: "refused", reason: error.reason as ReasonName, message: error.message };
    }
  }

  /** Hides where a purchase goes, the same way however often it is asked for. */
  async #seal(purchases: Purchases, purchaseId: string, dropId: string, keys: readonly Uint8Array[], details?: Uint8Array): Promise<Hidden> {
    if (!details || !keys.length) return {};
    const { seal } = await this.#options.sealer!();
    return { sealed: await seal(details, keys, dropId, purchaseId, (await purchases.find(purchaseId))?.sealed) };
  }

  #kept(): Promise<Purchases> {
    this.#purchases ??= Promise.resolve(this.#options.store ?? openStore()).then(
      (store) => new Purchases(store, this.#calls, (hints) => this.#hints(hints)));
    return this.#purchases;
  }

  /** Does ahead of a tap what the tap would wait for. */
  #getReady(): void {
    this.#keepMeasured();
    this.#kept().then((purchases) => purchases.prepare(), () => {}); // a store that fails tells whoever buys
  }

  #keepMeasured(): void {
    if (this.#routers.states.length < 2 || monotonicNow() - this.#measured < MEASURE_EVERY_MS) return;
    void this.measure(); // never rejects
  }

  #hints(hints: { dropId?: string; requestId?: string; preferredRegion?: string }) {
    return { ...hints, residencyZones: [...(this.#options.residencyZones ?? [])] };
  }

  /** What every request of this viewer says. */
  #viewer() {
    const browser = globalThis.navigator as { globalPrivacyControl?: boolean } | undefined; // too new for the library's types
    const grantedPurposes = (this.#options.consent ?? []).map((purpose) => PURPOSES.indexOf(purpose) + 1);
    return { viewerSessionId: this.#session, consent: { grantedPurposes, secGpc: browser?.globalPrivacyControl === true } };
  }
}

/** Codes under which the platform decided; every other failure is one of the call. */
const DECISIONS = new Set([Code.FailedPrecondition, Code.AlreadyExists, Code.NotFound, Code.ResourceExhausted]);

type Hidden = Pick<KeptPurchase, "sealed">;

function payment({ paymentReference, voucher = "" }: BuyOptions, { sealed }: Hidden) {
  return { paymentReference, voucher, ...(sealed && { deliveryDetails: sealed.envelope }) };
}

function mediaTime({ mediaTimeMs }: { readonly mediaTimeMs?: number }) {
  return mediaTimeMs === undefined ? {} : { mediaTime: durationFromMs(Math.max(0, Math.round(mediaTimeMs))) };
}

function pending(p: OfferPending, requestId: string, via: Via): Pending {
  const retryAfterMs = millis(p.retryAfter) || PENDING_MS;
  return { kind: "pending", position: Number(p.position), retryAfterMs, requestId, via };
}

function refused(r: OfferRefused | undefined, via: Via): Refused {
  return { kind: "refused", reason: r ? reasonName(r.reason) : "", message: r?.message ?? "the answer holds no decision", via };
}

function offerInfo(o: Offer | undefined, token: string, requestId: string): OfferInfo {
  return {
    dropId: o?.dropId ?? "", title: o?.title ?? "", price: money(o?.price), expiresAt: millis(o?.expireTime), arm: o?.arm ?? "",
    region: o?.region ?? "", requestId, token,
    deliveryKeys: o?.deliveryKeys ?? [],
  };
}
