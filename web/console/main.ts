// The console: what an SRE looks at in the worst minute of somebody's show.
//
//	streams and polls (feed) -> what is known (model) -> one render of everything, at most four a second (page)
//
// The page calls the router that it came from, on its operator port. Reads need no token.
import { type CallOptions, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { html, nothing, render } from "lit";
import { CatalogService } from "../../gen/ts/rimlight/fulfillment/v1/catalog_service_pb.js";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import { RouterAdminService } from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";
import "./chart.js";
import { explanation } from "./decisions.js";
import { drain } from "./drain.js";
import { explain, Feed } from "./feed.js";
import { Model } from "./model.js";
import { page } from "./page.js";
import { type Actions, type Drain, ROWS, type Settings, type State, type View } from "./state.js";
import { duration } from "./units.js";

const RENDER_MS = 250;
const TOKEN = "rimlight-operator-token";

const transport = createGrpcWebTransport({ baseUrl: location.origin });
const admin = createClient(RouterAdminService, transport);
const model = new Model(schedule);
const feed = new Feed({ admin, catalog: createClient(CatalogService, transport) }, model);
const running = new AbortController();

let settings: Settings = { router: "", version: "", drills: false };
let state: State = { filter: "", only: undefined, sort: "share", shown: ROWS, token: sessionStorage.getItem(TOKEN) ?? "", explained: undefined, drain: undefined };

const root = document.createElement("div");
const dialogues = { explain: dialogue("explain-title"), drain: dialogue("drain-title") };
document.body.append(root, dialogues.explain, dialogues.drain);

const actions: Actions = {
  set(change) {
    if (change.token !== undefined) sessionStorage.setItem(TOKEN, change.token);
    state = { ...state, ...change };
    schedule();
  },
  async explain(decisionId) {
    actions.set({ explained: { id: decisionId, decision: undefined, problem: "" } });
    let answer: Pick<NonNullable<State["explained"]>, "decision" | "problem">;
    try {
      const { decision } = await admin.explainDecision({ decisionId }, { signal: running.signal });
      answer = { decision, problem: decision ? "" : "The routers keep it no more." };
    } catch (thrown) {
      answer = { decision: undefined, problem: explain(thrown) };
    }
    if (state.explained?.id === decisionId) actions.set({ explained: { id: decisionId, ...answer } });
  },
  openDrain(region) {
    actions.set({ drain: { region, mode: RegionMode.DRAINED, reason: "", minutes: 0, force: false, busy: false, problem: "", predicted: undefined, done: false } });
  },
  setDrain(change) {
    if (state.drain) actions.set({ drain: { ...state.drain, ...change } });
  },
  async applyMode(dryRun) {
    const asked = state.drain;
    if (!asked || asked.busy) return;
    actions.setDrain({ busy: true, problem: "" });
    let answer: Partial<Drain>;
    try {
      const response = await admin.setRegionMode({
        requestId: crypto.randomUUID(), region: asked.region, mode: asked.mode, reason: asked.reason || "from the console", dryRun,
        force: !dryRun && asked.force, ...(asked.minutes > 0 && { expireAfter: duration(asked.minutes * 60_000) }),
      }, authorized());
      answer = dryRun ? { predicted: response, done: false } : { done: true };
    } catch (thrown) {
      answer = { problem: explain(thrown) };
    }
    // Another region's dialogue, or another question, has its own answer.
    if (state.drain?.region === asked.region && state.drain.mode === asked.mode) actions.setDrain({ ...answer, busy: false });
    else actions.setDrain({ busy: false });
  },
  slowMs(ms) {
    feed.slowMs = ms;
    feed.refreshDecisions(running.signal).catch((thrown: unknown) => model.setProblem("decisions", explain(thrown)));
  },
};

const authorized = (): CallOptions => ({ signal: running.signal, headers: { authorization: `Bearer ${state.token}` } });

function dialogue(label: string): HTMLDialogElement {
  const d = document.createElement("dialog");
  d.setAttribute("aria-labelledby", label);
  return d;
}

let scheduled = false;
let renderedAt = -RENDER_MS;

/** Renders soon, and not at all while nobody looks. */
function schedule(): void {
  if (scheduled) return;
  scheduled = true;
  const wait = Math.max(0, renderedAt + RENDER_MS - performance.now());
  setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw(): void {
  scheduled = false;
  if (model.heardAt > 0) renderedAt = performance.now(); // the first regions wait for no empty page before them
  const view: View = { model, state, actions, settings, slowMs: feed.slowMs, now: Date.now() };
  render(page(view), root);
  document.querySelector("#loading")?.remove(); // what there was to see before the first
  show(dialogues.explain, state.explained !== undefined, explanation(view), () => actions.set({ explained: undefined }));
  show(dialogues.drain, state.drain !== undefined, drain(view), () => actions.set({ drain: undefined }));
}

function show(d: HTMLDialogElement, open: boolean, content: unknown, close: () => void): void {
  render(open ? html`<button class="close" aria-label="Close" @click=${() => d.close()}>×</button>${content}` : nothing, d);
  d.onclose = close;
  if (open && !d.open) d.showModal();
  if (!open && d.open) d.close();
}

addEventListener("keydown", (e) => {
  const typing = e.target instanceof HTMLElement && e.target.matches("input, select, textarea");
  if (e.key !== "/" || typing || e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
  e.preventDefault();
  document.querySelector<HTMLInputElement>("#filter")?.focus();
});

// Ages and countdowns go on when nothing comes.
setInterval(schedule, 1_000);

fetch("settings.json")
  .then((r) => r.json() as Promise<Settings>)
  .then((s) => {
    settings = s;
    schedule();
  })
  .catch((thrown: unknown) => model.setProblem("settings", explain(thrown)));

schedule();
await feed.run(running.signal, document);
