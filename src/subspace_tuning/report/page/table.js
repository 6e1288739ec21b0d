// A table that is sorted by its headers, shown in pages and taken along as CSV; on a narrow screen each row is a card. Roles
// are said, because a browser forgets them where the style lays a table out in another way.

/**
 * columns: {name, value(row), show(row) -> text or node, number, head: true for the row's header, wordy, csv: [[name, value(row)]]
 * where the file holds more}. sort: the column that it is sorted by at first, if any; down: the greatest first.
 * Returns {element, fill(rows)}.
 */
function sortable({ caption, columns, file, page = 50, sort = null, down = false }) {
  let rows = [], at = 0, by = sort, descending = down;
  const head = h("tr", { role: "row" }), body = h("tbody", { role: "rowgroup" }), told = h("span", { role: "status" });
  const before = h("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const after = h("button", { type: "button", onclick: () => turn(1) }, "Next");
  const csv = h("button", { type: "button", onclick: save }, "Download CSV");
  const table = h("table", { role: "table" }, h("caption", {}, caption), h("thead", { role: "rowgroup" }, head), body);
  const scroll = h("div", { class: "scroll cards", tabindex: 0, role: "region", "aria-label": caption }, table);
  const element = h("div", { class: "table" }, scroll, h("div", { class: "below" }, before, told, after, csv));

  columns.forEach((column, index) => {
    const button = h("button", { type: "button", onclick: () => sortBy(index) }, column.name);
    head.append(h("th", { scope: "col", role: "columnheader", class: column.number && "number" }, button));
  });

  function sortBy(index) {
    descending = by === index ? !descending : Boolean(columns[index].number); // numbers: the greatest first
    by = index;
    at = 0;
    draw();
  }

  function turn(pages) {
    at += pages * page;
    draw();
    scroll.scrollTop = 0;
  }

  function sorted() {
    if (by === null) return rows;
    const { value } = columns[by];
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(b, "en", { numeric: true }));
    return rows
      .map((row) => [value(row), row])
      .sort(([a], [b]) => (known(a) && known(b) ? order(a, b) * (descending ? -1 : 1) : known(b) - known(a)))
      .map(([, row]) => row);
  }

  function draw() {
    [...head.children].forEach((cell, index) =>
      index === by ? cell.setAttribute("aria-sort", descending ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
    body.replaceChildren(...sorted().slice(at, at + page).map((row) => h("tr", { role: "row" }, columns.map((column) => {
      const shown = (column.show ?? column.value)(row);
      const child = shown instanceof Node ? shown : known(shown) ? String(shown) : "–";
      const look = { class: column.number ? "number" : column.wordy && "wordy", "data-name": column.name };
      return column.head ? h("th", { scope: "row", role: "rowheader", ...look }, child) : h("td", { role: "cell", ...look }, child);
    }))));
    const pages = rows.length > page;
    before.hidden = after.hidden = !pages;
    before.disabled = at === 0;
    after.disabled = at + page >= rows.length;
    const last = Math.min(at + page, rows.length);
    told.textContent = pages ? `${at + 1} to ${last} of ${rows.length.toLocaleString("en")}` : plural(rows.length, "row");
    csv.hidden = !file;
  }

  function save() {
    const wide = columns.flatMap((column) => column.csv ?? [[column.name, column.value]]);
    download(file, wide.map(([name]) => name), sorted().map((row) => wide.map(([, value]) => value(row))));
  }

  return { element, fill(given) { rows = given; at = 0; draw(); } };
}
