// The page itself: its sections, the filter, the drawer of a run, and, where a server stands behind it, what is new.

const TABLES = [];
const tabled = (made) => (TABLES.push(made), made.element);

const SECTIONS = [
  ...(DATA.forgetting.names.length ? [["forgetting", "Target against retention", () => [DATA.forgetting.names.map((name) => chart(againstRetention(name))), tabled(forgetting())]]] : []),
  ["claims", "Claims and verdicts", () => DATA.claims.length ? tabled(claims()) : h("p", {}, "No claim of the paper can be judged by these runs: they lack the methods that it speaks of.")],
  ["pareto", "Score against parameters", () => chart(pareto)],
  ["tasks", "Task by task", () => tabled(perTask())],
  ["rank", "Score against rank", () => chart(againstRank)],
  ["order", "Ranks over tasks", () => chart(rankOverTasks)],
  ["seeds", "Seeds", () => chart(seeds)],
  ["learning", "Learning curves", () => [TASKS.length > 1 ? h("p", { class: "note" }, `Of one task: ${TASKS[0]} unless one is chosen above.`) : "", chart(learning("loss")), chart(learning("score"))]],
  ["cost", "Time and memory", () => [chart(cost("seconds_per_step", "seconds a step")), chart(cost("peak_memory_mb", "peak memory, GB", 1 / 1024))]],
  ["floor", "Distance from the floor", () => DATA.floor ? chart(floor) : h("p", {}, "These results do not say how far a step is from the least it can cost. ", h("code", {}, "subspace bench step --output floor.json"), " measures it, and ", h("code", {}, "subspace report … --floor floor.json"), " shows it here.")],
  ["spectra", "Spectra and subspaces", () => DATA.pictures.length ? DATA.pictures.map((p) => h("figure", {}, h("img", { src: p.src, alt: p.alt, loading: "lazy" }), h("figcaption", {}, p.title))) : h("p", {}, "No run was looked into; ", h("code", {}, "subspace report … --analyze 2"), " adds the spectra and subspaces of two.")],
  ...(DATA.advice ? [["advice", "Said before training", () => advised()]] : []),
  ...(DATA.estimate ? [["estimate", "What a step was said to need", () => estimated()]] : []),
  ["runs", "All runs", () => tabled(allRuns())],
  ...(DATA.failed.length ? [["failed", "Failed runs", () => failures()]] : []),
];

function failures() {
  const table = sortable({ caption: "Runs that ended with an error", columns: [
    { name: "Run", head: true, value: (row) => row.run }, { name: "Error", value: (row) => row.error },
  ] });
  table.fill(DATA.failed);
  return table.element;
}

function advised() {
  const table = sortable({ caption: "The short list, the first first", columns: [
    { name: "Method", head: true, value: (row) => row.method }, { name: "Trained", number: true, value: (row) => row.parameters, show: (row) => row.parameters.toLocaleString("en") },
    { name: "Why", wordy: true, value: (row) => row.why },
  ] });
  table.fill(DATA.advice.short);
  return [...DATA.advice.words.map((said) => h("p", {}, said)), table.element];
}

function estimated() {
  const { rows, trained, flops } = DATA.estimate;
  const table = sortable({ caption: `${trained.toLocaleString("en")} trained parameters, ${number(flops / 1e12)} 10^12 FLOPs a step`, columns: [
    { name: "What", head: true, value: (row) => row.what }, { name: "GB", number: true, value: (row) => row.bytes / 1e9, show: (row) => number(row.bytes / 1e9) },
  ] });
  table.fill(rows);
  return table.element;
}

function build() {
  const main = document.getElementById("main"), contents = document.getElementById("contents");
  contents.append(h("a", { href: "#words" }, "In words"));
  for (const [id, heading, make] of SECTIONS) {
    main.append(h("section", { id, "aria-labelledby": `${id}-h` }, h("h2", { id: `${id}-h` }, heading), make()));
    contents.append(h("a", { href: `#${id}` }, heading));
  }
  contents.addEventListener("click", (event) => { // the part after # holds what is chosen, so links move the focus
    if (!event.target.hash) return;
    event.preventDefault();
    const target = document.querySelector(event.target.hash);
    target.tabIndex = -1;
    target.focus({ preventScroll: true });
    target.scrollIntoView();
  });
  document.getElementById("about").textContent = `${plural(RUNS.length, "run")}. Made ${DATA.made}.`;
}

function buildFilter() {
  const form = document.getElementById("filter");
  const offer = (name, options) => {
    form[name].append(...options.map(([value, told]) => h("option", { value }, told)));
    form[name].parentElement.hidden = options.length < 2;
  };
  offer("model", MODELS.map((model) => [model, model]));
  offer("task", [...(TASKS.length > 1 ? [[ALL, `mean over ${TASKS.length} tasks`]] : []), ...TASKS.map((task) => [task, task])]);
  offer("kind", new Set(RUNS.map((run) => run.kind)).size > 1 ? [["final", "final"], ["tuning", "tuning"], ["all", "all"]] : [["final", "final"]]);
  const show = () => Object.keys(chosen).forEach((key) => (form[key].value = chosen[key]));
  const start = { model: MODELS[0], task: TASKS.length > 1 ? ALL : TASKS[0], kind: "final", find: "" };
  let waiting;
  form.addEventListener("input", () => {
    for (const key of Object.keys(chosen)) chosen[key] = form[key].value;
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 120);
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(chosen, start);
    show();
    refresh();
  });
  show();
}

/** Everything follows the choice. */
function refresh() {
  const other = Object.entries(chosen).filter(([key, value]) => value !== "" && !(key === "kind" && value === "final"));
  history.replaceState(null, "", `#${new URLSearchParams(other)}`);
  TABLES.forEach((table) => table.fill());
  redrawCharts();
  const count = chosenRuns().length;
  document.getElementById("matching").textContent = `${plural(count, "final run")} shown`;
}

const drawer = document.getElementById("drawer");

/** The facts, command, config and learning curve of a run. */
async function openDrawer(run) {
  document.getElementById("drawer-title").textContent = `${run.label}, ${run.task}, seed ${run.seed}`;
  const facts = Object.keys(DATA.runs).filter((name) => known(run[name]))
    .map((name) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, typeof run[name] === "number" ? number(run[name], 6) : run[name])]);
  const body = document.getElementById("drawer-body");
  body.replaceChildren(h("dl", {}, facts));
  drawer.showModal();
  const { configs } = await details();
  const parts = configs.map((key) => [key, key.codes[run.index] ?? -1]).filter(([, code]) => code >= 0);
  const config = parts.map(([key, code]) => key.texts[code]).join("");
  const words = parts.map(([key, code]) => key.words[code]).filter(Boolean);
  body.append(...(config
    ? [h("h3", {}, "Command"), copied(`subspace train ${words.join(" ")}`, "command"), h("h3", {}, "config.yaml"), copied(config, "config")]
    : [h("p", {}, "This run's config.yaml was not there when the page was made.")]));
}

function copied(text, name) {
  const pre = h("pre", { tabindex: 0, "aria-label": name }, text);
  const button = h("button", { type: "button" }, `Copy ${name}`);
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(pre); // for browsers that do not let a page write the clipboard
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
  return h("div", { class: "copied" }, pre, button);
}

document.getElementById("drawer-close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());

/** Ask the server that made this page whether there is a newer one; not while someone reads a run. */
async function watch(version) {
  try {
    const now = await (await fetch("version", { cache: "no-store" })).text();
    if (now !== version && !drawer.open) return location.reload();
  } catch {
    // the server has ended: what is here stays
  }
  setTimeout(watch, 3000, version);
}

build();
buildFilter();
refresh();
document.documentElement.dataset.ready = Math.round(performance.now());
(window.requestIdleCallback ?? setTimeout)(plotly); // so that it is there when a chart comes into sight
const version = document.querySelector("meta[name=report-version]").content;
if (version) watch(version);
