import { monotonicNow } from "./clock.js";

/** What is known of one router. */
export interface RouterState {
  readonly url: string;
  /** Smoothed time of a small call through it, in ms; undefined until measured. */
  readonly rttMs?: number;
  /** It did not answer lately; others are asked first until this time (monotonic ms). */
  readonly avoidUntil: number;
}

// A router that fails is left alone for a second, then two, four, up to half a minute, as it may be restarting.
const AVOID_FIRST_MS = 1_000;
const AVOID_MAX_MS = 30_000;

// Two margins, so that routers which are about equal do not take turns: a kept connection is worth more than 10 ms.
const BETTER_BY_MS = 10;
const BETTER_BY_SHARE = 0.2;

// The weight of the newest sample: one slow answer does not move a viewer, three do.
const NEWEST = 0.3;

class Router implements RouterState {
  rttMs?: number;
  avoidUntil = 0;
  failures = 0;

  constructor(readonly url: string) {}
}

/** Chooses among routers by what calls and measurements said. Pure but for the given clock. */
export class Routers {
  readonly #all: Router[];
  #current: Router;

  constructor(
    urls: readonly string[],
    private readonly now: () => number = monotonicNow,
  ) {
    this.#all = [...new Set(urls.map((url) => url.replace(/\/+$/, "")))].map((url) => new Router(url));
    const first = this.#all[0];
    if (!first) throw new TypeError("at least one router URL is needed");
    this.#current = first;
  }

  /** What is known, in the order given. */
  get states(): readonly RouterState[] {
    return this.#all;
  }

  /** The router to ask next: the current one unless another is clearly nearer, and none that just failed. */
  pick(): string {
    const now = this.now();
    const usable = this.#all.filter((r) => r.avoidUntil <= now);
    const pool = usable.length > 0 ? usable : this.#all;
    // While all of them fail, the one whose time is up first.
    const best = pool.reduce((a, b) => (before(b, a, usable.length > 0) ? b : a));
    if (!pool.includes(this.#current) || usable.length === 0 || clearlyNearer(best, this.#current)) this.#current = best;
    return this.#current.url;
  }

  /** Takes in a measurement, in ms. */
  measured(url: string, rttMs: number): void {
    const r = this.#find(url);
    r.rttMs = r.rttMs === undefined ? rttMs : r.rttMs + NEWEST * (rttMs - r.rttMs);
    this.answered(url);
  }

  /** It answered, be it with an error of the platform's. */
  answered(url: string): void {
    const r = this.#find(url);
    r.failures = 0;
    r.avoidUntil = 0;
  }

  /** It did not answer, or said that it cannot serve. */
  failed(url: string): void {
    const r = this.#find(url);
    r.avoidUntil = this.now() + Math.min(AVOID_FIRST_MS * 2 ** r.failures, AVOID_MAX_MS);
    r.failures++;
  }

  #find(url: string): Router {
    const r = this.#all.find((candidate) => candidate.url === url);
    if (!r) throw new Error(`no router ${url}`);
    return r;
  }
}

function before(a: Router, b: Router, byTime: boolean): boolean {
  return byTime ? (a.rttMs ?? Infinity) < (b.rttMs ?? Infinity) : a.avoidUntil < b.avoidUntil;
}

function clearlyNearer(a: Router, b: Router): boolean {
  if (a.rttMs === undefined) return false;
  if (b.rttMs === undefined) return true;
  return b.rttMs - a.rttMs > Math.max(BETTER_BY_MS, BETTER_BY_SHARE * b.rttMs);
}
