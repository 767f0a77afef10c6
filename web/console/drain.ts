// The dialogue that takes traffic away from a region, after saying where it would go.
import { html, nothing, type TemplateResult } from "lit";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import type { Drain, View } from "./state.js";
import { showCount, showShare } from "./units.js";

const MODES: [RegionMode, string][] = [
  [RegionMode.DRAINED, "Drain: win nothing new, give untouched stock back, empty the journal"],
  [RegionMode.CORDONED, "Cordon: win no new offers, redeem what is out"],
  [RegionMode.SERVING, "Serve everything"],
];

export function drain(v: View): TemplateResult | typeof nothing {
  const d = v.state.drain;
  if (!d) return nothing;
  const { actions } = v;
  const value = (e: Event) => (e.target as HTMLInputElement).value;
  const ready = d.predicted !== undefined && !d.busy && !d.done && (!d.predicted.lastRegion || d.force);
  return html`
    <h2 id="drain-title">Move traffic: ${d.region}</h2>
    <form @submit=${(e: Event) => { e.preventDefault(); actions.applyMode(true); }}>
      <label>What it should do
        <select @change=${(e: Event) => actions.setDrain({ mode: Number(value(e)), predicted: undefined, done: false })}>
          ${MODES.map(([mode, text]) => html`<option value=${mode} ?selected=${mode === d.mode}>${text}</option>`)}
        </select></label>
      <label>Why; colleagues see it <input id="reason" .value=${d.reason} maxlength="256" @input=${(e: Event) => actions.setDrain({ reason: value(e) })}></label>
      <label>Back by itself after
        <select @change=${(e: Event) => actions.setDrain({ minutes: Number(value(e)) })}>
          ${[0, 15, 60, 240].map((m) => html`<option value=${m} ?selected=${m === d.minutes}>${m === 0 ? "never" : `${m} minutes`}</option>`)}
        </select></label>
      <label>The operator's token (role sre); kept in this tab only
        <input id="token" type="password" autocomplete="off" .value=${v.state.token} @input=${(e: Event) => actions.set({ token: value(e) })}></label>
      <div class="bar">
        <button id="dry-run" type="submit" ?disabled=${d.busy || v.state.token === ""}>Dry run</button>
        <button id="apply" class="danger" type="button" ?disabled=${!ready} @click=${() => actions.applyMode(false)}>Do it</button>
        ${d.busy ? html`<span role="status">Asking…</span>` : nothing}
      </div>
    </form>
    ${v.state.token === "" ? html`<p class="quiet">The dry run needs the token, too. <code>rimlight dev</code> keeps it in the user's configuration directory, under <code>rimlight/credentials</code>.</p>` : nothing}
    ${d.problem === "" ? nothing : html`<p class="warn" role="alert">${d.problem}</p>`}
    ${d.done ? html`<p role="status"><b>Done.</b> The nodes tell their new mode with their next probe.</p>` : nothing}
    ${prediction(v, d)}`;
}

function prediction(v: View, d: Drain): TemplateResult | typeof nothing {
  const p = d.predicted;
  if (!p) return nothing;
  const rows = [...p.predictions].sort((a, b) => b.predictedShare - a.predictedShare).slice(0, 40);
  return html`
    <div id="prediction">
      <h3>What the regions would carry</h3>
      ${p.lastRegion ? html`<p class="warn" role="alert">It is the last region that serves.
        <label class="check"><input type="checkbox" .checked=${d.force} @change=${(e: Event) => v.actions.setDrain({ force: (e.target as HTMLInputElement).checked })}> Do it even so</label></p>` : nothing}
      <div class="scroll"><table>
        <thead><tr><th scope="col">Region</th><th scope="col" class="n">Share</th><th scope="col" class="n">Would be</th><th scope="col" class="n">Load</th><th scope="col" class="n">Would be</th></tr></thead>
        <tbody>${rows.map((r) => html`<tr data-region=${r.region} class=${r.predictedUtilisation > 0.8 ? "late" : ""}>
          <th scope="row">${r.region}</th><td class="n">${showShare(r.share)}</td><td class="n">${showShare(r.predictedShare)}</td>
          <td class="n">${showShare(r.utilisation)}</td><td class="n why">${showShare(r.predictedUtilisation)}</td></tr>`)}</tbody>
      </table></div>
      <p class="quiet">From ${showCount(p.predictedFromCalls)} calls of the last minute; ${showCount(p.unservedCalls)} of them nobody could serve.
        ${p.silentRouters.length > 0 ? `No answer from ${p.silentRouters.join(", ")}.` : nothing}</p>
    </div>`;
}
