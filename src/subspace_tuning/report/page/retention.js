// What runs gained beside what they forgot: the base is zero, and to the right of it became better.

const KEPT = "kept_";
const FORGETTING = rowsOf(DATA.forgetting.rows);
const spoken = (judgement) => judgement.replaceAll("_", " ");

/** Of each contender its seeds: {label, category, seed, score, kept}; over all tasks a seed's means, where it has them all. */
function trades(name) {
  const runs = chosenRuns().filter((run) => known(run[KEPT + name]));
  return [...groupBy(runs, (run) => `${run.label}\n${run.seed}`)].map(([, own]) => own)
    .filter((own) => chosen.task || own.length === tasksOfModel())
    .map((own) => ({ label: own[0].label, category: own[0].category, seed: own[0].seed, run: own.length === 1 ? own[0] : null,
      score: mean(own.map((run) => run.score)), kept: mean(own.map((run) => run[KEPT + name])) }));
}

/** The means that no other one is as good as in both and better in one, from the most kept to the least. */
function tradeFront(means) {
  let best = -Infinity;
  return [...means].sort((a, b) => b.kept - a.kept || b.score - a.score).filter((m) => m.score > best && ((best = m.score), true));
}

function againstRetention(name) {
  return () => {
    const points = trades(name);
    if (!points.length) return chosen.task ? nothing : missingMean;
    const means = [...groupBy(points, (p) => p.label)].map(([label, own]) =>
      ({ label, category: own[0].category, n: own.length, score: mean(own.map((p) => p.score)), kept: mean(own.map((p) => p.kept)) }));
    const front = tradeFront(means);
    const scatter = (rows, more) => ({ type: "scatter", x: rows.map((p) => p.kept), y: rows.map((p) => 100 * p.score), hovertemplate: "%{text}<extra></extra>", ...more });
    const told = (p, who) => `<b>${plain(p.label)}</b>, ${who}<br>${percent(p.score)}, kept ${number(p.kept)}`;
    const seedsOf = [...groupBy(points, (p) => p.category)].map(([category, own]) => scatter(own, {
      mode: "markers", showlegend: false, opacity: 0.4, marker: { color: colourOf(category), symbol: SYMBOLS[category], size: 6 },
      text: own.map((p) => told(p, `seed ${p.seed}`)), customdata: own.map((p) => p.run?.index ?? -1) }));
    const meansOf = [...groupBy(means, (m) => m.category)].map(([category, own]) => scatter(own, {
      name: category === "none" ? "the base" : category, mode: "markers+text", cliponaxis: false, textposition: "top center", textfont: { size: 11 },
      marker: { color: colourOf(category), symbol: SYMBOLS[category], size: ["full", "none"].includes(category) ? 14 : 10, line: { width: 1, color: shade("#6b7280") } },
      text: own.map((m) => (narrow() ? "" : plain(m.label))), hovertext: own.map((m) => told(m, `mean of ${plural(m.n, "seed")}`)), hovertemplate: "%{hovertext}<extra></extra>" }));
    const line = scatter(front, { name: "Pareto front", mode: "lines", line: { shape: "hv", dash: "dot", width: 1.5, color: shade("#6b7280") }, hoverinfo: "skip", hovertemplate: undefined });
    return {
      traces: [line, ...seedsOf, ...meansOf], height: 480, says: `Target against ${spoken(name)} kept, ${chosen.model}, ${taskTold()}`,
      note: "Right and up is better. The line at 0 is what the base was able to before training.",
      layout: { xaxis: { title: { text: `${plain(spoken(name))}: change from the base, right of 0 is better` } }, yaxis: { title: { text: `target, ${plain(taskTold())}` } },
        shapes: [{ type: "line", x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper", line: { width: 1, dash: "dash", color: shade("#6b7280") } }] },
      head: ["Method", "Category", "Seeds", "Target", "Kept", "On the front"],
      rows: means.map((m) => [m.label, m.category, m.n, 100 * m.score, m.kept, front.includes(m) ? "yes" : "no"]),
      onclick: (point) => point.customdata >= 0 && openDrawer(RUNS[point.customdata]),
    };
  };
}

const FATES = { gains: ["holds", "✓"], improves: ["holds", "✓"], loses: ["does-not-hold", "✕"], forgets: ["does-not-hold", "✕"] };
function fate(text) {
  const [look, mark] = FATES[text] ?? ["cannot-tell", "?"];
  return h("strong", { class: `verdict ${look}` }, `${mark} ${text}`);
}

/** Who gains and who forgets, over all tasks. */
function forgetting() {
  const measured = (name, write) => (row) => (known(row[name]) ? h("span", {}, write(row[name]), h("small", {}, range(row[`${name}_low`], row[`${name}_high`], write))) : "–");
  const points = (x) => (100 * x).toFixed(2), raw = (x) => x.toFixed(4);
  const csv = (name) => [name, `${name}_low`, `${name}_high`, `${name}_p`].map((part) => [part, (row) => row[part]]);
  const table = sortable({
    caption: "Gained and forgotten beside the base, over all tasks: paired by seed, 95 % intervals, p of sign flips after Holm", file: "retention.csv",
    columns: [
      COLUMNS.label, { name: "Retention of", value: (row) => spoken(row.judgement) },
      { name: "Gain, points", number: true, value: (row) => row.gain, show: measured("gain", points), csv: csv("gain") },
      { name: "Target", value: (row) => row.target, show: (row) => fate(row.target) },
      { name: "Kept", number: true, value: (row) => row.kept, show: measured("kept", raw), csv: csv("kept") },
      { name: "Retention", value: (row) => row.retention, show: (row) => fate(row.retention) },
      { name: "p (Holm)", number: true, value: (row) => row.kept_p, show: (row) => number(row.kept_p, 2) },
    ],
  });
  return { element: table.element, fill: () => table.fill(FORGETTING.filter(ofModel)) };
}
