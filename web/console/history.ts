// What the charts draw: a bounded past of every region, one point a second.

/** How many points are kept: ten minutes. A thousand regions take 5 MB then, however long the page is open. */
export const POINTS = 600;

/** After so much silence the line is broken, in milliseconds: nothing was measured, so nothing is drawn. */
const GAP_MS = 5_000;

class Series {
  readonly p50 = new Float32Array(POINTS).fill(NaN);
  readonly p99 = new Float32Array(POINTS).fill(NaN);
  last = 0;
}

export interface Sample {
  name: string;
  p50: number | undefined;
  p99: number | undefined;
}

/** One line of a chart; null where nothing is known. */
export type Line = (number | null)[];

export class History {
  readonly #times = new Float64Array(POINTS);
  readonly #series = new Map<string, Series>();
  #ticks = 0;

  get regions(): number {
    return this.#series.size;
  }

  /** Takes what was measured at a time; regions that are not named have a gap there. */
  add(atMs: number, samples: Iterable<Sample>): void {
    const before = this.#times[(this.#ticks + POINTS - 1) % POINTS]!;
    if (this.#ticks > 0 && atMs - before > GAP_MS) this.#tick(before + 1, []); // one empty point breaks the lines
    this.#tick(atMs, samples);
  }

  #tick(atMs: number, samples: Iterable<Sample>): void {
    const i = this.#ticks++ % POINTS;
    this.#times[i] = atMs;
    for (const [name, s] of this.#series) {
      s.p50[i] = s.p99[i] = NaN;
      if (this.#ticks - s.last > POINTS) this.#series.delete(name); // nothing of it is left to draw
    }
    for (const { name, p50, p99 } of samples) {
      let s = this.#series.get(name);
      if (!s) this.#series.set(name, (s = new Series()));
      s.p50[i] = p50 ?? NaN;
      s.p99[i] = p99 ?? NaN;
      s.last = this.#ticks;
    }
  }

  /** Oldest first: times in seconds, as uPlot has them, then a line per name. */
  lines(names: readonly string[], of: "p50" | "p99"): [number[], ...Line[]] {
    const count = Math.min(this.#ticks, POINTS);
    const at = (k: number) => (this.#ticks - count + k) % POINTS;
    const read = (values: Float32Array | undefined): Line =>
      Array.from({ length: count }, (_, k) => {
        const v = values?.[at(k)] ?? NaN;
        return Number.isNaN(v) ? null : v;
      });
    return [Array.from({ length: count }, (_, k) => this.#times[at(k)]! / 1e3), ...names.map((n) => read(this.#series.get(n)?.[of]))];
  }
}
