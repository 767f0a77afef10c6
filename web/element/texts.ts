import type { PurchaseStateName, PurchaseView, ReasonName } from "../sdk/views.js";

/** What <rimlight-drop> says. Replace any of it by the element's property texts, for another language or another tone. */
export interface Texts {
  readonly waiting: string;
  readonly none: string;
  readonly offline: string;
  readonly opensIn: string;
  readonly closesIn: string;
  readonly paused: string;
  readonly soldOut: string;
  readonly over: string;
  readonly unsent: string;
  readonly buy: (price: string) => string;
  readonly buying: string;
  readonly inLine: (position: number) => string;
  readonly unknown: string;
  readonly failed: string;
  readonly unverified: string;
  /** until is the time of day, or the day too, by when the viewer must have chosen. */
  readonly choice: (until: string) => string;
  readonly takeVoucher: string;
  readonly takeMoney: string;
  readonly left: (seconds: number) => string;
  /** Said when an open drop's end moves: by an operator, or because answers were late. */
  readonly longer: (seconds: number) => string;
  /** By the platform's reason, or by seal()'s own, SEALING_UNSUPPORTED. */
  readonly refused: Readonly<Partial<Record<ReasonName | "SEALING_UNSUPPORTED", string>>>;
  readonly states: Readonly<Partial<Record<PurchaseStateName, string>>>;
}

export const english: Texts = {
  waiting: "Connecting…",
  none: "No drop is planned.",
  offline: "The connection is lost. Trying again…",
  opensIn: "Opens in",
  closesIn: "Closes in",
  paused: "Paused for a moment.",
  soldOut: "Sold out.",
  over: "This drop is over.",
  unsent: "Nobody can send it right now.",
  buy: (price) => `Buy for ${price}`,
  buying: "Buying…",
  inLine: (position) => `You are number ${position} in line.`,
  unknown: "No answer came. It is being found out whether you bought; you will not be charged twice.",
  failed: "That did not work, and nothing was bought. You can try again.",
  unverified: "The answer could not be verified. Nothing it says can be relied on.",
  choice: (until) => `Choose a voucher or your money until ${until}. After that, it is your money.`,
  takeVoucher: "Take a voucher",
  takeMoney: "Take the money",
  left: (seconds) => `${seconds} seconds left.`,
  longer: (seconds) => `Extended by ${seconds} seconds.`,
  refused: {
    SOLD_OUT: "Sold out.",
    NO_UNIT_HERE: "Sold out for now. You can try again.",
    VIEWER_LIMIT: "You have your share of this drop already.",
    DROP_NOT_OPEN: "The drop is not open.",
    NO_DEPOT: "Nobody can send it right now. You can try again.",
    CARD_NUMBER_REFUSED: "The address looks like it holds a card number. Nothing was bought.",
    SEALING_UNSUPPORTED: "This browser is too old to hide your address, so nothing was bought. Update it, or use another one.",
    PRICE_ABOVE_LIMIT: "The price has changed. Nothing was bought.",
    TOKEN_EXPIRED: "The offer has expired. You can try again.",
  },
  states: {
    accepted: "Bought. Your receipt is verified and kept in this browser.",
    received: "Bought. The order is being settled.",
    unit_settled: "Your unit is set aside. The payment is next.",
    action_required: "Your payment needs your confirmation.",
    captured: "Paid. Your order is on its way.",
    ordered: "Paid. Your order is being prepared.",
    shipped: "Your parcel has left.",
    delivered: "Delivered.",
    choice_required: "This did not work out.",
    refunding: "Your money is on its way back.",
    refunded: "You have your money back.",
    voucher: "This did not work out. You hold a voucher for the same price.",
    refused: "This did not work out. Nothing was charged.",
  },
};

/** What a purchase's state means for its viewer. */
export function purchaseText(p: PurchaseView, texts: Texts, locale?: string): string {
  const text = texts.states[p.state] ?? "";
  if (!p.choiceUntil) return text;
  const until = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" }).format(p.choiceUntil);
  return `${text} ${texts.choice(until)}`;
}
