// The table of regions, and the matrix of network times.
import { html, nothing, type TemplateResult } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import type { Region } from "./model.js";
import { passes, ROWS, type SortKey, type View } from "./state.js";
import { showCount, showMs, showShare, word } from "./units.js";

const ORDERS: Record<SortKey, (a: Region, b: Region) => number> = {
  name: () => 0, // as they come
  share: (a, b) => b.share - a.share,
  rtt: (a, b) => (a.rtt ?? Infinity) - (b.rtt ?? Infinity),
  p99: (a, b) => (b.p99 ?? -1) - (a.p99 ?? -1),
  late: (a, b) => b.lateShare - a.lateShare,
  lag: (a, b) => Number(b.journalLag - a.journalLag),
};

/** What the filter lets through, in the chosen order. */
export function selected(v: View): Region[] {
  return v.model.regions.filter((r) => passes(v.state, r.name)).sort(ORDERS[v.state.sort]);
}

export function filterBar(v: View): TemplateResult {
  const { state, actions } = v;
  return html`
    <div class="bar" role="search">
      <label>Filter regions <kbd>/</kbd>
        <input id="filter" type="search" .value=${state.filter} autocomplete="off" spellcheck="false"
          @input=${(e: InputEvent) => actions.set({ filter: (e.target as HTMLInputElement).value, shown: ROWS })}></label>
      ${state.only ? html`<button class="chip" @click=${() => actions.set({ only: undefined })} aria-label="Show all regions again">${state.only.label} ×</button>` : nothing}
    </div>`;
}

export function table(v: View): TemplateResult {
  const all = selected(v);
  return html`
    <section id="regions" aria-labelledby="regions-title">
      <h2 id="regions-title">Region by region <small>${all.length} of ${v.model.regions.length}</small></h2>
      ${filterBar(v)}
      <div class="scroll"><table>
        <thead><tr>
          ${heading(v, "name", "Region")}<th scope="col">State</th>${heading(v, "share", "Share")}${heading(v, "rtt", "RTT")}
          ${heading(v, "p99", "p50 / p99")}${heading(v, "late", "Late, 5 s")}<th scope="col" class="n">In flight</th>${heading(v, "lag", "Journal lag")}
          <th scope="col"><span class="hidden">Actions</span></th>
        </tr></thead>
        <tbody>${repeat(all.slice(0, v.state.shown), (r) => r.name, (r) => row(v, r))}</tbody>
      </table></div>
      ${more(v, all.length)}
    </section>`;
}

function heading({ state, actions }: View, key: SortKey, label: string): TemplateResult {
  const sorted = state.sort === key;
  return html`<th scope="col" class=${key === "name" ? "" : "n"} aria-sort=${sorted ? (key === "name" || key === "rtt" ? "ascending" : "descending") : "none"}>
    <button class="sort" @click=${() => actions.set({ sort: key })}>${label}${sorted ? " ▾" : ""}</button></th>`;
}

function row(v: View, r: Region): TemplateResult {
  return html`<tr class=${r.health} data-region=${r.name}>
    <th scope="row">${r.name}${r.nodes.length > 1 ? html` <small>${r.nodes.length} nodes</small>` : nothing}</th>
    <td class="why"><span class="mark ${r.health}"></span>${r.why || word(RegionMode, r.mode)}</td>
    <td class="n"><progress max="1" value=${r.share} aria-hidden="true"></progress> ${showShare(r.share)}</td>
    <td class="n">${showMs(r.rtt)}</td>
    <td class="n">${showMs(r.p50)} / ${showMs(r.p99)}</td>
    <td class="n">${showShare(r.lateShare)}</td>
    <td class="n">${r.inFlight} / ${r.parallelism}</td>
    <td class="n">${showCount(r.journalLag)}</td>
    <td class="n"><button @click=${() => v.actions.openDrain(r.name)} aria-label="Move traffic of ${r.name}">Drain…</button></td>
  </tr>`;
}

function more({ state, actions }: View, count: number): TemplateResult | typeof nothing {
  if (count <= state.shown) return nothing;
  return html`<p><button @click=${() => actions.set({ shown: state.shown + 100 })}>Show ${Math.min(100, count - state.shown)} more of ${count - state.shown}</button></p>`;
}

const COLUMNS = 16;

export function matrix(v: View): TemplateResult {
  const { cells, routers, silent, problems } = v.model;
  const rows = selected(v).map((r) => r.name).filter((name) => cells.has(name));
  const columns = routers.slice(0, COLUMNS);
  return html`
    <section id="matrix" aria-labelledby="matrix-title">
      <h2 id="matrix-title">Network times <small>router by region</small></h2>
      ${trouble(problems.get("matrix"))}
      ${silent.length > 0 ? html`<p class="warn">No answer from ${silent.join(", ")}.</p>` : nothing}
      <div class="scroll"><table class="matrix">
        <thead><tr><th scope="col">Region</th>${columns.map((name) => html`<th scope="col" class="n">${name}</th>`)}</tr></thead>
        <tbody>${rows.slice(0, v.state.shown).map((name) => html`<tr><th scope="row">${name}</th>${columns.map((router) => cell(cells.get(name)?.get(router)))}</tr>`)}</tbody>
      </table></div>
      ${routers.length > columns.length ? html`<p>${routers.length - columns.length} more routers are not shown.</p>` : nothing}
      ${rows.length > v.state.shown ? html`<p>${rows.length - v.state.shown} more regions: filter them, or show more above.</p>` : nothing}
    </section>`;
}

const cell = (rtt: number | undefined) => html`<td class="n heat-${rtt === undefined ? "none" : rtt < 30 ? 1 : rtt < 80 ? 2 : rtt < 160 ? 3 : 4}">${showMs(rtt)}</td>`;

export const trouble = (problem: string | undefined) => (problem === undefined ? nothing : html`<p class="warn" role="status">Not up to date: ${problem}</p>`);

