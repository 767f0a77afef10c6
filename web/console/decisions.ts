// Slow and failed calls, and what happened to one of them in plain words.
import { html, nothing, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";
import type { Choice, Decision } from "../../gen/ts/rimlight/router/v1/decision_pb.js";
import { trouble } from "./regions.js";
import type { View } from "./state.js";
import { epoch, millis, showMs, showShare, showTime } from "./units.js";
import { failed, methodName, tell, whyNot } from "./words.js";

const CANDIDATES = 40;

export function decisions(v: View): TemplateResult {
  const { model, actions } = v;
  return html`
    <section id="decisions" aria-labelledby="decisions-title">
      <h2 id="decisions-title">Slow and failed calls <small>of ${v.settings.router || "this router"}</small></h2>
      <div class="bar"><label>Slower than
        <select @change=${(e: Event) => actions.slowMs(Number((e.target as HTMLSelectElement).value))}>
          ${[100, 200, 500, 1000].map((ms) => html`<option value=${ms} ?selected=${ms === v.slowMs}>${showMs(ms)}</option>`)}
        </select></label></div>
      ${trouble(model.problems.get("decisions"))}
      ${model.decisions.length === 0 ? html`<p class="quiet">None among the calls that this router keeps.</p>` : html`
        <div class="scroll tall"><table>
          <thead><tr><th scope="col">Time</th><th scope="col">Call</th><th scope="col">Region</th><th scope="col" class="n">Took</th><th scope="col">Ended</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
          <tbody>${repeat(model.decisions, (d) => d.decisionId, (d) => row(v, d))}</tbody>
        </table></div>`}
    </section>`;
}

// Rows are keyed by what they are about: under a pointer on its way to a button, a row never becomes another.
function row(v: View, d: Decision): TemplateResult {
  const regions = [...new Set(d.attempts.map((a) => a.region))].join(", then ");
  return html`<tr class=${failed(d) ? "broken" : "late"} data-decision=${d.decisionId}>
    <td>${showTime(epoch(d.time))}</td><td>${methodName(d.method)}</td><td class="wrap">${regions || "none"}</td><td class="n">${showMs(millis(d.total))}</td>
    <td class="wrap why">${failed(d) ? "failed" : d.attempts.length > 1 ? "answered at last" : "answered"}</td>
    <td class="n"><button class="link" @click=${() => v.actions.explain(d.decisionId)}>Why?</button></td></tr>`;
}

export function explanation(v: View): TemplateResult | typeof nothing {
  const { explained } = v.state;
  if (!explained) return nothing;
  const { id, decision, problem } = explained;
  return html`
    <h2 id="explain-title">What happened to this call</h2>
    ${problem === "" ? nothing : html`<p class="warn" role="alert">${problem}</p>`}
    ${!decision && problem === "" ? html`<p class="quiet">Asking the routers…</p>` : nothing}
    ${decision ? html`
      ${tell(decision).map((s) => html`<p class="sentence">${s}</p>`)}
      ${decision.choices.map((c, i) => candidates(c, i, decision.choices.length))}` : nothing}
    <p class="quiet">Decision <code>${id}</code>; the same in a terminal: <code>rimlight explain ${id}</code></p>`;
}

function candidates(choice: Choice, i: number, of: number): TemplateResult {
  const all = [...choice.candidates].sort((a, b) => (millis(a.expected) || Infinity) - (millis(b.expected) || Infinity));
  return html`
    <h3>What the router knew${of > 1 ? ` before attempt ${i + 1}` : ""} <small>measurements ${showMs(millis(choice.snapshotAge))} old</small></h3>
    <div class="scroll"><table>
      <thead><tr><th scope="col">Region</th><th scope="col" class="n">Expected</th><th scope="col" class="n">Network</th><th scope="col" class="n">Service</th>
        <th scope="col" class="n">Queue</th><th scope="col" class="n">Succeed</th><th scope="col">Verdict</th></tr></thead>
      <tbody>${all.slice(0, CANDIDATES).map((c) => html`<tr class=${c.region === choice.region && c.nodeId === choice.nodeId ? "chosen" : ""}>
        <th scope="row">${c.region}</th><td class="n">${showMs(millis(c.expected))}</td><td class="n">${showMs(millis(c.network))}</td>
        <td class="n">${showMs(millis(c.service))}</td><td class="n">${showMs(millis(c.wait))}</td><td class="n">${showShare(c.successRate)}</td>
        <td>${whyNot(c, choice)}</td></tr>`)}</tbody>
    </table></div>
    ${all.length > CANDIDATES ? html`<p class="quiet">${all.length - CANDIDATES} slower ones are not shown.</p>` : nothing}`;
}
