// What decisions, slips and faults say, in sentences.
import { Code } from "@connectrpc/connect";
import { Reason } from "../../gen/ts/rimlight/errors/v1/reason_pb.js";
import { type Fault, FaultKind } from "../../gen/ts/rimlight/region/v1/fault_pb.js";
import { type Attempt, type Candidate, type Choice, type Decision, FilterReason } from "../../gen/ts/rimlight/router/v1/decision_pb.js";
import { type Slip, SlipCause } from "../../gen/ts/rimlight/router/v1/slip_pb.js";
import { epoch, millis, showMs, showShare, showSpan, showTime } from "./units.js";

/** "RedeemOffer" of "/rimlight.offer.v1.OfferService/RedeemOffer". */
export const methodName = (full: string) => full.slice(full.lastIndexOf("/") + 1);

/** Whether nothing but failures came of a call. */
export const failed = (d: Decision) => !d.attempts.some((a) => a.statusCode === 0);

/** What happened to a call, sentence by sentence. */
export function tell(d: Decision): string[] {
  const budget = millis(d.budget);
  const sentences = [
    `${methodName(d.method)} reached the router ${d.router} at ${showTime(epoch(d.time))}` +
      (budget === undefined ? "." : ` with ${budget < 10_000 ? showMs(budget) : showSpan(budget)} left to answer.`),
  ];
  d.choices.forEach((choice, i) => {
    sentences.push((i === 0 ? "" : `Then, attempt ${i + 1}: `) + sentence(choice.explanation));
    const attempt = d.attempts[i];
    if (attempt) sentences.push(tellAttempt(attempt, choice, i + 1 < d.attempts.length || !failed(d)));
  });
  if (d.choices.length === 0) sentences.push("No region was asked.");
  const total = millis(d.total);
  if (total !== undefined) {
    const late = budget !== undefined && total > budget ? ", after its caller had given up" : "";
    sentences.push(`${failed(d) ? "It failed" : "The caller had an answer"} after ${showMs(total)}${late}.`);
  }
  return sentences;
}

/** elsewhere: another attempt was made, or answered. */
function tellAttempt(a: Attempt, choice: Choice, elsewhere: boolean): string {
  const took = millis(a.duration) ?? 0;
  const inside = millis(a.residence) ?? 0;
  const began = millis(a.startOffset) ?? 0;
  const expected = millis(choice.candidates.find((c) => c.region === a.region && c.nodeId === a.nodeId)?.expected);
  let text = `${a.region} was asked${began >= 1 ? ` after ${showMs(began)}` : ""} and `;
  if (a.statusCode === 0) text += `answered in ${showMs(took)}`;
  else if (a.givenUp && a.statusCode === Code.Canceled) text += `given up after ${showMs(took)}, as another region had answered`;
  else if (a.givenUp || (a.statusCode === Code.Canceled && elsewhere)) text += `given up after ${showMs(took)} without an answer`;
  else text += `failed after ${showMs(took)} with ${status(a)}`;
  if (expected !== undefined && expected > 0) text += `, where ${showMs(expected)} had been expected`;
  if (a.givenUp) return `${text}.`;
  if (inside > 0) {
    const way = Math.max(0, took - inside);
    text += `: ${showMs(inside)} inside the region, ${showMs(way)} on the way. `;
    text += inside > way ? "Most of it was the region's own work or queue." : "Most of it was the network.";
    return text;
  }
  return `${text}. The region did not say how much of it was its own.`;
}

function status(a: Attempt): string {
  const code = Code[a.statusCode] ?? `status ${a.statusCode}`;
  return a.reason === Reason.UNSPECIFIED ? code : `${Reason[a.reason]} (${code})`;
}

function sentence(text: string): string {
  const trimmed = text.trim();
  return trimmed === "" || /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}

const FILTERS: Record<FilterReason, string> = {
  [FilterReason.UNSPECIFIED]: "",
  [FilterReason.RESIDENCY]: "in none of the viewer's zones",
  [FilterReason.NO_STOCK]: "has no unit",
  [FilterReason.DRAINING]: "drained, cordoned or leaving",
  [FilterReason.UNREACHABLE]: "does not answer probes",
  [FilterReason.TRIED]: "was asked already",
  [FilterReason.EJECTED]: "its calls fail",
  [FilterReason.TOO_FAR]: "too far for the time left",
  [FilterReason.JOURNAL_FULL]: "its disk is full",
  [FilterReason.LOADED]: "too busy for second copies",
};

/** Why a candidate was not the choice, in a few words. */
export function whyNot(c: Candidate, choice: Choice): string {
  if (c.region === choice.region && c.nodeId === choice.nodeId) return "chosen";
  if (c.filterReason !== FilterReason.UNSPECIFIED) return FILTERS[c.filterReason] ?? "filtered";
  if (c.suspect) return "answers overdue";
  if (c.heldShare > 0) return "warming up, or slower";
  const chosen = choice.candidates.find((k) => k.region === choice.region && k.nodeId === choice.nodeId);
  return (millis(c.expected) ?? 0) > (millis(chosen?.expected) ?? 0) ? "slower" : "passed over: the sentence says why";
}

const CAUSES: Record<SlipCause, string> = {
  [SlipCause.UNSPECIFIED]: "cause unknown",
  [SlipCause.NETWORK]: "the network",
  [SlipCause.SERVICE]: "the region's work",
  [SlipCause.QUEUE]: "the region's queue",
  [SlipCause.NO_REGION]: "no region to ask",
};

export const causeOf = (s: Slip) => CAUSES[s.cause] ?? "cause unknown";

/** Whose calls a slip is about: a region, a drop or a method. */
export const subjectOf = (s: Slip) => s.region || (s.flow && methodName(s.flow)) || (s.dropId && `drop ${s.dropId.slice(-6)}`) || "the fleet";

const FAULTS: Record<FaultKind, string> = {
  [FaultKind.UNSPECIFIED]: "an unknown fault",
  [FaultKind.BROWNOUT]: "brownout",
  [FaultKind.ERRORS]: "errors",
  [FaultKind.PARTITION]: "partition",
  [FaultKind.KILL]: "node killed",
};

/** "brownout of +1,000 ms until 12:00:30". */
export function tellFault(f: Fault): string {
  const added = millis(f.addedTime);
  const more = f.kind === FaultKind.BROWNOUT && added !== undefined ? ` of +${showMs(added)}` : f.kind === FaultKind.ERRORS ? ` on ${showShare(f.errorShare || 1)} of calls` : "";
  return `${FAULTS[f.kind] ?? "fault"}${more}${f.expireTime ? ` until ${showTime(epoch(f.expireTime))}` : ""}`;
}
