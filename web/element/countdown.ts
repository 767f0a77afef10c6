/** When to say aloud how long is left. */
const MARKS_S = [60, 30, 10] as const;

/** Minutes and seconds, rounded up: 0:00 only when it is over. */
export function clockText(leftMs: number): string {
  const seconds = Math.max(0, Math.ceil(leftMs / 1000));
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  const pad = (n: number) => String(n).padStart(2, "0");
  return `${hours > 0 ? `${hours}:${pad(minutes)}` : minutes}:${pad(seconds % 60)}`;
}

/** The mark passed between two looks at the clock, the last one if several were; undefined if none. */
export function markPassed(beforeMs: number, nowMs: number): number | undefined {
  return MARKS_S.findLast((mark) => beforeMs > mark * 1000 && nowMs <= mark * 1000 && nowMs > 0);
}

/** How long until the seconds shown change. */
export function untilNextSecond(leftMs: number): number {
  return leftMs <= 0 ? 1000 : ((leftMs - 1) % 1000) + 1;
}
