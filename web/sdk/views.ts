import type { DescEnum } from "@bufbuild/protobuf";
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import type { Reason } from "../../gen/ts/rimlight/errors/v1/reason_pb.js";
import { ReasonSchema } from "../../gen/ts/rimlight/errors/v1/reason_pb.js";
import type { Availability, Drop, DropState } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
import { AvailabilitySchema, DropStateSchema } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
import type { Money as WireMoney } from "../../gen/ts/rimlight/offer/v1/money_pb.js";
import type { Purchase, PurchaseState, VoucherKind } from "../../gen/ts/rimlight/offer/v1/purchase_pb.js";
import { PurchaseStateSchema, VoucherKindSchema } from "../../gen/ts/rimlight/offer/v1/purchase_pb.js";
import type { Money } from "./money.js";

/** The states of a drop, as in rimlight.offer.v1.DropState. */
export type DropStateName = Lowercase<keyof typeof DropState>;
/** The states of a purchase, as in rimlight.offer.v1.PurchaseState. */
export type PurchaseStateName = Lowercase<keyof typeof PurchaseState>;
/** Why something failed, as in rimlight.errors.v1.Reason; "" where there is none. */
export type ReasonName = keyof typeof Reason | "";

/** A drop as a page shows it. Times are ms since 1970 by the platform's clock: compare with client.now(). */
export interface DropInfo {
  readonly id: string;
  readonly channelId: string;
  readonly title: string;
  readonly state: DropStateName;
  readonly soldOut: boolean;
  readonly price: Money;
  readonly opensAt: number;
  readonly closesAt: number;
  /** It is sent, so buying it takes delivery details. */
  readonly physical: boolean;
  /** To whom those are sealed; empty while nobody could send it. */
  readonly deliveryKeys: readonly Uint8Array[];
}

/** An offer: a price until a time. It reserves nothing. */
export interface OfferInfo {
  readonly dropId: string;
  readonly title: string;
  readonly price: Money;
  readonly expiresAt: number;
  readonly arm: string;
  readonly region: string;
  /** Names the intention: the same over all tries. */
  readonly requestId: string;
  /** Signed by the node that made the offer. */
  readonly token: string;
  /** As the drop's. */
  readonly deliveryKeys: readonly Uint8Array[];
}

/** How a call went. */
export interface Via {
  /** The router that answered. */
  readonly router: string;
  /** The region that decided. */
  readonly region: string;
  /** Names the router's decision: hand it to `rimlight explain`. */
  readonly decision: string;
  /** From the call to its answer, over all tries. */
  readonly tookMs: number;
  readonly tries: number;
}

/** A purchase as it is now. */
export interface PurchaseView {
  readonly purchaseId: string;
  readonly dropId: string;
  readonly state: PurchaseStateName;
  /** Nothing changes any more, and the verifier's signature under that was verified. */
  readonly final: boolean;
  /** Why, where it failed. */
  readonly reason: ReasonName;
  readonly price: Money;
  /** expiresAt is 0 for ever. Whoever has the text can spend it. */
  readonly voucher?: { readonly id: string; readonly kind: string; readonly price: Money; readonly expiresAt: number; readonly text: string };
  /** Set in choice_required: until when chooseMakeGood may be called; then it is the money. */
  readonly choiceUntil?: number;
  /** Set when a digital good was delivered. */
  readonly licenceKey: string;
  /** Set in action_required: hand it to the payment provider. */
  readonly paymentIntentId: string;
  readonly orderId: string;
}

/** How a purchase that failed after it was paid is made good. */
export type MakeGood = "voucher" | "money";

/** A moment or a span in ms. */
export function millis(t: Timestamp | Duration | undefined): number {
  return t ? Number(t.seconds) * 1000 + t.nanos / 1e6 : 0;
}

export function money(m: WireMoney | undefined): Money {
  return { currency: m?.currencyCode || "XXX", minorUnits: m?.minorUnits ?? 0n };
}

const SOLD_OUT: keyof typeof Availability = "SOLD_OUT";

// Names come from the descriptors, which are there anyway: the enums' own objects would be a second copy of them.
function name(of: DescEnum, value: number): string {
  return of.value[value]?.localName ?? "UNSPECIFIED";
}

export function reasonName(reason: Reason): ReasonName {
  return reason === 0 ? "" : (name(ReasonSchema, reason) as ReasonName);
}

/** A state that this client is too old to know is "unspecified". */
function state<T extends string>(of: DescEnum, value: number): Lowercase<T> {
  return name(of, value).toLowerCase() as Lowercase<T>;
}

export function dropInfo(d: Drop): DropInfo {
  return {
    id: d.dropId, channelId: d.channelId, title: d.title, state: state<keyof typeof DropState>(DropStateSchema, d.state),
    soldOut: name(AvailabilitySchema, d.availability) === SOLD_OUT, price: money(d.price), opensAt: millis(d.openTime), closesAt: millis(d.closeTime),
    physical: d.physical, deliveryKeys: d.deliveryKeys,
  };
}

export function purchaseView(p: Purchase, final: boolean): PurchaseView {
  return {
    purchaseId: p.purchaseId, dropId: p.dropId, state: state<keyof typeof PurchaseState>(PurchaseStateSchema, p.state), final,
    reason: reasonName(p.reason), price: money(p.price), licenceKey: p.licenceKey, paymentIntentId: p.paymentIntentId, orderId: p.orderId,
    ...(p.choiceDeadline && { choiceUntil: millis(p.choiceDeadline) }),
    ...(p.voucher && {
      voucher: {
        id: p.voucher.voucherId, kind: state<keyof typeof VoucherKind>(VoucherKindSchema, p.voucher.kind), price: money(p.voucher.price),
        expiresAt: millis(p.voucher.expireTime), text: p.voucher.text,
      },
    }),
  };
}
