// The page's tables, as web_page.py wrote them: sorted by any column, filtered by text, task and mode.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// ---- Sorting

const words = new Intl.Collator("en", { numeric: true });

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}

function sort(table, head) {
  const now = head.getAttribute("aria-sort");
  const order = !now ? head.dataset.first : now === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = Array.from(table.tBodies[0].rows, (row) => [sortKey(row.cells[head.cellIndex]), row]);
  keyed.sort(([a], [b]) => compare(a, b, sign));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

// A cell of numbers has its unrounded value as data; a cell without a number has none.
function sortKey(cell) {
  if (cell.classList.contains("number")) return cell.dataset.value ? Number(cell.dataset.value) : null;
  return cell.textContent;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // no number is last in both orders
  return sign * (typeof a === "number" ? a - b : words.compare(a, b));
}

// ---- Filtering

function wantedWords() {
  return byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
}

const matches = (name, wanted) => wanted.every((word) => name.includes(word));

function filter() {
  const [wanted, task, mode] = [wantedWords(), byId("task").value, byId("mode").value];
  for (const part of document.querySelectorAll("[data-task], [data-mode], [data-name], .filtered")) {
    const { task: ownTask = task, mode: ownMode = mode, name } = part.dataset;
    const fits = (!task || ownTask === task) && (!mode || ownMode === mode);
    part.hidden = !fits || (name !== undefined && !matches(name, wanted));
  }
  document.querySelectorAll("table.overview").forEach(hideColumns);
  for (const part of document.querySelectorAll(".filtered")) hideIfEmpty(part, wanted.length > 0);
  count();
  document.dispatchEvent(new Event("filtered"));
}

function hideColumns(table) {
  for (const head of table.tHead.rows[0].cells) {
    for (const row of table.tBodies[0].rows) row.cells[head.cellIndex].hidden = head.hidden;
  }
}

// Parts without a row (in the overview: without a column) after filtering are hidden.
function hideIfEmpty(part, byText) {
  const columns = Array.from(part.querySelectorAll("th[data-task]"));
  if (columns.length) part.hidden ||= columns.every((head) => head.hidden);
  const inner = Array.from(part.querySelectorAll(byText ? "[data-name]" : ".filtered"));
  if (inner.length || byText) part.hidden ||= !inner.some((one) => !one.closest("[hidden]"));
}

function count() {
  const rows = Array.from(document.querySelectorAll("main tr[data-name]"));
  const shown = rows.filter((row) => !row.closest("[hidden]"));
  byId("count").textContent = `${shown.length} of ${rows.length} rows shown`;
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
byId("filters").hidden = false;
byId("filters").addEventListener("input", filter);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("reset", (event) => {
  event.preventDefault(); // the default would empty the fields only after this
  for (const field of ["text", "task", "mode"]) byId(field).value = "";
  filter();
});
filter();
