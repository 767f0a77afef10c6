// Slips: on a timeline, and one by one.
import { html, nothing, svg, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { type Slip, SlipRule, SlipScope } from "../../gen/ts/rimlight/router/v1/slip_pb.js";
import { trouble } from "./regions.js";
import type { View } from "./state.js";
import { epoch, showCount, showShare, showSpan, showTime, word } from "./units.js";
import { causeOf, subjectOf } from "./words.js";

const PAST_MS = 15 * 60_000;
const WIDTH = 640;
const LEFT = 150;
const ROW = 20;
const LANES = 10;
const LISTED = 12;

export function slips(v: View): TemplateResult {
  const all = v.model.slips;
  const active = all.filter((s) => !s.endTime).length;
  return html`
    <section id="slips" aria-labelledby="slips-title">
      <h2 id="slips-title">Slips <small>${active} active, ${all.length} kept</small></h2>
      ${windows(v)}
      ${timeline(v)}
      ${all.length === 0 ? html`<p class="quiet">None: no window of calls had too many late ones.</p>` : html`<ul class="slips">${repeat(all.slice(0, LISTED), (s) => s.slipId, (s) => item(v, s))}</ul>`}
    </section>`;
}

function windows(v: View): TemplateResult | typeof nothing {
  const flows = v.model.windows.filter((w) => w.scope === SlipScope.FLOW);
  const calls = flows.reduce((all, w) => all + Number(w.calls), 0);
  const late = flows.reduce((all, w) => all + Number(w.lateCalls), 0);
  if (calls === 0) return trouble(v.model.problems.get("windows"));
  return html`<p>${trouble(v.model.problems.get("windows"))}In the last 5 s viewers made <b>${showCount(calls)}</b> calls; <b>${showShare(late / calls)}</b> of them were late.</p>`;
}

/** One lane per subject, the newest on top. */
function timeline(v: View): TemplateResult {
  const from = v.now - PAST_MS;
  const lanes = new Map<string, Slip[]>();
  for (const s of v.model.slips) {
    if ((epoch(s.endTime) ?? v.now) < from) continue;
    const subject = subjectOf(s);
    const lane = lanes.get(subject);
    if (lane) lane.push(s);
    else if (lanes.size < LANES) lanes.set(subject, [s]);
  }
  const height = Math.max(1, lanes.size) * ROW;
  const x = (ms: number) => LEFT + ((Math.max(ms, from) - from) / PAST_MS) * (WIDTH - LEFT);
  const marks = [15, 10, 5, 0];
  return html`
    <svg class="timeline" viewBox="0 0 ${WIDTH} ${height + 18}" role="img" aria-label="Slips of the last 15 minutes; the list below says the same">
      ${marks.map((m) => svg`<line class="tick" x1=${x(v.now - m * 60_000)} x2=${x(v.now - m * 60_000)} y1="0" y2=${height}></line>
        <text class="tick" text-anchor=${m === 0 ? "end" : m === 15 ? "start" : "middle"} x=${x(v.now - m * 60_000)} y=${height + 14}>${m === 0 ? "now" : `${m} min ago`}</text>`)}
      ${[...lanes].map(([subject, list], i) => svg`
        <text x="0" y=${i * ROW + 14}>${subject.length > 22 ? `${subject.slice(0, 21)}…` : subject}</text>
        ${list.map((s) => {
          const begin = x(epoch(s.startTime) ?? from);
          const end = x(epoch(s.endTime) ?? v.now);
          return svg`<rect class="slip ${s.endTime ? "" : "active"}" x=${begin} y=${i * ROW + 4} height=${ROW - 8} width=${Math.max(3, end - begin)} rx="3"
            fill-opacity=${0.4 + 0.6 * s.worstShare}><title>${s.explanation}</title></rect>`;
        })}`)}
    </svg>`;
}

function item(v: View, s: Slip): TemplateResult {
  const begin = epoch(s.startTime) ?? v.now;
  const end = epoch(s.endTime);
  return html`<li class=${end === undefined ? "active" : ""} data-slip=${s.slipId} data-region=${s.region}>
    <p class="head"><b>${subjectOf(s)}</b> ${word(SlipScope, s.scope)} · ${word(SlipRule, s.rule)} rule · ${causeOf(s)}
      <span class="quiet">${showTime(begin)}, ${end === undefined ? `lasts for ${showSpan(v.now - begin)}` : `lasted ${showSpan(end - begin)}`}</span></p>
    <p>${s.explanation}</p>
    <p class="quiet">Late: ${showShare(s.shareBefore)} before, ${showShare(s.worstShare)} at worst (${showCount(s.lateCalls)} of ${showCount(s.calls)} calls),
      ${showShare(s.shareAfter)} ${end === undefined ? "now" : "afterwards"}.
      ${s.timeLost ? html`Its viewers lost ${showSpan(Number(s.timeLost.seconds) * 1000)}. ` : nothing}
      ${s.decisionIds.map((id, i) => html`<button class="link" @click=${() => v.actions.explain(id)}>Late call ${i + 1}</button> `)}</p>
  </li>`;
}
