/**
 * <rimlight-drop>: the current drop of a channel, to see and to buy.
 *
 *     <rimlight-drop routers="https://eu.example https://us.example" channel="aurora"></rimlight-drop>
 *
 * Attributes: routers (URLs; default: the page's origin), channel, drop (an id; default: the one that is open, else the
 * next), payment-reference, overlay (shows only, for a stream's picture). Properties: pay, deliver, mediaTimeMs, texts, client.
 * Events, bubbling and composed: rimlight-result (what came of a tap), rimlight-purchase (each state of a purchase).
 * Parts: card, title, price, countdown, label, time, progress, button, status; choice, voucher, money where a purchase that was
 * paid could not be delivered.
 *
 * It never moves the focus, says aloud at 60, 30 and 10 s that time runs out, and works under a policy without inline
 * styles, eval or HTML from strings.
 */
import { sleep } from "../sdk/calls.js";
import { type BuyResult, RimlightClient } from "../sdk/client.js";
import { RimlightError, UnverifiedError } from "../sdk/errors.js";
import { formatMoney } from "../sdk/money.js";
import type { DropInfo, MakeGood, PurchaseView, ReasonName } from "../sdk/views.js";
import { clockText, markPassed, untilNextSecond } from "./countdown.js";
import { style } from "./style.js";
import { english, purchaseText, type Texts } from "./texts.js";

/** What seals delivery details, loaded when the first parcel is bought. */
export const sealer = () => import("../sdk/seal.js");

/** What the element needs of a client. */
export type DropClient = Pick<RimlightClient, "now" | "watchDrops" | "claim" | "follow" | "resume" | "chooseMakeGood">;

function part<K extends keyof HTMLElementTagNameMap>(tag: K, name: string, ...children: Node[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.setAttribute("part", name);
  element.append(...children);
  return element;
}

export class RimlightDrop extends HTMLElement {
  static readonly observedAttributes = ["routers", "channel", "drop"];

  /** Authorises a payment and returns its opaque reference. Default: the attribute payment-reference. */
  pay?: (drop: DropInfo) => Promise<string> | string;
  /**
   * Where a physical good goes, at most 2 KiB. To set it, before the element is connected, is to say that the viewer agrees to
   * this use; without it physical goods are shown and not sold. It is sealed before it leaves the browser.
   */
  deliver?: (drop: DropInfo) => Promise<Uint8Array> | Uint8Array;
  /** The player's position in the stream, in ms. */
  mediaTimeMs?: () => number;
  /** The client to use; default: one of its own for routers and channel. Set it before the element is connected. */
  client?: DropClient;

  readonly #title = part("p", "title");
  readonly #price = part("p", "price");
  readonly #label = part("span", "label");
  readonly #time = part("time", "time");
  readonly #countdown = part("p", "countdown", this.#label, new Text(" "), this.#time);
  readonly #progress = part("progress", "progress");
  readonly #button = part("button", "button");
  readonly #status = part("p", "status");
  readonly #voucher = part("button", "voucher");
  readonly #money = part("button", "money");
  readonly #choice = part("div", "choice", this.#voucher, this.#money);
  readonly #spoken = document.createElement("p");
  readonly #card = part("section", "card", this.#title, this.#price, this.#countdown, this.#progress, this.#button, this.#status, this.#choice, this.#spoken);

  #made?: DropClient | undefined;
  #texts: Texts = english;
  #drops: readonly DropInfo[] = [];
  #live = false;
  #heard = false;
  #note = "";
  #noted = ""; // the drop that the note was said at
  #open?: PurchaseView | undefined; // waits for the viewer's choice
  #busy = false;
  #stop?: AbortController;
  #timer?: ReturnType<typeof setTimeout>;
  #shown = "";
  #leftMs = 0;
  /** When the shown drop closes, and by how many seconds that moved while it was shown. */
  #closes = 0;
  #longer = 0;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [style];
    this.#button.type = "button";
    this.#button.addEventListener("click", () => void this.buy());
    for (const [button, choice] of [[this.#voucher, "voucher"], [this.#money, "money"]] as const) {
      button.type = "button";
      button.addEventListener("click", () => void this.#choose(choice));
    }
    this.#countdown.setAttribute("role", "timer"); // not live: nobody wants every second read aloud
    this.#progress.setAttribute("aria-hidden", "true");
    this.#status.setAttribute("role", "status");
    this.#spoken.className = "spoken";
    this.#spoken.setAttribute("role", "status");
    this.#card.tabIndex = -1;
    root.append(this.#card);
  }

  /** Other words for some or all of what it says. */
  set texts(texts: Partial<Texts>) {
    this.#texts = { ...english, ...texts };
    this.#show();
  }

  connectedCallback(): void {
    this.#stop = new AbortController();
    void this.#run(this.#stop.signal);
    this.#show();
  }

  disconnectedCallback(): void {
    this.#stop?.abort();
    clearTimeout(this.#timer);
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (before === after || !this.#stop || this.#stop.signal.aborted) return;
    if (name === "drop") return this.#show();
    this.disconnectedCallback();
    this.#made = undefined;
    this.#drops = [];
    this.#heard = false;
    this.connectedCallback();
  }

  /** The drop that is shown. */
  get current(): DropInfo | undefined {
    const wanted = this.getAttribute("drop");
    if (wanted) return this.#drops.find((d) => d.id === wanted);
    const open = this.#drops.filter((d) => d.state === "open" || d.state === "paused");
    const left = open.filter((d) => !d.soldOut);
    return left.find((d) => !d.physical || this.deliver) ?? left[0] ?? open[0] ?? this.#drops.find((d) => d.state === "planned" || d.state === "armed") ??
      this.#drops.at(-1);
  }

  /** Buys the current drop: what the button does. */
  async buy(): Promise<void> {
    const drop = this.current;
    const signal = this.#stop?.signal;
    if (!drop || !signal || this.#button.getAttribute("aria-disabled") === "true") return;
    this.#busy = true;
    this.#say(this.#texts.buying);
    try {
      const paymentReference = await (this.pay?.(drop) ?? this.getAttribute("payment-reference") ?? "");
      const mediaTimeMs = this.mediaTimeMs?.();
      const deliveryDetails = drop.physical && await this.deliver?.(drop);
      const options = { paymentReference, signal, ...(mediaTimeMs !== undefined && { mediaTimeMs }), ...(deliveryDetails && { deliveryDetails }) };
      let result = await this.#own.claim(drop, options);
      while (result.kind === "pending") {
        this.#tell("rimlight-result", result);
        this.#say(this.#texts.inLine(result.position));
        await sleep(result.retryAfterMs, signal);
        result = await this.#own.claim(drop, { ...options, requestId: result.requestId });
      }
      await this.#settle(result, signal);
    } catch (error) {
      if (signal.aborted) return;
      const refused = error instanceof RimlightError ? this.#texts.refused[error.reason as ReasonName] : undefined;
      this.#say(error instanceof UnverifiedError ? this.#texts.unverified : (refused ?? this.#texts.failed));
      this.dispatchEvent(new ErrorEvent("error", { error, message: String(error) }));
    } finally {
      this.#busy = false;
      this.#show();
    }
  }

  async #settle(result: BuyResult, signal: AbortSignal): Promise<void> {
    this.#tell("rimlight-result", result);
    if (result.kind === "refused") return this.#say(this.#texts.refused[result.reason] ?? result.message);
    if (result.kind === "pending") return;
    this.#say(result.kind === "accepted" ? this.#texts.states.accepted ?? "" : this.#texts.unknown);
    for await (const purchase of this.#own.follow(result.purchaseId, signal)) this.#purchase(purchase);
  }

  get #own(): DropClient {
    const routers = this.getAttribute("routers")?.split(/\s+/).filter(Boolean) ?? [];
    const channelId = this.getAttribute("channel") ?? "";
    this.#made ??= this.client ?? new RimlightClient({
      routers: routers.length > 0 ? routers : [location.origin], channelId, sealer, ...(this.deliver && { consent: ["delivery"] }),
    });
    return this.#made;
  }

  async #run(signal: AbortSignal): Promise<void> {
    const failed = (error: unknown) => {
      if (!signal.aborted) this.dispatchEvent(new ErrorEvent("error", { error, message: String(error) }));
    };
    this.#own.resume((purchase) => this.#purchase(purchase), signal, (_, error) => failed(error)).catch(failed);
    try {
      for await (const view of this.#own.watchDrops(signal)) {
        this.#drops = view.drops;
        this.#live = view.live;
        this.#heard = true;
        this.#show();
      }
    } catch (error) {
      failed(error);
    }
  }

  #purchase(purchase: PurchaseView): void {
    if (purchase.state === "choice_required") this.#open = purchase;
    else if (this.#open?.purchaseId === purchase.purchaseId) this.#open = undefined;
    this.#say(purchaseText(purchase, this.#texts, this.#locale));
    this.#tell("rimlight-purchase", purchase);
  }

  async #choose(choice: MakeGood): Promise<void> {
    const open = this.#open;
    if (!open || this.#choice.getAttribute("aria-busy") === "true") return;
    this.#choice.setAttribute("aria-busy", "true");
    try {
      this.#purchase(await this.#own.chooseMakeGood(open.purchaseId, choice, this.#stop?.signal));
    } catch (error) {
      this.#say(this.#texts.failed);
      this.dispatchEvent(new ErrorEvent("error", { error, message: String(error) }));
    } finally {
      this.#choice.setAttribute("aria-busy", "false");
    }
  }

  get #locale(): string | undefined {
    return this.closest("[lang]")?.getAttribute("lang") ?? undefined;
  }

  #tell(name: string, detail: BuyResult | PurchaseView): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  /** What the viewer's own purchase has to say stands above what the drop's state says. */
  #say(note: string): void {
    this.#note = note;
    this.#noted = this.current?.id ?? "";
    this.#show();
  }

  /** Writes the state into the nodes that are there: nothing is replaced, so the focus stays where it is. */
  #show(): void {
    clearTimeout(this.#timer);
    const drop = this.current;
    const t = this.#texts;
    const open = drop?.state === "open";
    const before = drop?.state === "planned" || drop?.state === "armed";
    // The next drop begins without what was said at the last one, unless that still goes on.
    if (this.#note && !this.#busy && !this.#open && drop && drop.id !== this.#noted) this.#note = "";
    const locale = this.#locale;

    set(this.#title, drop?.title ?? "");
    set(this.#price, drop ? formatMoney(drop.price, locale) : "");
    this.#countdown.hidden = !open && !before;
    this.#progress.hidden = !open;
    this.#button.hidden = !drop || this.hasAttribute("overlay") || !(this.pay || this.hasAttribute("payment-reference")) ||
      (drop.physical && !this.deliver);
    set(this.#button, drop ? t.buy(formatMoney(drop.price, locale)) : "");
    // Not the attribute disabled: in a browser it takes the focus away from a button that has it.
    this.#button.setAttribute("aria-disabled", String(!open || drop.soldOut || this.#busy || unsent(drop)));
    set(this.#status, this.#note || this.#stateText(drop));
    set(this.#voucher, t.takeVoucher);
    set(this.#money, t.takeMoney);
    const hide = !this.#open || this.hasAttribute("overlay");
    // A button that goes while it has the focus would leave the keyboard nowhere: the card takes over.
    if (hide && this.#choice.contains(this.shadowRoot!.activeElement)) this.#card.focus({ preventScroll: true });
    this.#choice.hidden = hide;
    if (drop && (open || before)) this.#count(drop, open ? drop.closesAt : drop.opensAt, open);
  }

  #stateText(drop: DropInfo | undefined): string {
    const t = this.#texts;
    if (!this.#heard) return t.waiting;
    if (!this.#live) return t.offline;
    if (!drop) return t.none;
    if (drop.state === "paused") return t.paused;
    if (drop.state === "open" && !drop.soldOut && !unsent(drop) && this.#longer > 0 && this.#shown === `${drop.id} true`) return t.longer(this.#longer);
    if (drop.state === "open" || drop.state === "planned" || drop.state === "armed") return drop.soldOut ? t.soldOut : unsent(drop) ? t.unsent : "";
    return drop.soldOut ? t.soldOut : t.over;
  }

  #count(drop: DropInfo, until: number, open: boolean): void {
    const leftMs = until - this.#own.now();
    set(this.#label, open ? this.#texts.closesIn : this.#texts.opensIn);
    set(this.#time, clockText(leftMs));
    this.#time.dateTime = `PT${Math.max(0, Math.ceil(leftMs / 1000))}S`;
    this.#progress.max = Math.max(1, drop.closesAt - drop.opensAt);
    this.#progress.value = Math.max(0, leftMs);
    const key = `${drop.id} ${open}`;
    if (open && this.#shown === key) {
      const mark = markPassed(this.#leftMs, leftMs);
      if (mark !== undefined) set(this.#spoken, this.#texts.left(mark));
      if (drop.closesAt > this.#closes) {
        this.#longer += Math.round((drop.closesAt - this.#closes) / 1000);
        set(this.#spoken, this.#texts.longer(this.#longer));
        set(this.#status, this.#note || this.#stateText(drop));
      }
    } else this.#longer = 0;
    this.#closes = drop.closesAt;
    this.#shown = key;
    this.#leftMs = leftMs;
    if (this.isConnected) this.#timer = setTimeout(() => this.#show(), untilNextSecond(leftMs));
  }
}

/** It is to be sent, and nobody is there who could. */
const unsent = (drop: DropInfo) => drop.physical && drop.deliveryKeys.length === 0;

/** Only what changed is written: a live region is read aloud whenever it is written to. */
function set(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

if (!customElements.get("rimlight-drop")) customElements.define("rimlight-drop", RimlightDrop);

declare global {
  interface HTMLElementTagNameMap {
    "rimlight-drop": RimlightDrop;
  }
}
