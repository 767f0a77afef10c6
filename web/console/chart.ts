// <rimlight-chart>: lines over time, drawn by uPlot on a canvas.
import uPlot from "uplot";
import type { Line } from "./history.js";
import { showMs } from "./units.js";

export interface ChartData {
  title: string;
  names: readonly string[];
  lines: [number[], ...Line[]];
}

const HEIGHT = 190;

export class RimlightChart extends HTMLElement {
  #plot: uPlot | undefined;
  #shape = "";
  #data: ChartData | undefined;
  readonly #dark = matchMedia("(prefers-color-scheme: dark)");
  readonly #resized = new ResizeObserver(() => this.#plot?.setSize({ width: this.#width(), height: HEIGHT }));
  readonly #redress = () => {
    this.#shape = "";
    this.#draw();
  };

  connectedCallback(): void {
    this.#resized.observe(this);
    this.#dark.addEventListener("change", this.#redress);
    this.#draw();
  }

  disconnectedCallback(): void {
    this.#resized.disconnect();
    this.#dark.removeEventListener("change", this.#redress);
    this.#plot?.destroy();
    this.#plot = undefined;
    this.#shape = "";
  }

  set data(data: ChartData) {
    this.#data = data;
    this.#draw();
  }

  #width = () => Math.max(200, this.clientWidth);

  #draw(): void {
    const data = this.#data;
    if (!data || !this.isConnected) return;
    const shape = JSON.stringify(data.names);
    if (shape === this.#shape && this.#plot) {
      this.#plot.setData(data.lines);
      return;
    }
    this.#shape = shape;
    this.#plot?.destroy();
    const style = getComputedStyle(this);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    this.#plot = new uPlot({
      title: data.title, width: this.#width(), height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, __, max) => [0, Math.max(10, (max ?? 0) * 1.1)] } },
      axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map(showMs) }],
      series: [
        { value: "{HH}:{mm}:{ss}" },
        ...data.names.map((label, i) => ({ label, stroke: colour(`--series-${i + 1}`), width: 1.5, points: { show: false }, value: (_: uPlot, v: number | null) => showMs(v ?? undefined) })),
      ],
    }, data.lines, this);
  }
}

customElements.define("rimlight-chart", RimlightChart);
