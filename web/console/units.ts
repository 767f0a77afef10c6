// Times and shares, from the wire's types to what people read.
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";

/** Milliseconds of a duration; undefined stays so: not measured is not zero. */
export function millis(d: Duration): number;
export function millis(d: Duration | undefined): number | undefined;
export function millis(d: Duration | undefined): number | undefined {
  return d && Number(d.seconds) * 1e3 + d.nanos / 1e6;
}

/** Milliseconds since 1970. */
export function epoch(t: Timestamp): number;
export function epoch(t: Timestamp | undefined): number | undefined;
export function epoch(t: Timestamp | undefined): number | undefined {
  return t && Number(t.seconds) * 1e3 + t.nanos / 1e6;
}

export const duration = (ms: number) => ({ seconds: BigInt(Math.trunc(ms / 1e3)), nanos: Math.round((ms % 1e3) * 1e6) });

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function showMs(ms: number | undefined): string {
  if (ms === undefined || Number.isNaN(ms)) return "–";
  return `${(ms < 10 ? fine : whole).format(ms)} ms`;
}

export function showShare(share: number): string {
  const percent = share * 100;
  return `${(percent > 0 && percent < 10 ? fine : whole).format(percent)} %`;
}

export const showCount = (n: number | bigint) => whole.format(n);

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const showTime = (ms: number | undefined) => (ms === undefined ? "–" : time.format(ms));

/** How long something lasted: "42 s", "3 min 20 s". */
export function showSpan(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1e3));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** "REGION_MODE_DRAINED" as "drained": enums by their last words. */
export function word(names: Record<number, string>, value: number): string {
  return (names[value] ?? "unknown").toLowerCase().replaceAll("_", " ");
}
