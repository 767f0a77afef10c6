// The storefront of `rimlight dev`: an ordinary viewer of the public API, who may pretend to be elsewhere, and who asks the
// operator port why a region was chosen. Nothing here is needed to embed a drop: that is <rimlight-drop> alone.
import { createClient } from "@connectrpc/connect";
import { TestPaymentService } from "../../gen/ts/rimlight/verifier/v1/test_payment_service_pb.js";
import { RimlightDrop } from "../element/element.js";
import { type DropInfo, formatMoney, type KeptPurchase, type PurchaseView, UnverifiedError } from "../sdk/index.js";
import { Card } from "./card.js";
import { button, byId, el, ms } from "./dom.js";
import { explain, regions } from "./explain.js";
import { Line, type Platform, type Router } from "./line.js";
import { Shop } from "./shop.js";

const REGIONS_EVERY_MS = 2_000;
const SHOWN_PURCHASES = 20;
const TAPS = "rimlight-taps/"; // what a reload should still know of a tap, in the session's storage
const PLACE = "rimlight-place";

const platform = (await (await fetch("/platform.json")).json()) as Platform;
const cards = new Map<string, Card>();
const line = new Line(platform.routers, showRouters);
const shop = new Shop(line, {
  bought(drop, result, tookMs) {
    if (result.kind !== "accepted" && result.kind !== "unknown") return;
    spend(undefined); // it pays one purchase
    const card = cardOf({ purchaseId: result.purchaseId, title: drop.title, price: drop.price });
    if (result.kind === "accepted") {
      const { region, router, decision } = result.via;
      const tap: Tap = { tookMs, region, router, decision };
      sessionStorage.setItem(TAPS + result.purchaseId, JSON.stringify(tap));
      card.verified(result.receipt);
      showTap(card, tap);
    }
    shop.follow(result.purchaseId);
  },
  changed(purchase) {
    cards.get(purchase.purchaseId)?.changed(purchase);
  },
  lost(purchaseId, error) {
    cards.get(purchaseId)?.doubtful(error instanceof UnverifiedError ? strange(error) : `It could not be followed: ${String(error)}`);
  },
});

interface Tap {
  readonly tookMs: number;
  readonly region: string;
  readonly router: string;
  readonly decision: string;
}

function strange(error: UnverifiedError): string {
  return error.why === "unknown_key"
    ? "Signed with a key that this platform does not publish: of an earlier run, perhaps. It cannot be verified."
    : `What it says is not to be relied on (${error.why}).`;
}

function cardOf(kept: Pick<KeptPurchase, "purchaseId" | "title" | "price">): Card {
  let card = cards.get(kept.purchaseId);
  if (!card) {
    card = new Card(kept.purchaseId, kept.title, kept.price, {
      complete: async (paymentIntentId, decline) => {
        await createClient(TestPaymentService, line.aside(nearest().url)).completeAction({ paymentIntentId, decline });
      },
      choose: async (purchaseId, choice) => {
        try {
          cards.get(purchaseId)?.changed(await shop.client.chooseMakeGood(purchaseId, choice));
        } catch (error) {
          failed(error);
        }
      },
      spend,
      forget: async (purchaseId) => {
        await shop.client.forget(purchaseId);
        cards.get(purchaseId)?.element.remove();
        cards.delete(purchaseId);
        byId("nothing").hidden = cards.size > 0;
      },
    });
    cards.set(kept.purchaseId, card);
    byId("purchases").prepend(card.element);
    byId("nothing").hidden = true;
  }
  return card;
}

/** The next tap uses a voucher, or none any more. */
function spend(voucher: PurchaseView["voucher"]): void {
  shop.voucher = voucher?.text ?? "";
  byId("voucher").hidden = !voucher;
  if (voucher) byId("voucher-worth").textContent = `${voucher.kind.replaceAll("_", " ")} of ${formatMoney(voucher.price)}`;
}

function showTap(card: Card, tap: Tap): void {
  card.accepted(tap.tookMs, tap.region, platform.routers.find((r) => r.url === tap.router)?.name);
  explain(line.aside(tap.router), tap.decision, tap.region).then(
    (parts) => card.explained(parts), () => card.explained([el("p", "quiet", `Why there: rimlight explain ${tap.decision}`)]));
}

/** Shows what was bought before, and asks what came of it. */
async function showKept(): Promise<void> {
  const kept = (await shop.client.purchases()).slice(0, SHOWN_PURCHASES);
  for (const purchase of kept.toReversed()) {
    const card = cardOf(purchase);
    const tap = sessionStorage.getItem(TAPS + purchase.purchaseId);
    if (tap) showTap(card, JSON.parse(tap) as Tap);
    else if (purchase.region) card.accepted(undefined, purchase.region, undefined);
  }
  await Promise.all(kept.map(async ({ purchaseId, receipt }) => {
    if (!receipt) return;
    try {
      if ((await shop.client.verify(purchaseId)).receipt) cards.get(purchaseId)?.verified(receipt);
    } catch (error) {
      cards.get(purchaseId)?.doubtful(error instanceof UnverifiedError ? strange(error) : "It could not be verified now.");
    }
  }));
  await shop.resume(kept);
}

/** One card per channel, which stays: what has the focus keeps it when one drop follows another. */
async function showDrops(): Promise<void> {
  const stocks = new Map<string, HTMLElement>();
  for await (const { drops, live } of shop.drops.watch()) {
    for (const channel of [...new Set(drops.map((d) => d.channelId))].sort()) {
      if (stocks.has(channel)) continue;
      const drop = new RimlightDrop();
      drop.client = shop.channel(channel);
      drop.texts = { buy: (price) => `Buy for ${price} (TEST)` };
      drop.pay = () => document.querySelector<HTMLInputElement>("input[name=card]:checked")?.value ?? "";
      drop.deliver = () => new TextEncoder().encode(byId<HTMLTextAreaElement>("address").value);
      const stock = el("span", "stock");
      if (stocks.size === 0) byId("drops").replaceChildren();
      stocks.set(channel, stock);
      byId("drops").append(el("div", "channel", el("p", "", el("b", "", channel), stock), drop));
    }
    byId("where-to").hidden = !drops.some((d) => d.physical);
    for (const [channel, stock] of stocks) {
      const [word, tone] = stockOf(drops.filter((d) => d.channelId === channel), live);
      stock.textContent = word;
      stock.className = `stock ${tone}`;
    }
  }
}

function stockOf(drops: readonly DropInfo[], live: boolean): [word: string, tone: string] {
  const open = drops.filter((d) => d.state === "open");
  if (!live) return ["not heard", "bad"];
  if (open.length === 0) return [drops.some((d) => d.state === "planned" || d.state === "armed") ? "opens soon" : "between drops", ""];
  return open.every((d) => d.soldOut) ? ["sold out", "bad"] : ["in stock", "good"];
}

/** The router that the viewer's calls go through; before the first, the nearest that is plugged in. */
function nearest(): Router {
  if (line.used && !line.isCut(line.used)) return line.used;
  const usable = line.routers.filter((r) => !line.isCut(r));
  return [...(usable.length > 0 ? usable : line.routers)].sort((a, b) => line.rttMs(a) - line.rttMs(b))[0]!;
}

function showRouters(): void {
  const used = nearest();
  const { place } = line;
  const away = (router: Router) => (place ? ms(line.rttMs(router)) : "");
  byId("route").textContent = line.isCut(used)
    ? "No router can be reached."
    : `Your calls go through ${used.name}${place ? `, ${away(used)} from ${place.name}` : ""}.`;
  byId("seen-by").textContent = used.name;
  const focused = (document.activeElement as HTMLElement | null)?.dataset["router"];
  byId("routers").replaceChildren(...platform.routers.map((router) => {
    const cut = line.isCut(router);
    const plug = button(cut ? "Plug in" : "Unplug", "plain", () => line.toggle(router));
    plug.dataset["router"] = router.name;
    plug.setAttribute("aria-label", `${cut ? "Plug in" : "Unplug"} ${router.name}`);
    return el("li", cut ? "cut" : router === used ? "used" : "", router.name, el("span", "ms", cut ? "unplugged" : away(router)), plug);
  }));
  if (focused) document.querySelector<HTMLElement>(`[data-router="${focused}"]`)?.focus();
  void showRegions();
}

async function showRegions(): Promise<void> {
  const router = nearest();
  try {
    const { rows, best } = await regions(line.aside(router.url));
    if (router !== nearest()) return; // it was slower than the viewer
    byId("regions").replaceChildren(...rows);
    showOutage(best);
  } catch {
    byId("regions").replaceChildren(el("tr", "", el("td", "bad", "The router does not answer.")));
  }
}

function showOutage(best: string): void {
  if (best === "") return;
  const [text, command] = platform.drills
    ? ["Cut a region off for 30 seconds, and tap:", `rimlight fault partition ${best} --router ${nearest().url}`]
    : platform.split
      ? ["Kill a region's process by the pid that the platform printed; it comes back after 5 seconds:", "kill -9 PID"]
      : ["To break a region, start the platform with one of:", "rimlight dev --drills   # then: rimlight fault partition REGION\nrimlight dev --split    # then: kill -9 PID"];
  byId("outage-region").textContent = text;
  byId("outage-command").textContent = command;
}

function showPlaces(): void {
  const select = byId<HTMLSelectElement>("place");
  const option = (name: string) => {
    const o = el("option", "", name);
    o.value = name;
    return o;
  };
  select.append(option("this machine"), ...platform.places.map((p) => option(p.name)));
  const kept = sessionStorage.getItem(PLACE);
  if (kept && platform.places.some((p) => p.name === kept)) select.value = kept;
  const move = () => {
    sessionStorage.setItem(PLACE, select.value);
    shop.move(platform.places.find((p) => p.name === select.value));
    showRouters();
  };
  select.addEventListener("change", move);
  if (select.selectedIndex > 0) move();
}

function failed(error: unknown): void {
  const trouble = byId("trouble");
  trouble.textContent = `The page is in trouble: ${String(error)}`;
  trouble.hidden = false;
}

byId("no-voucher").addEventListener("click", () => spend(undefined));
byId("somebody").addEventListener("click", () => shop.becomeSomebodyElse());
showPlaces();
showRouters();
setInterval(() => {
  if (!document.hidden) void showRegions();
}, REGIONS_EVERY_MS);
showDrops().catch(failed);
showKept().catch(failed);
