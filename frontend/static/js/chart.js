/** Small curves by uPlot: colours from the design tokens, a readout under the pointer, words for whoever hears. */
import uPlot from "../vendor/uplot/uPlot.esm.js";

/**
 * @typedef {{label: string, behind: boolean, y: (number | null)[]}} Line
 * @typedef {{key: string, label: string, unit: string, updates: number, x: number[], lines: Line[],
 *   legend: string[], now: string, said: string}} ChartData
 */

const HEIGHT = 150;
// Of the axis at the left: what most labels need, so that charts above each other begin at one place; and before its line.
const BREADTH = 48;
const GAP = 4;
const OWN = ["accent", "success", "danger"];

/** @param {number | null | undefined} value */
function figure(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && size < 0.001) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

const probe = document.createElement("span");
probe.hidden = true;

/** Return a token's colour as it is now: light-dark() is only resolved on an element. @param {string} name */
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** A figure of the page that shows its curves, and takes newer ones. */
export class Chart {
  /** @param {HTMLElement} element @param {ChartData} data */
  constructor(element, data) {
    this.element = element;
    this.plotted = /** @type {HTMLElement} */ (element.querySelector(".chart__plot"));
    this.now = /** @type {HTMLElement} */ (element.querySelector(".chart__now"));
    this.data = data;
    this.plot = this.build();
    new ResizeObserver(() => this.resize()).observe(this.plotted);
  }

  /** Show other data; the plot is built anew only where its lines are other ones. @param {ChartData} data */
  update(data) {
    const same = data.lines.length === this.data.lines.length && data.updates === this.data.updates;
    this.data = data;
    if (same) {
      this.plot.setData(this.columns());
    } else {
      this.plot.destroy();
      this.plot = this.build();
    }
    this.readOut(null);
    this.plotted.setAttribute("aria-label", data.said);
  }

  /** @returns {uPlot.AlignedData} */
  columns() {
    return [this.data.x, ...this.data.lines.map((line) => line.y)];
  }

  build() {
    this.plotted.replaceChildren();
    this.plotted.setAttribute("aria-label", this.data.said);
    const plot = new uPlot(this.options(), this.columns(), this.plotted);
    plot.root.setAttribute("aria-hidden", "true");
    return plot;
  }

  /** @returns {uPlot.Options} */
  options() {
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      font,
      stroke: () => colour("ink-soft"),
      grid: { stroke: () => colour("line"), width: 1 },
      ticks: { show: false },
    };
    const { x, updates } = this.data;
    return {
      width: this.width(),
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        // All the round's updates from the start, so that the line grows to the right and nothing else moves.
        x: { time: false, range: [Math.min(1, x[0] ?? 1), Math.max(updates, x[x.length - 1] ?? 1, 2)] },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 22, gap: 2, space: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] },
        { ...axis, size: (plot, labels) => breadth(plot, labels, font), gap: GAP, space: 30, values: (_plot, ticks, _axis, _space, apart) => ticks.map((value) => tick(value, apart)) },
      ],
      series: [{}, ...this.data.lines.map((line, place) => this.series(line, place))],
      hooks: { setCursor: [(plot) => this.readOut(plot.cursor.idx ?? null)] },
    };
  }

  /** @param {Line} line @param {number} place @returns {uPlot.Series} */
  series(line, place) {
    const own = this.data.lines.slice(0, place).filter((other) => !other.behind).length;
    const name = line.behind ? "line-strong" : OWN[own % OWN.length];
    const few = line.y.filter((value) => value !== null).length < 8;
    return {
      label: line.label,
      stroke: () => colour(name),
      width: line.behind ? 1 : 1.75,
      spanGaps: true,
      dash: own > 0 && !line.behind ? [5, 3] : [],
      points: { show: few, size: 5, fill: () => colour(name) },
    };
  }

  /** Say the values under the pointer, or the newest where there is none. @param {number | null} place */
  readOut(place) {
    if (place === null) {
      this.now.textContent = this.data.now;
      return;
    }
    const several = this.data.lines.length > 1;
    const values = this.data.lines
      .filter((line) => line.y[place] !== null && line.y[place] !== undefined)
      .map((line) => (several ? `${line.label} ${figure(line.y[place])}` : figure(line.y[place])));
    this.now.textContent = `${this.data.x[place]}: ${values.join(" · ")}`;
  }

  width() {
    return Math.max(160, Math.floor(this.plotted.clientWidth));
  }

  resize() {
    if (this.width() !== this.plot.width) this.plot.setSize({ width: this.width(), height: HEIGHT });
  }

  /** Draw again, in the colours of now. */
  redraw() {
    this.plot.redraw(false);
  }
}

/**
 * The breadth that the longest label needs: one cut off at the left has lost its sign.
 * @param {uPlot} plot @param {string[] | null} labels @param {string} font
 */
function breadth(plot, labels, font) {
  plot.ctx.font = font;
  const widths = (labels ?? []).map((label) => plot.ctx.measureText(label).width);
  return Math.max(BREADTH, ...widths.map((width) => Math.ceil(width) + 2 * GAP));
}

/** Write a tick with as many digits as tell it from its neighbour. @param {number | null} value @param {number} apart */
function tick(value, apart) {
  if (value === null) return "";
  if (value && Math.abs(value) < 0.001) return value.toExponential(1);
  let digits = 0;
  while (digits < 5 && Math.abs(apart * 10 ** digits - Math.round(apart * 10 ** digits)) > 1e-6) digits += 1;
  return value.toFixed(digits);
}

/** Call back whenever the page's theme becomes another. @param {() => void} changed */
export function onTheme(changed) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  new MutationObserver(changed).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}
