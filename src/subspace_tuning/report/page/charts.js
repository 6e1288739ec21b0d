// Charts: drawn by plotly when they come into sight, in the colours of the hour, each with its table beside it.

const SYMBOLS = { reconstruction: "circle", extension: "square", combination: "diamond", full: "star", head: "x", none: "hexagon" };
const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7f7f7f", "#e69f00"]; // Okabe and Ito
const MARKS = ["circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "cross"];
const CHARTS = [];

const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const isDark = () => dark.matches && !printing;

/** A colour as it is on white, or lighter for a dark page. */
function shade(hex, part = 0.45) {
  if (!isDark()) return hex;
  const mixed = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).map((c) => Math.round(c + (255 - c) * part));
  return `rgb(${mixed})`;
}
const colourOf = (category) => shade(DATA.colours[category] ?? "#6b7280");
const seriesLook = (i) => ({ color: shade(SERIES[i % SERIES.length], 0.25), symbol: MARKS[(i + Math.floor(i / 8)) % 8] });
/** Plotly reads some HTML in texts. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

let plotlyRead;
/** Plotly; unpacked and run when the first chart is drawn. */
const plotly = () => (plotlyRead ??= unpacked("plotly").blob().then((code) => new Promise((done) => {
  const src = URL.createObjectURL(code.slice(0, code.size, "text/javascript")); // read beside the page's own work
  document.head.append(h("script", { src, onload: () => done(window.Plotly) }));
})));

/**
 * A chart that follows the filter. make() -> {traces, layout, height, says, head, rows, empty}, or a promise of it:
 * says is read out in its place, head and rows are its table, note stands below, empty says why there is nothing to draw.
 */
function chart(make) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": "A chart that is drawn as it comes into sight" }), missing = h("p", { class: "missing", hidden: true }), note = h("figcaption");
  const table = h("details", { class: "alternative" }, h("summary", {}, "The same as a table"));
  const element = h("figure", {}, plot, missing, note, table);
  const mine = { element, plot, near: false, stale: true, draw };
  let latest;

  async function draw() {
    mine.stale = false;
    const asked = (latest = Symbol());
    const [Plotly, told] = [await plotly(), await make()];
    if (latest !== asked) return;
    plot.hidden = table.hidden = Boolean(told.empty);
    missing.hidden = !told.empty;
    note.textContent = told.note ?? "";
    if (told.empty) return void (missing.textContent = told.empty);
    plot.style.minHeight = `${told.height ?? 420}px`;
    plot.setAttribute("aria-label", told.says);
    await Plotly.react(plot, told.traces, layoutOf(told), { responsive: true, displaylogo: false, displayModeBar: false });
    if (told.onclick && !mine.heard) {
      mine.heard = true;
      plot.on("plotly_click", (event) => told.onclick(event.points[0]));
    }
    mine.told = told;
    if (table.open) fillTable();
  }

  function fillTable() {
    const columns = mine.told.head.map((name, i) => ({
      name, head: i === 0, value: (row) => row[i], number: typeof mine.told.rows[0]?.[i] === "number",
      show: (row) => (typeof row[i] === "number" ? number(row[i], 4) : row[i]),
    }));
    const shown = sortable({ caption: mine.told.says, columns, file: "chart.csv" });
    shown.fill(mine.told.rows);
    table.replaceChildren(table.firstElementChild, shown.element);
  }

  table.addEventListener("toggle", () => table.open && mine.told && fillTable());
  CHARTS.push(mine);
  sight.observe(element);
  return element;
}

/** Where an axis of these values begins, so that a few far behind do not press the rest together; null: it shows all. */
function begin(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const [q1, q3] = [sorted[Math.floor(sorted.length / 4)], sorted[Math.floor((3 * sorted.length) / 4)]];
  const low = sorted.find((x) => x >= q1 - 4 * (q3 - q1));
  return low > sorted[0] && low - sorted[0] > (sorted.at(-1) - low) / 2 ? low - 0.06 * (sorted.at(-1) - low) : null;
}
/** That part of an axis, and in words what lies before it: [name, value] each. */
function framed(named) {
  const from = begin(named.map(([, value]) => value));
  if (from === null) return { axis: {}, note: "" };
  const top = Math.max(...named.map(([, value]) => value));
  const outside = groupBy(named.filter(([, value]) => value < from), ([name]) => name);
  const told = [...outside].map(([name, own]) => `${name} (${mean(own.map(([, value]) => value)).toFixed(1)})`);
  return { axis: { range: [from, top + 0.06 * (top - from)] }, note: `Too far behind to be drawn: ${told.join(", ")}.` };
}
/** An axis of names, the first on top. */
const names = (all) => ({ type: "category", categoryorder: "array", categoryarray: all.map(plain), range: [all.length - 0.4, -0.6], dtick: 1 });

/** The page's look under a chart's own layout. */
function layoutOf({ layout = {}, height = 420 }) {
  const style = getComputedStyle(document.documentElement);
  const ink = printing ? "#1f2937" : style.getPropertyValue("--ink").trim();
  const line = printing ? "#d1d5db" : style.getPropertyValue("--line").trim();
  const paper = printing ? "#ffffff" : style.getPropertyValue("--paper").trim();
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
  const axes = Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
  return {
    font: { family: "system-ui, sans-serif", color: ink, size: 12 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink }, align: "left" }, hovermode: "closest",
    margin: { l: 50, r: 12, t: 28, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, title: { text: "" } },
    dragmode: false, ...layout, height, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    ...Object.fromEntries(axes.map((key) => [key, { ...axis, ...layout[key] }])),
  };
}

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const mine = CHARTS.find((c) => c.element === entry.target);
    mine.near = entry.isIntersecting;
    if (mine.near && mine.stale) mine.draw();
  }
}, { rootMargin: "400px" });

/** The choice has changed: what is in sight is drawn anew, the rest when it comes into sight. */
function redrawCharts() {
  for (const mine of CHARTS) {
    mine.stale = true;
    if (mine.near) mine.draw();
  }
}

dark.addEventListener("change", redrawCharts);
addEventListener("beforeprint", () => { printing = true; CHARTS.forEach((mine) => mine.draw()); });
addEventListener("afterprint", () => { printing = false; redrawCharts(); });
