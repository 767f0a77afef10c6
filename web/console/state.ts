// What the operator set on the page: none of it is in the URL, and only the token outlives a reload, in sessionStorage.
import type { Decision } from "../../gen/ts/rimlight/router/v1/decision_pb.js";
import type { SetRegionModeResponse } from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";
import type { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import type { Model } from "./model.js";

export type SortKey = "share" | "name" | "rtt" | "p99" | "late" | "lag";

/** How many rows a table shows before it is asked for more. */
export const ROWS = 40;

/** The drain dialogue. */
export interface Drain {
  region: string;
  mode: RegionMode;
  reason: string;
  /** 0: it stays. */
  minutes: number;
  force: boolean;
  busy: boolean;
  problem: string;
  /** What the dry run said, for exactly the mode that is set. */
  predicted: SetRegionModeResponse | undefined;
  done: boolean;
}

export interface State {
  filter: string;
  /** The regions of a cluster that was clicked. */
  only: { label: string; names: ReadonlySet<string> } | undefined;
  sort: SortKey;
  shown: number;
  token: string;
  explained: { id: string; decision: Decision | undefined; problem: string } | undefined;
  drain: Drain | undefined;
}

/** What the page's parts may ask for. */
export interface Actions {
  set(change: Partial<State>): void;
  explain(decisionId: string): void;
  openDrain(region: string): void;
  setDrain(change: Partial<Drain>): void;
  applyMode(dryRun: boolean): void;
  slowMs(ms: number): void;
}

export interface View {
  model: Model;
  state: State;
  actions: Actions;
  /** Of the platform, from settings.json. */
  settings: Settings;
  slowMs: number;
  now: number;
}

export interface Settings {
  router: string;
  version: string;
  drills: boolean;
}

/** Whether the filter lets a region's name through. */
export function passes(state: State, name: string): boolean {
  return (!state.only || state.only.names.has(name)) && name.includes(state.filter.trim().toLowerCase());
}
