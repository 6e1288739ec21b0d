// What the page shows, section by section: (id, heading, what stands in it).

const COLUMNS = { label: { name: "Method", value: (row) => row.label, head: true } };
const withInterval = (cell) => cell && known(cell.mean)
  ? h("span", {}, percent(cell.mean), h("small", {}, range(cell.low, cell.high))) : "–";
const byMean = (a, b) => b.mean - a.mean;
const nothing = { empty: "Nothing that the filter lets through." };
const missingMean = { empty: "No method was run on every task of this model yet: choose a task." };

function paretoFront(cells) {
  let best = -Infinity;
  return [...cells].sort((a, b) => a.permille - b.permille || byMean(a, b)).filter((c) => c.mean > best && ((best = c.mean), true));
}

const whole = (cell) => Boolean(cell?.complete); // a mean over some tasks only is no match for one over all
const complete = () => chosenCells().filter(whole);

function pareto() {
  const cells = complete().sort((a, b) => a.permille - b.permille);
  if (!cells.length) return chosen.task ? nothing : missingMean;
  const front = paretoFront(cells);
  const { axis, note } = framed(cells.map((c) => [c.label, 100 * c.mean]));
  const traces = [...groupBy(cells, (cell) => cell.category)].map(([category, rows]) => ({
    name: category, type: "scatter", mode: "markers", x: rows.map((c) => c.permille), y: rows.map((c) => 100 * c.mean),
    error_y: { type: "data", symmetric: false, thickness: 1, width: 0, array: rows.map((c) => 100 * ((c.high ?? c.mean) - c.mean)),
      arrayminus: rows.map((c) => 100 * (c.mean - (c.low ?? c.mean))) },
    marker: { color: colourOf(category), symbol: SYMBOLS[category], size: 9 },
    hovertemplate: "%{text}<extra></extra>",
    text: rows.map((c) => `<b>${plain(c.label)}</b><br>${percent(c.mean)} (${range(c.low, c.high)})<br>${number(c.permille)} ‰, ${plural(c.n, "run")}`),
  }));
  traces.unshift({
    name: "Pareto front", type: "scatter", mode: "lines+text", line: { shape: "hv", dash: "dot", width: 1.5, color: shade("#6b7280") },
    x: front.map((c) => c.permille), y: front.map((c) => 100 * c.mean), text: front.map((c) => (narrow() ? "" : plain(c.label))),
    textposition: "top left", textfont: { size: 11 }, hoverinfo: "skip", cliponaxis: false,
  });
  return {
    traces, note, height: 460, says: `Score against per mille of parameters, ${chosen.model}, ${taskTold()}`,
    layout: { xaxis: { type: "log", title: { text: "trained parameters, per mille of the model" }, dtick: 1 }, yaxis: { ...axis, title: { text: `score, ${plain(taskTold())}` } } },
    head: ["Method", "Category", "Per mille", "Score", "Low", "High", "On the front"],
    rows: cells.map((c) => [c.label, c.category, c.permille, 100 * c.mean, 100 * c.low, 100 * c.high, front.includes(c) ? "yes" : "no"]),
  };
}

function againstRank() {
  const lines = [...groupBy(complete().filter((cell) => known(cell.r)), (cell) => cell.method)]
    .map(([method, cells]) => [method, cells.sort((a, b) => a.r - b.r)]);
  if (!lines.length) return { empty: "No method with a rank among these runs." };
  const ranks = [...new Set(lines.flatMap(([, cells]) => cells.map((c) => c.r)))].sort((a, b) => a - b);
  return {
    traces: lines.map(([method, cells], i) => ({
      name: plain(method), type: "scatter", mode: "lines+markers", x: cells.map((c) => c.r), y: cells.map((c) => 100 * c.mean),
      line: { width: 1.5, color: seriesLook(i).color }, marker: { ...seriesLook(i), size: 8 }, hovertemplate: "%{text}<extra></extra>",
      text: cells.map((c) => `<b>${plain(c.label)}</b><br>${percent(c.mean)} (${range(c.low, c.high)})`),
    })),
    says: `Score against the rank r, ${chosen.model}, ${taskTold()}`,
    layout: { xaxis: { type: "log", tickvals: ranks, ticktext: ranks.map(String), title: { text: "rank r" } }, yaxis: { title: { text: `score, ${plain(taskTold())}` } } },
    head: ["Method", ...ranks.map((r) => `r = ${r}`)],
    rows: lines.map(([method, cells]) => [method, ...ranks.map((r) => 100 * (cells.find((c) => c.r === r)?.mean ?? NaN))]),
  };
}

function rankOverTasks() {
  const told = DATA.ranks[chosen.model];
  const allowed = new Set(chosenCells(ALL).map((cell) => cell.label));
  const order = told.names.map((name, i) => [name, told.mean_ranks[i]]).filter(([name, rank]) => allowed.has(name) && known(rank));
  if (!order.length) return { empty: `${told.told}.` };
  const categories = new Map(CELLS.map((cell) => [cell.label, cell.category]));
  const places = new Map(order.map(([name], i) => [name, i]));
  const bars = told.groups.map(([first, last]) => [told.names[first], told.names[last]]).filter(([a, b]) => places.has(a) && places.has(b));
  return {
    traces: [
      ...bars.map(([a, b]) => ({ type: "scatter", mode: "lines", x: [places.get(a), places.get(b)].map((i) => order[i][1]), y: [a, a].map(plain),
        line: { width: 5, color: shade("#9ca3af", 0) }, opacity: 0.5, hoverinfo: "skip", showlegend: false })),
      { type: "scatter", mode: "markers", showlegend: false, x: order.map(([, rank]) => rank), y: order.map(([name]) => plain(name)),
        marker: { size: 9, color: order.map(([name]) => colourOf(categories.get(name))), symbol: order.map(([name]) => SYMBOLS[categories.get(name)]) },
        hovertemplate: "%{y}: mean rank %{x:.2f}<extra></extra>" },
    ],
    height: 90 + 20 * order.length, says: `Mean rank over the tasks of ${chosen.model}, 1 is best`, note: `${told.told}: a grey bar joins the first and the last of those.`,
    layout: { yaxis: names(order.map(([name]) => name)), xaxis: { title: { text: "mean rank, 1 is best" } } },
    head: ["Method", "Mean rank"], rows: order,
  };
}

function seeds() {
  const runs = chosenRuns();
  const points = [...groupBy(runs, (run) => run.label)].flatMap(([label, own]) =>
    chosen.task ? own.map((run) => ({ label, category: run.category, score: run.score, seed: run.seed, run }))
      : [...groupBy(own, (run) => run.seed)].filter(([, of]) => of.length === tasksOfModel()).map(([seed, of]) =>
        ({ label, category: of[0].category, score: mean(of.map((run) => run.score)), seed })));
  if (!points.length) return chosen.task ? nothing : missingMean;
  const { axis, note } = framed(points.map((p) => [p.label, 100 * p.score]));
  const groups = [...groupBy(points, (p) => p.label)].sort(([, a], [, b]) => mean(b.map((p) => p.score)) - mean(a.map((p) => p.score)));
  return {
    traces: [...groupBy(points, (p) => p.category)].map(([category, own]) => ({
      name: category, type: "scatter", mode: "markers", x: own.map((p) => 100 * p.score), y: own.map((p) => plain(p.label)), customdata: own.map((p) => p.run?.index ?? -1),
      marker: { size: 8, opacity: 0.65, color: colourOf(category), symbol: SYMBOLS[category] },
      text: own.map((p) => `<b>${plain(p.label)}</b><br>seed ${p.seed}: ${percent(p.score)}`), hovertemplate: "%{text}<extra></extra>",
    })),
    note, height: 110 + 20 * groups.length, says: `Score of each seed, ${chosen.model}, ${taskTold()}`,
    layout: { yaxis: names(groups.map(([label]) => label)), xaxis: { ...axis, title: { text: `score, ${plain(taskTold())}` } } },
    head: ["Method", "Seed", "Score"], rows: groups.flatMap(([label, own]) => own.map((p) => [label, p.seed, 100 * p.score])),
    onclick: (point) => point.customdata >= 0 && openDrawer(RUNS[point.customdata]),
  };
}
const tasksOfModel = () => new Set(RUNS.filter((run) => isFinal(run) && run.model === chosen.model).map((run) => run.task)).size;

function learning(kind) {
  return async () => {
    const { curves } = await details();
    const task = chosen.task || TASKS[0];
    const runs = RUNS.filter((run) => isFinal(run) && ofModel(run) && run.task === task && curves[kind][run.index]);
    const groups = [...groupBy(runs, (run) => run.label)].map(([label, own]) => [label, meanCurve(own.map((run) => curveOf(curves, kind, run)))]);
    if (!groups.length) return { empty: `No ${kind === "loss" ? "loss" : "score"} was logged in these runs' metrics.jsonl.` };
    return {
      traces: groups.map(([label, points], i) => ({
        name: plain(label), type: "scatter", mode: points.length > 1 ? "lines" : "markers", x: points.map(([step]) => step), y: points.map(([, value]) => value),
        line: { width: 1.5, color: seriesLook(i).color, dash: ["solid", "dash", "dot", "dashdot"][Math.floor(i / 8) % 4] }, marker: seriesLook(i),
        hovertemplate: "%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>",
      })),
      height: groups.length > 12 ? 520 : 380, says: `${kind === "loss" ? "Training loss" : "Score"} over steps, mean over seeds, ${chosen.model}, ${task}`,
      layout: { xaxis: { title: { text: "step" } }, yaxis: { title: { text: `${kind === "loss" ? "training loss" : "score"}, ${plain(task)}` } }, showlegend: groups.length <= 24,
        ...(narrow() ? {} : { legend: { orientation: "v", x: 1.01, y: 1 } }) },
      head: ["Method", "Steps", "First", "Last"], rows: groups.map(([label, points]) => [label, points.at(-1)[0], points[0][1], points.at(-1)[1]]),
    };
  };
}
const narrow = () => innerWidth < 700;

/** (step, value) of a run's curve. */
function curveOf(curves, kind, run) {
  const [at, values] = curves[kind][run.index];
  return curves.steps[at].map((step, i) => [step, values[i]]);
}

/** Means over seeds at the steps that they share. */
function meanCurve(all) {
  const at = groupBy(all.flat(), ([step]) => step);
  return [...at].filter(([, points]) => points.length === all.length).map(([step, points]) => [step, mean(points.map(([, v]) => v))]).sort(([a], [b]) => a - b);
}

function cost(column, title, scale = 1) {
  return () => {
    const rows = [...groupBy(chosenRuns(), (run) => run.label)].map(([label, own]) => ({ label, category: own[0].category, value: median(own.map((run) => run[column])) }))
      .filter((row) => known(row.value)).map((row) => ({ ...row, value: row.value * scale })).sort((a, b) => a.value - b.value);
    if (!rows.length) return nothing;
    return dots(rows, title, `Median ${title}, ${chosen.model}, ${chosen.task || "all tasks"}`);
  };
}

function dots(rows, title, says, range = {}) {
  return {
    traces: [...groupBy(rows, (row) => row.category)].map(([category, own]) => ({
      name: category, type: "scatter", mode: "markers", x: own.map((row) => row.value), y: own.map((row) => plain(row.label)),
      marker: { size: 9, color: colourOf(category), symbol: SYMBOLS[category] }, hovertemplate: "%{y}: %{x:.4g}<extra></extra>",
      ...(own.some((row) => known(row.low)) ? { error_x: { type: "data", symmetric: false, thickness: 1, width: 0, array: own.map((row) => row.high - row.value), arrayminus: own.map((row) => row.value - row.low) } } : {}),
    })),
    height: 110 + 20 * rows.length, says,
    layout: { yaxis: names(rows.map((row) => row.label)), xaxis: { title: { text: title }, rangemode: "tozero", ...range } },
    head: ["Method", title], rows: rows.map((row) => [row.label, row.value]),
  };
}

function floor() {
  const category = new Map(RUNS.map((run) => [run.method, run.category]));
  const rows = DATA.floor.lines.filter((line) => known(line.time_ratio)).map((line) => ({ label: line.name, category: category.get(line.name) ?? "not in this study", value: line.time_ratio, low: line.time_low, high: line.time_high }))
    .filter(matches).sort((a, b) => a.value - b.value);
  return rows.length ? dots(rows, "time of a step, in times of the floor's", `Time of a training step beside the floor, on ${DATA.floor.device}`, { rangemode: "normal" }) : nothing;
}

function perTask() {
  const tasks = TASKS.length > 1 ? [ALL, ...TASKS] : TASKS;
  const cell = (row, task) => row.cells.get(task);
  const table = sortable({
    caption: "Score in % with its 95 % interval", file: "tasks.csv", sort: 3, down: true,
    columns: [
      COLUMNS.label, { name: "Category", value: (row) => row.category },
      { name: "‰", number: true, value: (row) => row.permille, show: (row) => number(row.permille), csv: [["permille", (row) => row.permille]] },
      ...tasks.map((task) => ({
        name: task || "Mean", number: true, value: (row) => (whole(cell(row, task)) ? cell(row, task).mean : null), show: (row) => partly(cell(row, task)),
        csv: ["mean", "low", "high", "n"].map((part) => [`${task || "mean over tasks"} ${part}`, (row) => cell(row, task)?.[part]]),
      })),
      ...(CELLS.some((c) => known(c.share)) ? [{ name: "% of full", number: true, value: (row) => cell(row, ALL)?.share,
        show: (row) => { const c = cell(row, ALL); return c && known(c.share) ? h("span", {}, percent(c.share), h("small", {}, range(c.share_low, c.share_high))) : "–"; } }] : []),
    ],
  });
  const partly = (c) => !c || whole(c) ? withInterval(c) : h("span", { title: "not run on every task" }, `(${percent(c.mean)})`, h("small", {}, `${c.tasks} of ${tasksOfModel()} tasks`));
  const fill = () => table.fill([...groupBy(CELLS.filter(ofModel), (c) => c.label)].map(([label, cells]) =>
    ({ label, category: cells[0].category, permille: cells[0].permille, cells: new Map(cells.map((c) => [c.task, c])) })));
  return { element: table.element, fill };
}

function allRuns() {
  const table = sortable({
    caption: "Runs; a name opens its config and command", file: "runs.csv", page: 25,
    columns: [
      { ...COLUMNS.label, show: (run) => h("button", { type: "button", class: "run", "aria-haspopup": "dialog", onclick: () => openDrawer(run) }, run.label) },
      ...(MODELS.length > 1 ? [{ name: "Model", value: (run) => run.model }] : []),
      { name: "Task", value: (run) => run.task }, { name: "Seed", number: true, value: (run) => run.seed },
      { name: "Score", number: true, value: (run) => run.score, show: (run) => (100 * run.score).toFixed(2) },
      { name: "Learning rate", number: true, value: (run) => run.learning_rate, show: (run) => number(run.learning_rate) },
      { name: "‰", number: true, value: (run) => run.permille, show: (run) => number(run.permille) },
      { name: "s/step", number: true, value: (run) => run.seconds_per_step, show: (run) => number(run.seconds_per_step) },
      { name: "MB", number: true, value: (run) => run.peak_memory_mb, show: (run) => number(run.peak_memory_mb, 4),
        csv: Object.keys(DATA.runs).filter((name) => !["label", "model", "task", "seed", "score", "learning_rate", "permille", "seconds_per_step"].includes(name)).map((name) => [name, (run) => run[name]]) },
    ],
  });
  const fill = () => table.fill(RUNS.filter((run) => ofModel(run) && (!chosen.task || run.task === chosen.task) && (chosen.kind === "all" || run.kind === chosen.kind)));
  return { element: table.element, fill };
}

const VERDICTS = { "holds": "✓", "does not hold": "✕", "cannot tell": "?" };
const verdict = (c) => h("strong", { class: `verdict ${c.verdict.replaceAll(" ", "-")}` }, `${VERDICTS[c.verdict] ?? "?"} ${c.verdict}`);

function claims() {
  const parts = (c) => c.parts.length < 2 ? "" : h("details", {}, h("summary", {}, "One by one"), h("ul", {}, c.parts.map((part) =>
    h("li", {}, `${part.about}: `, verdict(part), ` ${part.why}`))));
  const table = sortable({
    caption: "Claims of the paper, and what these runs say", file: "claims.csv",
    columns: [
      { name: "Claim", head: true, value: (c) => c.claim },
      { name: "Verdict", value: (c) => c.verdict, show: verdict },
      { name: "These runs", wordy: true, value: (c) => c.effect, show: (c) => h("span", {}, c.text, h("small", {}, c.why), parts(c)),
        csv: ["text", "effect", "low", "high", "why"].map((part) => [part, (c) => c[part]]) },
      { name: "The paper's", wordy: true, value: (c) => c.paper }, { name: "Runs", number: true, value: (c) => c.runs },
    ],
  });
  table.fill(DATA.claims);
  return { element: table.element, fill() {} };
}
