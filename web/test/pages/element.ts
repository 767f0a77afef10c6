// Runs in the browser: the element over a client whose drops and purchases the test sets.
import { RimlightDrop } from "../../element/element.js";
import type { BuyResult, DropsView } from "../../sdk/client.js";
import type { RimlightClient } from "../../sdk/index.js";
import type { DropInfo, PurchaseView } from "../../sdk/views.js";

/**
 * Plays the platform. Its clock is an hour ahead of the browser's: of Date, since the test clock answers
 * performance.timeOrigin with -1 until something else has asked it for the time.
 */
class Platform {
  static readonly AHEAD_MS = 3_600_000;
  result: BuyResult = { kind: "refused", reason: "SOLD_OUT", message: "" };
  purchases: PurchaseView[] = [];
  claims: { mediaTimeMs?: number; paymentReference: string; requestId?: string }[] = [];
  #views: DropsView[] = [];
  #wake = () => {};

  now = () => Date.now() + Platform.AHEAD_MS;

  show(drops: DropInfo[], live = true) {
    this.#views.push({ drops, live });
    this.#wake();
  }

  async *watchDrops(signal: AbortSignal) {
    while (!signal.aborted) {
      for (let view = this.#views.shift(); view; view = this.#views.shift()) yield view;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async claim(_: DropInfo, options: Platform["claims"][0] & { deliveryDetails?: Uint8Array }): Promise<BuyResult> {
    if (options.deliveryDetails) this.addresses.push(new TextDecoder().decode(options.deliveryDetails));
    const { mediaTimeMs, paymentReference, requestId } = options;
    this.claims.push({ paymentReference, ...(mediaTimeMs !== undefined && { mediaTimeMs }), ...(requestId !== undefined && { requestId }) });
    return this.result;
  }

  addresses: string[] = [];
  chosen: string[] = [];

  async chooseMakeGood(purchaseId: string, choice: string): Promise<PurchaseView> {
    this.chosen.push(`${purchaseId} ${choice}`);
    return { ...this.purchases.at(-1)!, state: "refunding", choiceUntil: undefined } as unknown as PurchaseView;
  }

  async *follow() {
    yield* this.purchases;
  }

  async resume() {}
}

const platform = new Platform();
const element = new RimlightDrop();
element.client = platform as unknown as RimlightClient;
element.setAttribute("payment-reference", "tp_ok");
document.body.append(element);

const now = () => platform.now();
const drop = (opensInMs: number, closesInMs: number, more: Partial<DropInfo> = {}): DropInfo => ({
  id: "d1", channelId: "aurora", title: "A thing", state: opensInMs > 0 ? "armed" : "open", soldOut: false,
  price: { currency: "EUR", minorUnits: 1900n }, opensAt: now() + opensInMs, closesAt: now() + closesInMs,
  physical: false, deliveryKeys: [], ...more,
});

const tools = { platform, element, drop };
declare global {
  interface Window {
    tools: typeof tools;
    violations: string[];
  }
}
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
window.tools = tools;
