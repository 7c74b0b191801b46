// The table of a function's entries: Tabulator shows one page, which the server has sorted, filtered and cut.

import * as api from "./api.js";
import { byId, el, icon } from "./dom.js";
import * as say from "./format.js";
import * as selection from "./selection.js";
import * as state from "./state.js";
import * as tools from "./tools.js";
import { TabulatorFull as Tabulator } from "./vendor/tabulator.js";

const GROUPS = { argument: "Arguments", result: "Result", record: "Run", constant: "Constant fields" };
const HINT = "A part of a text, a number, >0.5, 0.1..1, =exact, !not or none";
const HINTS = {
  created: "A day as 2026-01-31, >2026-01-31 18:00, or an age: 2h",
  seconds: ">5, <2min, 1..10", size: ">1MB, <10kB",
};
const DESCENDING = ["created", "seconds", "size", "hits"];

let table = null;
let built = "";
let last = null;
let seen = new Set();
let writers = {};

export function forget() {
  table?.destroy();
  table = null;
  seen = null;
  selection.clear();
}

const arrow = (column, dir) => (dir === "none" ? el("span") : icon(dir === "asc" ? "up" : "down"));
const hidden = () => new Set(JSON.parse(state.now.hidden || "[]"));
const order = () => ({ column: state.now.sort.replace(/^-/, ""), dir: state.now.sort.startsWith("-") ? "desc" : "asc" });
// What the table itself changes in the state; where something else has changed it, the table is made again.
const own = () => JSON.stringify(["store", "function", "sort", "filters", "size", "hidden"].map((name) => state.now[name]));

export async function show(place) {
  if (table && built === own() && place.contains(table.element)) {
    const wanted = Math.floor(state.now.first / state.now.size) + 1;
    return table.getPage() === wanted ? table.replaceData() : table.setPage(wanted);
  }
  const answer = await ask();
  if (!answer) return;
  build(place, answer);
  await begun(table);
}

// The filters of a table hear of keys only.
export const typed = ({ target }) => target.dispatchEvent(new KeyboardEvent("keyup"));

// Tabulator begins a little later, and takes nothing until then.
const begun = (made) => new Promise((resolve) => { made.on("tableBuilt", resolve); });

// Shows rows that are all here in a table, which is made again where its signature is another one.
export function local() {
  let made = null;
  let signature = "";
  return async (holder, wanted, data, options, filtered = () => {}) => {
    if (signature === wanted && holder.contains(made.element)) {
      await made.replaceData(data);
      return made;
    }
    made?.destroy();
    made = new Tabulator(el("div"), { data, height: "100%", layout: "fitDataFill", headerSortElement: arrow, ...options });
    made.on("dataFiltered", filtered);
    holder.replaceChildren(made.element);
    signature = wanted;
    await begun(made);
    return made;
  };
}

// Asks for a page of rows. A filter that is none leaves the last page where it is, and says why.
async function ask() {
  byId("view").classList.add("is-loading");
  try {
    const answer = await api.get("rows", { ...state.query(), first: state.now.first, size: state.now.size });
    tools.problem("");
    return answer;
  } catch (error) {
    if (error.status !== 422) throw error;
    if (!byId("filter-problem")) state.change({ filters: "{}", search: "" }, { replaces: true });
    tools.problem(error.message);
    byId("view").classList.remove("is-loading");
    return null;
  }
}

function build(place, answer) {
  table?.destroy();
  built = own();
  last = answer;
  seen = new Set(answer.rows.map((row) => row.key));
  const holder = el("div", { id: "rows", onkeydown: moved, onclick: clicked, oninput: typed });
  const none = el("p", { class: "none-left" }, "No entry passes. ", el("button", { type: "button", class: "link", onclick: tools.reset }, "Show all"));
  place.replaceChildren(tools.search(), el("div", { id: "tools" }), holder);
  let first = true;
  table = new Tabulator(holder, {
    index: "key", height: "100%", layout: "fitDataFill", renderVertical: "basic", nestedFieldSeparator: false, placeholder: none,
    pagination: true, paginationMode: "remote", sortMode: "remote", filterMode: "remote", headerSortTristate: false,
    columnHeaderSortMulti: false, paginationSizeSelector: [25, 50, 100, 200], paginationSize: Number(state.now.size),
    paginationInitialPage: Math.floor(answer.first / state.now.size) + 1, paginationButtonCount: 3,
    paginationCounter: (size, from, page, total) => el("span", { class: "range" },
      total ? `${say.count(from)}–${say.count(Math.min(from + size - 1, total))} of ${say.count(total)}` : "0 entries"),
    headerSortElement: arrow,
    initialSort: [order()],
    initialHeaderFilter: Object.entries(state.filters()).map(([field, value]) => ({ field, value })),
    columnDefaults: { maxInitialWidth: 260, headerSort: false },
    columns: [{
      field: "key", titleFormatter: () => selection.pageBox(), cssClass: "box", resizable: false, width: 40,
      formatter: (cell) => selection.rowBox(cell.getValue(), cell.getRow().getPosition() - 1),
    }, ...answer.columns.map((column, at) => definition(column, answer.columns[at - 1]))],
    rowFormatter: line,
    ajaxURL: "rows",
    ajaxRequestFunc: async (url, config, asked) => {
      try {
        if (first) first = false; // the page that was asked for before there was a table
        else await changed(asked);
      } catch (error) {
        dispatchEvent(new CustomEvent("bencher-job-failed", { detail: error }));
      }
      return page(last);
    },
  });
  table.on("renderComplete", () => after(last));
}

// Takes what was clicked or typed in the table into the state, and asks for the rows.
async function changed({ page: number, size, sort, filter }) {
  const filters = JSON.stringify(Object.fromEntries(filter.map(({ field, value }) => [field, value])));
  const is = { filters, size: String(size) };
  if (sort[0]) is.sort = (sort[0].dir === "desc" ? "-" : "") + sort[0].field;
  const other = Object.keys(is).some((name) => is[name] !== state.now[name]);
  if (other) seen = null;
  if (filters !== state.now.filters) selection.clear();
  state.change({ ...is, first: other ? "0" : String((number - 1) * size) }, { quiet: true });
  built = own();
  const answer = await ask();
  if (!answer) return;
  last = answer;
  adapt(answer.columns);
}

function page(answer) {
  const numbers = (column, at) => say.aligned(answer.rows.map((row) => row.cells[at]));
  writers = Object.fromEntries(answer.columns.map((column, at) => [column.id, column.group === "result" ? numbers(column, at) : say.number]));
  const data = answer.rows.map((row) => ({
    key: row.key, media: row.media, ...Object.fromEntries(answer.columns.map(({ id }, at) => [id, row.cells[at]])),
  }));
  return { data, last_row: answer.total, last_page: Math.max(1, Math.ceil(answer.total / state.now.size)) };
}

// Columns that come with later entries are added where they belong, so that what is typed in the others stays.
function adapt(columns) {
  const known = new Set(table.getColumns().map((each) => each.getField()));
  columns.forEach((column, at) => {
    if (!known.has(column.id)) table.addColumn(definition(column, columns[at - 1]), false, columns[at - 1]?.id ?? "key");
    known.delete(column.id);
  });
  for (const id of known) if (id !== "key") table.deleteColumn(id);
}

const actions = () => byId("tools").replaceWith(tools.bar(last.total, () => selection.bar(), chooser));
addEventListener("bencher-job-selected", actions);

function after(answer) {
  selection.see(answer.rows.map((row) => row.key), answer.total);
  if (!document.querySelector(".menu[open]")) actions();
  for (const input of document.querySelectorAll(".tabulator-header-filter input")) input.classList.toggle("is-set", Boolean(input.value));
  seen = new Set(answer.rows.map((row) => row.key));
  byId("view").classList.remove("is-loading");
}

function definition(column, before) {
  const begins = before?.group !== column.group;
  return {
    title: column.label, field: column.id, headerSort: true, visible: !hidden().has(column.id),
    cssClass: [column.kind === "number" ? "is-number" : "is-text", ...(begins ? ["begins"] : [])].join(" "),
    headerSortStartingDir: DESCENDING.includes(column.id) || column.group === "result" ? "desc" : "asc",
    titleFormatter: () => el("span", { class: "column-name" },
      el("span", { class: "group", "aria-hidden": begins ? null : "true" }, begins ? GROUPS[column.group] : "\u00a0"),
      el("button", { type: "button", class: "sort", "data-sort": column.id, title: `Sort by ${column.label}` }, column.label)),
    headerFilter: "input", headerFilterPlaceholder: "filter",
    headerFilterParams: { elementAttributes: {
      "aria-label": `Filter ${column.label}`, "data-column": column.id, title: HINTS[column.id] ?? HINT, spellcheck: "false", autocomplete: "off",
    } },
    formatter: (cell) => {
      const { text, full, kind } = say.cell(cell.getValue(), column.id, writers[column.id]);
      const place = cell.getElement();
      place.classList.add(`is-${kind}`);
      if (full) place.title = full;
      const hasMedia = begins && column.group === "argument" && cell.getData().media;
      return el("span", {}, hasMedia ? el("span", { class: "has-media", title: "This job wrote files" }, icon("media")) : null, text);
    },
  };
}

export function line(row) {
  const { key } = row.getData();
  const place = row.getElement();
  place.dataset.key = key;
  place.tabIndex = row.getPosition() === 1 ? 0 : -1;
  place.toggleAttribute("aria-current", state.now.key === key);
  place.setAttribute("aria-selected", String(selection.has(key)));
  place.classList.toggle("is-new", Boolean(seen) && !seen.has(key));
}

function chooser() {
  const away = hidden();
  const choose = (id, on) => {
    away[on ? "delete" : "add"](id);
    state.change({ hidden: away.size ? JSON.stringify([...away]) : "" }, { quiet: true });
    built = own();
    table[on ? "showColumn" : "hideColumn"](id);
  };
  return tools.menu("Columns", last.columns.map((column) => el("label", { class: "check" }, el("input", {
    type: "checkbox", checked: !away.has(column.id), onchange: (event) => choose(column.id, event.target.checked),
  }), column.label)));
}

export function mark() {
  for (const row of document.querySelectorAll(".tabulator [data-key]")) row.toggleAttribute("aria-current", row.dataset.key === state.now.key);
}

function clicked(event) {
  const row = event.target.closest("[data-key]");
  if (row && !event.target.closest("input")) state.change({ key: state.now.key === row.dataset.key ? "" : row.dataset.key });
}

function moved(event) {
  const row = event.target.closest("[data-key]");
  if (!row || event.target !== row) return;
  const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
  if (next?.dataset.key) {
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    if (state.now.key) state.change({ key: next.dataset.key }, { replaces: true });
  } else if (event.key === "Enter") {
    clicked(event);
  } else if (event.key === " ") {
    event.preventDefault();
    row.querySelector("input").click();
  }
}
