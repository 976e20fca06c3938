/** The round page while it runs: curves that grow, a log that stays where it was read, words when a step begins. */
import { Chart, onTheme } from "./chart.js";

/** @type {Map<string, Chart>} */
const charts = new Map();
const room = document.getElementById("charts");

/** Draw what is new; a chart that had nothing to show yet gets its place. @param {import("./chart.js").ChartData[]} all */
function draw(all) {
  if (!room) return;
  for (const data of all) {
    const known = charts.get(data.key);
    if (known) {
      known.update(data);
      continue;
    }
    const element = document.getElementById(`chart-${data.key}`) ?? place(data);
    charts.set(data.key, new Chart(element, data));
  }
  if (all.length) document.getElementById("charts-none")?.remove();
}

/** @param {import("./chart.js").ChartData} data */
function place(data) {
  const figure = document.createElement("figure");
  figure.className = "chart";
  figure.id = `chart-${data.key}`;
  const caption = document.createElement("figcaption");
  for (const [name, text] of [["name", data.label], ["unit", data.unit], ["now number", data.now]]) {
    const part = document.createElement("span");
    part.className = `chart__${name}`;
    part.textContent = text;
    caption.append(part, " ");
  }
  const plot = document.createElement("div");
  plot.className = "chart__plot";
  plot.setAttribute("role", "img");
  figure.append(caption, plot);
  if (data.legend.length) {
    const key = document.createElement("p");
    key.className = "chart__key";
    key.setAttribute("aria-hidden", "true");
    for (const label of data.legend) key.append(Object.assign(document.createElement("span"), { textContent: label }));
    figure.append(key);
  }
  room?.append(figure);
  return figure;
}

let lines = poll()?.dataset.lines;

function poll() {
  return document.getElementById("round-poll");
}

async function renew() {
  const answer = await fetch(room?.dataset.source ?? "", { headers: { accept: "application/json" } });
  if (answer.ok) draw((await answer.json()).charts);
}

document.addEventListener("htmx:afterSettle", () => {
  const now = poll()?.dataset;
  if (!now) return;
  const said = document.getElementById("round-said");
  if (said && now.said && said.textContent !== now.said) said.textContent = now.said;
  if (now.lines === lines) return;
  lines = now.lines;
  renew().catch(() => {}); // the next poll, whose failure the page does say, tries again
});

// A log that was read at its end goes on showing the end; one that was scrolled up stays there.
let atEnd = true;
document.addEventListener("htmx:oobBeforeSwap", () => {
  const log = document.getElementById("round-log");
  if (log) atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
});
document.addEventListener("htmx:oobAfterSwap", () => {
  const log = document.getElementById("round-log");
  if (log && atEnd) log.scrollTop = log.scrollHeight;
});
document.getElementById("log-part")?.addEventListener("toggle", () => {
  const log = document.getElementById("round-log");
  if (log) log.scrollTop = log.scrollHeight;
});

const first = document.getElementById("charts-data");
if (first?.textContent) draw(JSON.parse(first.textContent));
onTheme(() => charts.forEach((chart) => chart.redraw()));
