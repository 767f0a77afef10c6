// What the page knows of the fleet. It only takes and answers: no network, no document, no clock of its own.
import type { DropStatus } from "../../gen/ts/rimlight/fulfillment/v1/catalog_service_pb.js";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import type { Fault } from "../../gen/ts/rimlight/region/v1/fault_pb.js";
import type { Decision } from "../../gen/ts/rimlight/router/v1/decision_pb.js";
import type { GetRttMatrixResponse, Member, RegionStatus, WatchSlipsResponse } from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";
import type { Slip, SlipWindow } from "../../gen/ts/rimlight/router/v1/slip_pb.js";
import { History } from "./history.js";
import { epoch, millis } from "./units.js";

/** How many slips are kept; a router keeps no more itself. */
const SLIPS = 500;

export type Health = "good" | "late" | "broken" | "out";

/** A region: all of its nodes in one. */
export interface Region {
  name: string;
  nodes: RegionStatus[];
  /** Share of this router's viewer calls of the last minute that it won. */
  share: number;
  /** The nearest node's network time in ms. */
  rtt: number | undefined;
  /** Of the node that is worst off, in ms. */
  p50: number | undefined;
  p99: number | undefined;
  lateShare: number;
  journalLag: bigint;
  inFlight: number;
  parallelism: number;
  mode: RegionMode;
  health: Health;
  /** Why it is not good, in a few words; empty if it is. */
  why: string;
  faults: Fault[];
}

/** Whether what the page shows is now. retryAt is when the next attempt is, in ms since 1970. */
export type Link = { state: "connecting" | "live" | "asleep" } | { state: "lost"; why: string; retryAt: number };

export class Model {
  link: Link = { state: "connecting" };
  /** When the regions were last heard of, in ms since 1970; 0: never. */
  heardAt = 0;
  regions: Region[] = [];
  slips: Slip[] = [];
  /** Where the watch of slips goes on. */
  resumeToken = "";
  windows: SlipWindow[] = [];
  cells = new Map<string, Map<string, number>>();
  routers: string[] = [];
  silent: string[] = [];
  decisions: Decision[] = [];
  drops: DropStatus[] = [];
  members: Member[] = [];
  /** What could not be read, by what it is. */
  readonly problems = new Map<string, string>();
  readonly history = new History();

  constructor(private readonly changed: () => void) {}

  setLink(link: Link): void {
    this.link = link;
    this.changed();
  }

  setRegions(statuses: RegionStatus[], now: number): void {
    const byName = new Map<string, RegionStatus[]>();
    for (const s of statuses) {
      const nodes = byName.get(s.name);
      if (nodes) nodes.push(s);
      else byName.set(s.name, [s]);
    }
    this.regions = Array.from(byName, ([name, nodes]) => region(name, nodes)).sort((a, b) => (a.name < b.name ? -1 : 1));
    this.heardAt = now;
    this.history.add(now, this.regions);
    this.link = { state: "live" };
    this.changed();
  }

  takeSlips({ update, resumeToken }: WatchSlipsResponse): void {
    this.resumeToken = resumeToken;
    if (update.case === "snapshot") this.slips = update.value.slips;
    else if (update.case === "changed") {
      const slip = update.value;
      this.slips = [slip, ...this.slips.filter((s) => s.slipId !== slip.slipId)];
    }
    this.slips.sort((a, b) => (epoch(b.startTime) ?? 0) - (epoch(a.startTime) ?? 0));
    this.slips.length = Math.min(this.slips.length, SLIPS);
    this.changed();
  }

  setMatrix(r: GetRttMatrixResponse): void {
    this.cells = new Map();
    const routers = new Set<string>();
    for (const { router, region: name, rtt } of r.cells) {
      routers.add(router);
      const value = millis(rtt);
      if (value === undefined) continue;
      let row = this.cells.get(name);
      if (!row) this.cells.set(name, (row = new Map()));
      row.set(router, Math.min(value, row.get(router) ?? Infinity));
    }
    this.routers = [...routers].sort();
    this.silent = r.silentRouters;
    this.changed();
  }

  /** The fleet's windows, and the slips that last, as they are now: the stream tells only of changes. */
  setWindows(windows: SlipWindow[], lasting: Slip[]): void {
    this.windows = windows;
    const now = new Map(lasting.map((s) => [s.slipId, s.shareAfter]));
    for (const s of this.slips) if (!s.endTime) s.shareAfter = now.get(s.slipId) ?? s.shareAfter;
    this.changed();
  }

  /** Slow ones and failed ones, each newest first. */
  setDecisions(...lists: Decision[][]): void {
    const all = new Map(lists.flat().map((d) => [d.decisionId, d]));
    this.decisions = [...all.values()].sort((a, b) => (epoch(b.time) ?? 0) - (epoch(a.time) ?? 0)).slice(0, 50);
    this.changed();
  }

  setDrops(drops: DropStatus[]): void {
    this.drops = drops;
    this.changed();
  }

  setMembers(members: Member[]): void {
    this.members = members;
    this.changed();
  }

  /** problem undefined: it could be read. */
  setProblem(what: string, problem?: string): void {
    if (problem === undefined) this.problems.delete(what);
    else this.problems.set(what, problem);
    this.changed();
  }

  /** The busiest regions, for charts. */
  busiest(count: number): string[] {
    return [...this.regions].sort((a, b) => b.share - a.share || (a.name < b.name ? -1 : 1)).slice(0, count).map((r) => r.name);
  }
}

function region(name: string, nodes: RegionStatus[]): Region {
  const most = (values: (number | undefined)[]) => values.reduce((a, b) => (a === undefined || (b !== undefined && b > a) ? b : a), undefined);
  const networks = nodes.map((n) => millis(n.network)).filter((v) => v !== undefined);
  const r: Region = {
    name, nodes,
    share: sum(nodes, (n) => n.share),
    rtt: networks.length > 0 ? Math.min(...networks) : undefined,
    p50: most(nodes.map((n) => millis(n.median))),
    p99: most(nodes.map((n) => millis(n.p99))),
    lateShare: Math.max(...nodes.map((n) => n.lateShare)),
    journalLag: nodes.reduce((all, n) => all + n.journalLag, 0n),
    inFlight: sum(nodes, (n) => n.inFlight),
    parallelism: sum(nodes, (n) => n.parallelism),
    mode: nodes.reduce((m, n) => Math.max(m, n.mode), RegionMode.UNSPECIFIED as RegionMode),
    health: "good", why: "",
    faults: nodes.flatMap((n) => n.faults),
  };
  [r.health, r.why] = judge(r);
  return r;
}

// The share of late calls from which on a router speaks of a slip.
const SLIP_SHARE = 0.05;

function judge(r: Region): [Health, string] {
  const down = r.nodes.find((n) => !n.reachable);
  if (down) return ["broken", down.lastError === "" ? "unreachable" : `unreachable: ${down.lastError}`];
  if (r.nodes.some((n) => n.ejected)) return ["broken", "ejected: its calls fail"];
  if (r.mode === RegionMode.DRAINED) return ["out", "drained"];
  if (r.mode === RegionMode.CORDONED) return ["out", "cordoned"];
  if (r.nodes.some((n) => n.suspect)) return ["late", "answers are overdue"];
  if (r.lateShare > SLIP_SHARE) return ["late", "too many late calls"];
  return ["good", ""];
}

const sum = <T>(list: T[], of: (t: T) => number) => list.reduce((all, t) => all + of(t), 0);
