// The page as a whole.
import { html, nothing, type TemplateResult } from "lit";
import { decisions } from "./decisions.js";
import { drops } from "./drops.js";
import { map } from "./map.js";
import { matrix, table, trouble } from "./regions.js";
import { slips } from "./slips.js";
import type { View } from "./state.js";
import { showSpan, showTime } from "./units.js";
import { tellFault } from "./words.js";

/** As many lines as a chart stays readable with. */
const LINES = 5;

export function page(v: View): TemplateResult {
  return html`
    <a class="skip" href="#slips">Skip to slips</a>
    <header>
      <h1>Rimlight <span>console</span></h1>
      ${link(v)}
      <p class="quiet">${v.settings.router} ${v.settings.version}</p>
      <nav aria-label="Parts of the page">
        ${["map", "slips", "decisions", "charts", "regions", "drops", "matrix", "members"].map((id) => html`<a href="#${id}">${id}</a> `)}
      </nav>
    </header>
    ${banner(v)}
    <main>
      ${map(v)} ${slips(v)} ${decisions(v)} ${charts(v)} ${table(v)} ${drops(v)} ${matrix(v)} ${members(v)}
    </main>`;
}

function link({ model, now }: View): TemplateResult {
  const { link, heardAt } = model;
  const seen = heardAt === 0 ? "" : `, last heard ${showTime(heardAt)}`;
  switch (link.state) {
    case "live":
      return html`<p id="link" class="live" role="status">live</p>`;
    case "lost":
      return html`<p id="link" class="lost" role="status">lost (${link.why})${seen}; again ${link.retryAt <= now ? "now" : `in ${showSpan(link.retryAt - now)}`}</p>`;
    case "asleep":
      return html`<p id="link" class="lost" role="status">asleep${seen}</p>`;
    case "connecting":
      return html`<p id="link" role="status">connecting${seen}</p>`;
  }
}

function banner({ model, settings }: View): TemplateResult | typeof nothing {
  const broken = model.regions.filter((r) => r.faults.length > 0);
  if (broken.length === 0) {
    return settings.drills ? html`<p id="drill" class="banner quiet">Drills are on: operators may break regions with <code>rimlight fault</code>.</p>` : nothing;
  }
  return html`<p id="drill" class="banner active" role="alert"><b>Drill.</b>
    ${broken.slice(0, 4).map((r) => html`${r.name}: ${[...new Set(r.faults.map(tellFault))].join(", ")}. `)}
    ${broken.length > 4 ? `And ${broken.length - 4} more regions.` : nothing}</p>`;
}

function charts({ model, state }: View): TemplateResult {
  const chosen = state.only ? [...state.only.names].slice(0, LINES) : model.busiest(LINES);
  const names = chosen.sort(); // so that a line keeps its colour while shares change
  return html`
    <section id="charts" aria-labelledby="charts-title">
      <h2 id="charts-title">Attempts over time <small>${state.only ? state.only.label : `the ${names.length} busiest regions`}; the last 10 minutes</small></h2>
      <div class="charts">
        <rimlight-chart role="img" aria-label="Median time of attempts, by region" .data=${{ title: "p50", names, lines: model.history.lines(names, "p50") }}></rimlight-chart>
        <rimlight-chart role="img" aria-label="99th percentile of attempts, by region" .data=${{ title: "p99", names, lines: model.history.lines(names, "p99") }}></rimlight-chart>
      </div>
    </section>`;
}

/** Only what is wrong is told one by one. */
function members({ model }: View): TemplateResult {
  const odd = model.members.filter((m) => m.disagreement !== "" || m.gossipState !== "alive");
  return html`
    <section id="members" aria-labelledby="members-title">
      <h2 id="members-title">Members <small>${model.members.length} in the ring</small></h2>
      ${trouble(model.problems.get("members"))}
      ${odd.length === 0 ? html`<p class="quiet">Gossip, probes and calls agree about all of them.</p>` : html`
        <div class="scroll"><table>
          <thead><tr><th scope="col">Member</th><th scope="col">Gossip</th><th scope="col">Probes</th><th scope="col">Calls</th><th scope="col">Disagreement</th></tr></thead>
          <tbody>${odd.slice(0, 40).map((m) => html`<tr><th scope="row">${m.name}</th><td>${m.gossipState}</td><td>${m.probeState}</td><td>${m.callState}</td><td>${m.disagreement}</td></tr>`)}</tbody>
        </table></div>`}
    </section>`;
}
