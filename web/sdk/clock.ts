/** Time on this machine that no clock change moves, in ms since 1970. */
export function monotonicNow(): number {
  return performance.timeOrigin + performance.now();
}

/** How many messages the estimate looks back on: a few minutes of heartbeats. */
const SAMPLES = 8;

/**
 * The platform's clock, as well as its messages tell it. A message can only arrive late, so the fastest one is the
 * nearest to the truth: the estimate lags by that one's travel time.
 */
export class ServerClock {
  #offsets: number[] = [];

  /** Takes in a message that said serverMs and arrived now. */
  observe(serverMs: number, arrivedMs = monotonicNow()): void {
    this.#offsets = [...this.#offsets, serverMs - arrivedMs].slice(-SAMPLES);
  }

  /** The platform's time in ms since 1970; this machine's own until the first message. */
  now(localMs = monotonicNow()): number {
    return this.#offsets.length === 0 ? Date.now() : localMs + Math.max(...this.#offsets);
  }
}
