// The world map: a dot per region, or per handful of regions that would cover each other.
import { html, nothing, svg, type TemplateResult } from "lit";
import type { Health, Region } from "./model.js";
import { GRATICULE, HEIGHT, OUTLINE, position, WIDTH } from "./places.js";
import type { View } from "./state.js";
import { showMs, showShare } from "./units.js";

/** Regions nearer than this, in units of the map, become one dot. */
const CELL = 22;
/** With more dots than this their labels would cover each other. */
const LABELS = 24;

interface Dot {
  x: number;
  y: number;
  regions: Region[];
}

const SEVERITY: Health[] = ["good", "out", "late", "broken"];
export const worst = (regions: Region[]) => regions.reduce<Health>((w, r) => (SEVERITY.indexOf(r.health) > SEVERITY.indexOf(w) ? r.health : w), "good");

/** One dot per cell of a grid, where its regions are on average; and those that have no place. */
export function cluster(regions: Region[]): { dots: Dot[]; elsewhere: Region[] } {
  const cells = new Map<string, Dot>();
  const elsewhere: Region[] = [];
  for (const r of regions) {
    const at = position(r.name);
    if (!at) {
      elsewhere.push(r);
      continue;
    }
    const key = `${Math.floor(at[0] / CELL)} ${Math.floor(at[1] / CELL)}`;
    const dot = cells.get(key) ?? { x: 0, y: 0, regions: [] };
    const n = dot.regions.push(r);
    dot.x += (at[0] - dot.x) / n;
    dot.y += (at[1] - dot.y) / n;
    cells.set(key, dot);
  }
  return { dots: [...cells.values()].sort((a, b) => a.x - b.x), elsewhere };
}

export function map(v: View): TemplateResult {
  const { dots, elsewhere } = cluster(v.model.regions);
  return html`
    <section id="map" aria-labelledby="map-title">
      <h2 id="map-title">Regions <small>seen from ${v.settings.router || "this router"}</small></h2>
      <svg class="map" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="group" aria-label="World map of regions">
        <path class="graticule" d=${GRATICULE}></path>
        <path class="land" d=${OUTLINE}></path>
        ${dots.map((d) => dot(d, v, dots.length <= LABELS))}
      </svg>
      ${elsewhere.length === 0 ? nothing : html`
        <p class="elsewhere">Not on the map:
          ${elsewhere.slice(0, 12).map((r) => html`<button class="chip ${r.health}" @click=${() => pick(v, [r])}>${r.name} · ${showMs(r.rtt)}</button> `)}
          ${elsewhere.length > 12 ? `and ${elsewhere.length - 12} more` : nothing}
        </p>`}
    </section>`;
}

function dot(d: Dot, v: View, labelled: boolean): TemplateResult {
  const share = d.regions.reduce((all, r) => all + r.share, 0);
  const rtts = d.regions.map((r) => r.rtt).filter((t) => t !== undefined);
  const name = d.regions.length === 1 ? d.regions[0]!.name : `${d.regions.length} regions near ${d.regions[0]!.name}`;
  const health = worst(d.regions);
  const why = d.regions.find((r) => r.health === health)?.why;
  const live = `${showMs(rtts.length > 0 ? Math.min(...rtts) : undefined)} · ${showShare(share)}`;
  const choose = () => pick(v, d.regions);
  const onKey = (e: KeyboardEvent) => {
    if (e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    choose();
  };
  const left = d.x > WIDTH - 170;
  return svg`
    <g class="dot ${health}" role="button" tabindex="0" transform="translate(${d.x.toFixed(1)} ${d.y.toFixed(1)})"
      aria-label="${name}: ${live}${why ? `, ${why}` : ""}" @click=${choose} @keydown=${onKey}>
      <title>${name}: ${live}${why ? `, ${why}` : ""}</title>
      <circle class="halo" r=${6 + 16 * Math.sqrt(share)}></circle>
      <circle class="core" r="5"></circle>
      ${d.regions.length > 1 ? svg`<text class="count" text-anchor="middle" y="-8">${d.regions.length}</text>` : nothing}
      ${labelled ? svg`<text text-anchor=${left ? "end" : "start"} x=${left ? -10 : 10} y="-1">${d.regions.length === 1 ? name : `${d.regions.length} regions`}</text>
        <text class="live" text-anchor=${left ? "end" : "start"} x=${left ? -10 : 10} y="11">${live}</text>` : nothing}
    </g>`;
}

function pick(v: View, regions: Region[]): void {
  const label = regions.length === 1 ? regions[0]!.name : `${regions.length} regions near ${regions[0]!.name}`;
  v.actions.set({ only: { label, names: new Set(regions.map((r) => r.name)) }, shown: 40 });
}
