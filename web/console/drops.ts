// Drops: their stock at the centre, and what each region holds of it.
import { html, nothing, type TemplateResult } from "lit";
import type { DropStatus } from "../../gen/ts/rimlight/fulfillment/v1/catalog_service_pb.js";
import { DropState } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
import { trouble } from "./regions.js";
import type { View } from "./state.js";
import { epoch, showCount, showSpan, word } from "./units.js";

/** The regions that hold most of a drop; the others are counted. */
const HOLDERS = 8;

interface Holding {
  region: string;
  units: number;
}

export function drops(v: View): TemplateResult {
  const held = holdings(v);
  return html`
    <section id="drops" aria-labelledby="drops-title">
      <h2 id="drops-title">Drops <small>stock at the centre, and untouched units in each region's lease</small></h2>
      ${trouble(v.model.problems.get("drops"))}
      ${v.model.drops.length === 0 ? html`<p class="quiet">None that is not settled.</p>` : html`
        <div class="scroll tall"><table>
          <thead><tr><th scope="col">Drop</th><th scope="col">State</th><th scope="col" class="n">Units</th><th scope="col" class="n">Free</th><th scope="col" class="n">Leased</th>
            <th scope="col" class="n">Set aside</th><th scope="col" class="n">Sold</th><th scope="col">Lease levels</th></tr></thead>
          <tbody>${v.model.drops.map((d) => row(v, d, held.get(d.drop?.drop?.dropId ?? "") ?? []))}</tbody>
        </table></div>`}
    </section>`;
}

/** Who holds how much, by drop; the most first. */
function holdings(v: View): Map<string, Holding[]> {
  const all = new Map<string, Holding[]>();
  for (const { name, nodes } of v.model.regions) {
    const own = new Map<string, number>();
    for (const { dropId, untouched } of nodes.flatMap((n) => n.stock)) own.set(dropId, (own.get(dropId) ?? 0) + untouched);
    for (const [dropId, units] of own) {
      const list = all.get(dropId);
      if (list) list.push({ region: name, units });
      else all.set(dropId, [{ region: name, units }]);
    }
  }
  for (const list of all.values()) list.sort((a, b) => b.units - a.units);
  return all;
}

function row(v: View, { drop, stock }: DropStatus, held: Holding[]): TemplateResult {
  const d = drop?.drop;
  const most = Math.max(1, held[0]?.units ?? 0);
  return html`<tr data-drop=${d?.dropId ?? ""}>
    <th scope="row">${d?.title ?? "–"} <small>${d?.channelId ?? ""}</small></th>
    <td>${word(DropState, d?.state ?? DropState.UNSPECIFIED)} <small>${window(v, d && epoch(d.openTime), d && epoch(d.closeTime))}${later(d && epoch(d.plannedCloseTime), d && epoch(d.closeTime))}</small></td>
    <td class="n">${showCount(stock?.units ?? drop?.units ?? 0)}</td><td class="n">${showCount(stock?.free ?? 0)}</td><td class="n">${showCount(stock?.leased ?? 0)}</td>
    <td class="n">${showCount(stock?.quarantined ?? 0)}</td><td class="n">${showCount(stock?.sold ?? 0)}</td>
    <td class="levels">${held.slice(0, HOLDERS).map(({ region, units }) => html`<span class="level"><meter max=${most} value=${units} aria-hidden="true"></meter> ${region} <b>${showCount(units)}</b></span> `)}
      ${held.length > HOLDERS ? html`<small>and ${held.length - HOLDERS} more regions</small>` : nothing}</td></tr>`;
}

function window(v: View, opens: number | undefined, closes: number | undefined): string {
  if (opens !== undefined && opens > v.now) return `opens in ${showSpan(opens - v.now)}`;
  if (closes !== undefined && closes > v.now) return `closes in ${showSpan(closes - v.now)}`;
  return "";
}

/** By how much it closes later than planned, because answers to its viewers were late. */
function later(planned: number | undefined, closes: number | undefined): string {
  return planned === undefined || closes === undefined ? "" : `, ${showSpan(closes - planned)} later than planned: slow answers`;
}
