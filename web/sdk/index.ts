/**
 * The client of a Rimlight platform for browsers.
 *
 *     const client = new RimlightClient({ routers: ["https://eu.example", "https://us.example"] });
 *     for await (const { drops } of client.watchDrops()) { ... }
 *     const offer = await client.requestOffer({ dropId, mediaTimeMs });
 *     if (offer.kind === "granted") {
 *       const bought = await client.redeem(offer.offer, { paymentReference });
 *       if (bought.kind === "accepted") for await (const p of client.follow(bought.purchaseId)) { ... }
 *     }
 *     client.resume(show);   // after a reload: receipts are presented again until their outcome is final
 *
 * What was accepted is kept (IndexedDB) until the viewer forgets it, and a receipt or outcome whose signature does not
 * verify is never reported as one. Calls are repeated only if their method is idempotent. Not in here: payment, which
 * stays between the page and its provider; this client passes an opaque reference on.
 */
export { RimlightClient } from "./client.js";
export type { BuyOptions, BuyResult, ClientOptions, DropsView, OfferOptions, OfferResult } from "./client.js";
export { RimlightError, UnverifiedError } from "./errors.js";
export { formatMoney } from "./money.js";
export type { Money } from "./money.js";
export { forgetViewer } from "./session.js";
export { IndexedDbStore, MemoryStore, openStore } from "./store.js";
export type { KeptPurchase, PurchaseStore } from "./store.js";
export { Keys } from "./verify.js";
export type { DropInfo, DropStateName, MakeGood, OfferInfo, PurchaseStateName, PurchaseView, Via } from "./views.js";
