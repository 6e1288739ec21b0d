// The data of the page, what of it is chosen, and how it is written.

const DATA = JSON.parse(document.getElementById("data").textContent);
const ALL = ""; // the mean over tasks

/** Columns {name: [...] | {values, codes}} -> objects, one a row. */
function rowsOf(columns) {
  const names = Object.keys(columns);
  const read = names.map((name) => {
    const column = columns[name];
    return Array.isArray(column) ? (i) => column[i] : (i) => column.values[column.codes[i]];
  });
  const first = columns[names[0]];
  const count = (Array.isArray(first) ? first : first.codes).length;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name, k) => [name, read[k](i)])));
}

const RUNS = rowsOf(DATA.runs).map((run, index) => ({ ...run, index }));
const CELLS = rowsOf(DATA.cells); // mean and interval of (model, task, label); task ALL: over tasks
const MODELS = [...new Set(RUNS.map((run) => run.model))];
const TASKS = [...new Set(RUNS.map((run) => run.task))];

/** What the reader has chosen; kept behind the # of the address, so that a link or a reload shows the same. */
const chosen = { model: MODELS[0], task: TASKS.length > 1 ? ALL : TASKS[0], kind: "final", find: "" };
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (key in chosen) chosen[key] = value;
if (!MODELS.includes(chosen.model)) chosen.model = MODELS[0];
if (chosen.task !== ALL && !TASKS.includes(chosen.task)) chosen.task = TASKS.length > 1 ? ALL : TASKS[0];

function matches(row) {
  const words = chosen.find.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${row.label} ${row.category}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

const ofModel = (row) => row.model === chosen.model && matches(row);
const isFinal = (run) => run.kind === "final";

/** The finished runs of the chosen model and task. */
const chosenRuns = () => RUNS.filter((run) => isFinal(run) && ofModel(run) && (!chosen.task || run.task === chosen.task));

/** The cells of the chosen model, of one task or over all. */
const chosenCells = (task = chosen.task) => CELLS.filter((cell) => ofModel(cell) && cell.task === task);

const taskTold = () => chosen.task || `mean over ${TASKS.length} tasks`;

function groupBy(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const name = key(row);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  return groups;
}

const known = (x) => x !== null && x !== undefined && !Number.isNaN(x);
const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
function median(values) {
  const sorted = values.filter(known).sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length ? (sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2) : null;
}

// how numbers are written
const percent = (x) => (known(x) ? (100 * x).toFixed(1) : "–");
function number(x, digits = 3) {
  if (!known(x)) return "–";
  const rounded = Number(x.toPrecision(digits));
  return Math.abs(rounded) < 1 ? String(rounded) : rounded.toLocaleString("en"); // which would make 0.00005 a 0
}
const range = (low, high, write = percent) => (known(low) && known(high) ? `${write(low)} to ${write(high)}` : "");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** An element; texts among its children are texts, whatever they hold. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && known(value)) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Bytes that were packed by gzip and base64, as a response to read. */
function unpacked(id) {
  const text = document.getElementById(id).textContent;
  const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
}

let detailsRead;
/** Configs and learning curves; unpacked when first asked for. */
const details = () => (detailsRead ??= unpacked("details").json());

function download(name, columns, rows) {
  const quoted = (value) => {
    let text = known(value) ? String(value) : "";
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // no formula in a spreadsheet
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n");
  const link = h("a", { href: URL.createObjectURL(new Blob([lines + "\r\n"], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
