import { english, purchaseText } from "../element/texts.js";
import { formatMoney, type MakeGood, type Money, type PurchaseStateName, type PurchaseView } from "../sdk/index.js";
import { button, el, ms } from "./dom.js";

/** The states of a purchase in a word or two, for the row of steps. */
const STEPS: Readonly<Partial<Record<PurchaseStateName, string>>> = {
  accepted: "accepted", received: "at the verifier", unit_settled: "unit set aside", action_required: "needs you", captured: "paid (TEST)",
  ordered: "ordered", shipped: "shipped", delivered: "delivered", choice_required: "your choice", refunding: "refunding",
  refunded: "refunded", voucher: "voucher", refused: "refused",
};

/** What a card lets the viewer do. */
export interface Acts {
  complete(paymentIntentId: string, decline: boolean): Promise<void>;
  choose(purchaseId: string, choice: MakeGood): Promise<void>;
  /** Pays the next tap with this purchase's voucher. */
  spend(voucher: NonNullable<PurchaseView["voucher"]>): void;
  forget(purchaseId: string): Promise<void>;
}

/** One purchase on the page. */
export class Card {
  readonly element: HTMLElement;
  readonly #figures = el("dl", "figures");
  readonly #why = el("div", "why");
  readonly #receipt = el("p", "receipt", "Verifying the receipt…");
  readonly #steps = el("ol", "steps");
  readonly #status = el("p", "outcome");
  readonly #key = el("p", "actions");
  readonly #actions = el("p", "actions");
  #last: PurchaseStateName | "" = "";

  constructor(
    readonly purchaseId: string, title: string, price: Money,
    private readonly acts: Acts,
  ) {
    this.#status.setAttribute("role", "status");
    const name = el("h3", "", title);
    const header = el("header", "", name, el("p", "quiet", `${formatMoney(price)} `, el("span", "tag", "TEST")));
    this.#key.hidden = this.#actions.hidden = true;
    this.element = el("li", "purchase", header, this.#figures, this.#why, this.#receipt, this.#steps, this.#status, this.#key, this.#actions);
    this.element.dataset["purchase"] = purchaseId;
  }

  /** How the tap went. */
  accepted(tookMs: number | undefined, region: string, router: string | undefined): void {
    const figure = (term: string, value: string, className = "") => el("div", "", el("dt", "", term), el("dd", className, value));
    this.#figures.replaceChildren(
      ...(tookMs === undefined ? [] : [figure("Tap to verified receipt", ms(tookMs), "big")]), figure("Accepted in", region),
      ...(router ? [figure("Through router", router)] : []),
    );
  }

  /** Why that region. */
  explained(parts: readonly (Node | string)[]): void {
    this.#why.replaceChildren(...parts);
  }

  /** The receipt is genuine. */
  verified(text: string): void {
    this.#receipt.dataset["verified"] = "true";
    const told = el("details", "", el("summary", "", "The receipt"), el("pre", "", text));
    this.#receipt.replaceChildren(el("span", "good", "✓ Receipt verified"), " against the published keys, and kept in this browser.");
    this.#receipt.nextElementSibling?.classList.contains("told") || this.#receipt.after(el("div", "told", told));
  }

  /** What it claims is not to be relied on, or not known. */
  doubtful(text: string): void {
    this.#receipt.replaceChildren(el("span", "bad", text));
    this.#offer(button("Forget it", "plain", () => void this.acts.forget(this.purchaseId)));
  }

  /** Shows where it is. */
  changed(p: PurchaseView): void {
    if (p.state !== this.#last) this.#steps.append(el("li", "", STEPS[p.state] ?? p.state));
    this.#last = p.state;
    this.element.dataset["state"] = p.state;
    this.#status.textContent = purchaseText(p, english);
    if (p.reason) this.#status.append(` Why: ${p.reason.toLowerCase().replaceAll("_", " ")}.`);
    if (p.final) this.#status.append(" The verifier's signature under this was verified.");
    if (p.licenceKey) {
      this.#key.replaceChildren("Your licence key: ", el("code", "key", p.licenceKey));
      this.#key.hidden = false;
    }
    if (p.state === "action_required" && p.paymentIntentId) {
      const act = (decline: boolean) => void this.acts.complete(p.paymentIntentId, decline);
      this.#offer(button("Confirm the TEST payment", "", () => act(false)), button("Say no", "plain", () => act(true)));
    } else if (p.state === "choice_required") {
      const choose = (choice: MakeGood) => void this.acts.choose(this.purchaseId, choice);
      this.#offer(button(english.takeVoucher, "", () => choose("voucher")), button(english.takeMoney, "plain", () => choose("money")));
    } else if (p.final) {
      const { voucher } = p;
      const forget = button("Forget it", "plain", () => void this.acts.forget(this.purchaseId));
      if (voucher?.text) this.#offer(button("Use this voucher", "", () => this.acts.spend(voucher)), forget);
      else this.#offer(forget);
    } else {
      this.#actions.hidden = true;
    }
  }

  #offer(...buttons: HTMLButtonElement[]): void {
    // A button that goes while it has the focus would leave the keyboard nowhere: the card takes over.
    if (this.#actions.contains(document.activeElement)) {
      this.element.tabIndex = -1;
      this.element.focus({ preventScroll: true });
    }
    this.#actions.replaceChildren(...buttons);
    this.#actions.hidden = false;
  }
}
