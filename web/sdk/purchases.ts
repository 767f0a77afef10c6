import { Code } from "@connectrpc/connect";
import type { OfferToken, Outcome, Receipt } from "../../gen/ts/rimlight/offer/v1/signed_pb.js";
import { OfferService } from "../../gen/ts/rimlight/offer/v1/offer_service_pb.js";
import type { Purchase } from "../../gen/ts/rimlight/offer/v1/purchase_pb.js";
import { hex, uuidBytes } from "./bytes.js";
import { type Calls, sleep } from "./calls.js";
import type { Accepted } from "./client.js";
import { RimlightError, UnverifiedError } from "./errors.js";
import type { KeptPurchase, PurchaseStore } from "./store.js";
import { Keys } from "./verify.js";
import { type MakeGood, purchaseView, type PurchaseView, type Via } from "./views.js";

const NOT_FOUND = "PURCHASE_NOT_FOUND";

// What was asked for and is still unknown to the verifier after a day was never accepted: nodes forward within seconds,
// and one that is cut off for a day is past the end of every offer token.
const NOT_FOUND_FOR_GOOD_MS = 24 * 3600_000;

// Between looks for a key that nobody asked knows yet: half of a node's time between heartbeats.
const KEYS_AGAIN_MS = 500;

type Hints = { dropId?: string; requestId?: string; preferredRegion?: string };

/**
 * The purchases that this browser keeps: written down before the call that may make them, with the receipt once it is
 * verified, until the viewer forgets them. Presenting a receipt counts like a node's own word, so it heals a node that
 * lost its disk.
 */
export class Purchases {
  readonly #keys = new Keys();
  #ahead: Promise<void> | undefined;

  constructor(
    private readonly store: PurchaseStore,
    private readonly calls: Calls,
    private readonly hints: (hints: Hints) => Hints,
  ) {}

  all(): Promise<KeptPurchase[]> {
    return this.store.all();
  }

  find(purchaseId: string): Promise<KeptPurchase | undefined> {
    return this.store.get(purchaseId);
  }

  forget(purchaseId: string): Promise<void> {
    return this.store.delete(purchaseId);
  }

  /** Notes a purchase that is about to be asked for, unless it is known already. */
  async intend(expected: KeptPurchase): Promise<void> {
    if (!(await this.store.get(expected.purchaseId))) await this.store.put(expected);
  }

  /** Takes a note back after a definite no; a receipt that is kept from an earlier try stays. */
  async withdraw(purchaseId: string): Promise<void> {
    if (!(await this.store.get(purchaseId))?.receipt) await this.store.delete(purchaseId);
  }

  /** Keeps a receipt, then verifies that it says what was asked for. */
  async accept(
    expected: KeptPurchase, session: Uint8Array, text: string, region: string, acceptedAt: number, via: Via,
  ): Promise<Accepted> {
    // Kept first: if the keys cannot be had now, the receipt is still a promise that somebody may have made.
    const { session: _, ...kept } = expected;
    await this.store.put({ ...kept, receipt: text, region });
    const { receipt, offer } = await this.#withKeys(() => this.#keys.openReceipt(text));
    const same = receipt.purchaseId === expected.purchaseId && hex(offer.viewerSessionId) === hex(session) &&
      hex(offer.dropId) === hex(uuidBytes(expected.dropId)) && offer.price?.currencyCode === expected.price.currency &&
      offer.price.minorUnits === expected.price.minorUnits;
    if (!same) throw new UnverifiedError("mismatch");
    return { kind: "accepted", purchaseId: expected.purchaseId, receipt: text, region, acceptedAt, via };
  }

  /** Verifies what is kept. Throws UnverifiedError when something is not genuine. */
  async verify(purchaseId: string): Promise<{ receipt: boolean; outcome: boolean }> {
    const kept = await this.#get(purchaseId);
    const found: { receipt?: Receipt; offer?: OfferToken } = {};
    if (kept.receipt) Object.assign(found, await this.#openReceipt(kept.receipt));
    if (found.receipt && found.receipt.purchaseId !== purchaseId) throw new UnverifiedError("mismatch");
    if (kept.outcome) await this.#openOutcome(kept.outcome, purchaseId);
    return { receipt: found.receipt !== undefined, outcome: kept.outcome !== undefined };
  }

  /** One purchase, now and as it changes; ends after its final state. */
  async *follow(purchaseId: string, signal?: AbortSignal): AsyncGenerator<PurchaseView, void, undefined> {
    const kept = await this.#get(purchaseId);
    const credential = await this.#credential(kept, signal);
    const messages = this.calls.stream(
      OfferService.method.watchPurchase,
      () => ({ hints: this.#to(kept), credential }),
      () => undefined, signal,
    );
    let last: Purchase | undefined;
    try {
      for await (const { purchase } of messages) {
        if (!purchase || (last && last.state === purchase.state && !purchase.outcome)) continue;
        last = purchase;
        const final = purchase.outcome !== "";
        if (final) {
          const outcome = await this.#openOutcome(purchase.outcome, purchaseId, signal);
          if (outcome.state !== purchase.state) throw new UnverifiedError("mismatch");
          await this.store.put({ ...kept, outcome: purchase.outcome });
        }
        yield purchaseView(purchase, final);
        if (final) return;
      }
    } catch (error) {
      const unknown = error instanceof RimlightError && error.reason === NOT_FOUND && !kept.receipt;
      if (unknown && Date.now() - kept.keptMs > NOT_FOUND_FOR_GOOD_MS) await this.store.delete(purchaseId);
      throw error;
    }
  }

  /** What the viewer would rather have. */
  async choose(purchaseId: string, choice: MakeGood, signal?: AbortSignal): Promise<PurchaseView> {
    const kept = await this.#get(purchaseId);
    const { message } = await this.calls.unary(OfferService.method.chooseMakeGood, {
      hints: this.#to(kept), credential: await this.#credential(kept, signal), choice: choice === "voucher" ? 1 : 2,
    }, signal);
    return purchaseView(message.purchase!, false); // its outcome, which only follow verifies, is still to come
  }

  /** The region that accepted knows most of a purchase. */
  #to(kept: KeptPurchase) {
    return this.hints({ dropId: kept.dropId, requestId: kept.requestId, preferredRegion: kept.region ?? "" });
  }

  /** What shows that the purchase is the viewer's. A claim without an answer gets the token of its own intention. */
  async #credential(kept: KeptPurchase, signal?: AbortSignal) {
    if (kept.receipt) return { case: "receipt", value: kept.receipt } as const;
    if (kept.offerToken) return { case: "offerToken", value: kept.offerToken } as const;
    const { message } = await this.calls.unary(OfferService.method.requestOffer, {
      hints: this.#to(kept), viewerSessionId: kept.session ?? new Uint8Array(),
    }, signal);
    if (message.decision.case !== "granted") {
      throw new RimlightError("whether the claim was accepted cannot be found out any more", Code.NotFound, NOT_FOUND);
    }
    const { offerToken } = message.decision.value;
    await this.store.put({ ...kept, offerToken });
    return { case: "offerToken", value: offerToken } as const;
  }

  async #get(purchaseId: string): Promise<KeptPurchase> {
    const kept = await this.store.get(purchaseId);
    if (!kept) throw new RimlightError(`no purchase ${purchaseId} is kept here`, Code.NotFound, NOT_FOUND);
    return kept;
  }

  #openReceipt(text: string) {
    return this.#withKeys(() => this.#keys.openReceipt(text));
  }

  async #openOutcome(text: string, purchaseId: string, signal?: AbortSignal): Promise<Outcome> {
    const outcome = await this.#withKeys(() => this.#keys.openOutcome(text), signal);
    if (outcome.purchaseId !== purchaseId) throw new UnverifiedError("mismatch");
    return outcome;
  }

  /** Fetches the published keys ahead of the first receipt, which would wait a round trip for them. */
  prepare(): void {
    this.#ahead ??= this.#fetchKeys().catch(() => (this.#ahead = undefined)); // whoever needs them asks again
  }

  /**
   * Opens a text. When its key is not known, again with the keys that were fetched ahead, and then with fresh ones: whoever
   * is asked learns a new node's key from that node's next heartbeat.
   */
  async #withKeys<T>(open: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (let fetched = 0; ; fetched++) {
      try {
        return await open();
      } catch (error) {
        if (!(error instanceof UnverifiedError) || error.why !== "unknown_key" || fetched > 5) throw error;
      }
      if (fetched > 1) await sleep(KEYS_AGAIN_MS, signal);
      await (fetched ? this.#fetchKeys(signal) : this.#ahead);
    }
  }

  async #fetchKeys(signal?: AbortSignal): Promise<void> {
    let pageToken = "";
    do {
      const { message } = await this.calls.unary(OfferService.method.listKeys, { hints: this.hints({}), pageToken }, signal);
      await this.#keys.add(message.keys);
      pageToken = message.nextPageToken;
    } while (pageToken !== "");
  }
}
