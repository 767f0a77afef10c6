import { Code, createClient, type Transport } from "@connectrpc/connect";
import { type Candidate, type Decision, FilterReason } from "../../gen/ts/rimlight/router/v1/decision_pb.js";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import { type RegionStatus, RouterAdminService } from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";
import { millis } from "../sdk/views.js";
import { el, ms } from "./dom.js";

const WORDS: Readonly<Record<FilterReason, string>> = {
  [FilterReason.UNSPECIFIED]: "",
  [FilterReason.RESIDENCY]: "not in your zones",
  [FilterReason.NO_STOCK]: "has no unit of this drop",
  [FilterReason.DRAINING]: "is being drained",
  [FilterReason.UNREACHABLE]: "does not answer",
  [FilterReason.TRIED]: "was asked already",
  [FilterReason.EJECTED]: "its calls fail",
  [FilterReason.TOO_FAR]: "too far for the time left",
  [FilterReason.LOADED]: "too busy for a second copy",
  [FilterReason.JOURNAL_FULL]: "its disk is full",
};

/** What came of an attempt, by its gRPC code. */
const RESULT: Readonly<Record<number, string>> = { [0]: "answered", [Code.Canceled]: "was not needed any more" };

/** What the router says of how it decided: in words, then region by region. */
export async function explain(router: Transport, decisionId: string, region: string): Promise<(Node | string)[]> {
  const { decision } = await createClient(RouterAdminService, router).explainDecision({ decisionId });
  if (!decision) return [];
  const choice = decision.choices.find((c) => c.region === region) ?? decision.choices[0];
  const rows = (choice?.candidates ?? []).map((c) => candidate(c, c.region === region));
  return [
    el("p", "", choice?.explanation ?? "", ...attempts(decision)),
    el("details", "", el("summary", "", "Every region, as the router saw it"), el("table", "", el("tbody", "", ...rows))),
  ];
}

function attempts({ attempts }: Decision): string[] {
  if (attempts.length < 2) return [];
  const told = attempts.map((a) => `${a.region} ${RESULT[a.statusCode] ?? "failed"} after ${ms(millis(a.duration))}`);
  return [` ${attempts.length} regions were asked: ${told.join(", ")}.`];
}

function candidate(c: Candidate, chosen: boolean): HTMLElement {
  const name = el("th", "", c.region);
  name.scope = "row";
  const why = WORDS[c.filterReason] ?? "could not be chosen";
  return el("tr", chosen ? "chosen" : "", name, el("td", "ms", ms(millis(c.expected))), el("td", "", why || (chosen ? "chosen" : "later")));
}

/** The rows of what a router measures now, by name of the region; best is where it expects the soonest answer. */
export async function regions(router: Transport): Promise<{ rows: HTMLElement[]; best: string }> {
  const { regions } = await createClient(RouterAdminService, router).listRegions({ localOnly: true }, { timeoutMs: 2_000 });
  const cost = (r: RegionStatus) => (stateOf(r) === "good" ? millis(r.network) + millis(r.service) : Infinity);
  const best = regions.reduce<RegionStatus | undefined>((a, b) => (a && cost(a) <= cost(b) ? a : b), undefined);
  return { rows: regions.map((r) => row(r, r === best)), best: best?.name ?? "" };
}

function row(r: RegionStatus, best: boolean): HTMLElement {
  const state = stateOf(r);
  const name = el("th", "", r.name);
  name.scope = "row";
  const figure = (value: number) => el("td", "ms", r.reachable ? ms(value) : "–");
  return el("tr", best ? "chosen" : "", name, figure(millis(r.network)), figure(millis(r.service)), el("td", state === "good" ? "good" : "bad", state));
}

function stateOf(r: RegionStatus): string {
  if (!r.reachable) return "silent";
  if (r.mode !== RegionMode.SERVING) return "drained";
  if (r.faults.length > 0) return "drill";
  if (r.ejected) return "ejected";
  return r.suspect ? "suspect" : "good";
}
