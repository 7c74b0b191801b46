// Knows the table of a function's entries: the server sorts, filters and cuts pages, and this shows one of them.

import * as api from "./api.js";
import { byId, el, icon } from "./dom.js";
import * as say from "./format.js";
import * as pages from "./pages.js";
import * as selection from "./selection.js";
import * as state from "./state.js";
import * as tools from "./tools.js";

const GROUPS = { argument: "Arguments", result: "Result", record: "Run" };
const HINT = "A part of a text, a number, >0.5, 0.1..1, =exact, !not or none";
const HINTS = {
  created: "A day as 2026-01-31, >2026-01-31 18:00, or an age: 2h",
  seconds: ">5, <2min, 1..10", size: ">1MB, <10kB",
};

let built = "";
let shown = { keys: new Set(), where: "" };
let columns = [];

export function forget() {
  selection.clear();
  built = "";
  shown = { keys: new Set(), where: "" };
}

export async function show(place) {
  if (!place.querySelector("table")) built = "";
  place.classList.add("is-loading");
  try {
    const answer = await api.get("rows", { ...state.query(), first: state.now.first, size: state.now.size });
    columns = answer.columns;
    const signature = JSON.stringify([state.now.store, state.now.function, columns.map((each) => each.id)]);
    if (signature !== built) build(place, signature);
    head();
    body(answer);
    selection.see(answer.rows.map((row) => row.key), answer.total);
    byId("tools").replaceWith(tools.bar(answer.total, () => selection.bar()));
    byId("pages").replaceChildren(...pages.bar(answer.first, answer.rows.length, answer.total));
    tools.problem("");
  } catch (error) {
    if (error.status !== 422) throw error;
    tools.problem(error.message);
  } finally {
    place.classList.remove("is-loading");
  }
}

function build(place, signature) {
  built = signature;
  const spans = Object.entries(GROUPS).map(([group, label]) => [label, columns.filter((each) => each.group === group).length, group]);
  place.replaceChildren(
    tools.search(),
    el("div", { id: "tools" }),
    el("div", { class: "scroll", id: "scroll", tabindex: "0", role: "region", "aria-label": "Table of entries" },
      el("table", { class: "rows" },
        el("thead", {},
          el("tr", { class: "groups" }, el("td", {}), spans.filter(([, span]) => span)
            .map(([label, span, group]) => el("th", { colspan: span, scope: "colgroup", class: `of-${group}` }, label))),
          el("tr", { id: "names" }),
          el("tr", { class: "filters" }, el("td", {}), columns.map(filter))),
        el("tbody", { id: "rows", onkeydown: moved }))),
    el("nav", { class: "pages", id: "pages", "aria-label": "Pages" }));
}

let typing = 0;

function filter(column, place) {
  return el("td", { class: cellClass(column, place) }, el("input", {
    type: "text", value: state.filters()[column.id] ?? "", "aria-label": `Filter ${column.label}`, spellcheck: "false",
    autocomplete: "off", placeholder: "filter", title: HINTS[column.id] ?? HINT, "data-column": column.id,
    oninput: () => { clearTimeout(typing); typing = setTimeout(apply, 250); },
    onkeydown: (event) => { if (event.key === "Enter") apply(); },
  }));
}

// All that was typed, so that who is quick in the next column loses nothing of the one before.
function apply() {
  clearTimeout(typing);
  const inputs = [...document.querySelectorAll(".filters input")].filter((input) => input.value.trim());
  const filters = JSON.stringify(Object.fromEntries(inputs.map((input) => [input.dataset.column, input.value])));
  if (filters === state.now.filters) return;
  selection.clear();
  state.change({ filters, first: "0" });
}

function cellClass(column, place) {
  const begins = place > 0 && columns[place - 1].group !== column.group;
  return `${column.kind === "number" ? "is-number" : ""} ${begins || place === 0 ? "begins" : ""}`;
}

// The names of the columns are the buttons that sort; the filters below them keep what somebody is typing.
function head() {
  const focused = document.activeElement?.dataset?.sort;
  const boxes = el("th", { class: "box" }, selection.pageBox());
  const names = columns.map((column, place) => {
    const way = state.now.sort === column.id ? "ascending" : state.now.sort === `-${column.id}` ? "descending" : "none";
    const first = ["created", "seconds", "size", "hits"].includes(column.id) || column.group === "result" ? "-" : "";
    const next = way === "none" ? first + column.id : way === "ascending" ? `-${column.id}` : column.id;
    return el("th", { scope: "col", "aria-sort": way, class: cellClass(column, place) },
      el("button", { type: "button", class: "sort", "data-sort": column.id, title: `Sort by ${column.label}`,
        onclick: () => state.change({ sort: next, first: "0" }) },
      column.label, way === "none" ? null : icon(way === "ascending" ? "up" : "down")));
  });
  byId("names").replaceChildren(boxes, ...names);
  if (focused) byId("names").querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
  for (const input of document.querySelectorAll(".filters input")) {
    const text = state.filters()[input.dataset.column] ?? "";
    if (document.activeElement !== input && input.value !== text) input.value = text;
    input.classList.toggle("is-set", Boolean(text));
  }
}

function body(answer) {
  const where = JSON.stringify([built, state.now.sort, state.now.filters, state.now.search, answer.first]);
  const isSame = where === shown.where;
  const focused = document.activeElement?.closest?.("tr[data-key]")?.dataset.key;
  const writers = columns.map((column, at) => (column.group === "result" ? say.aligned(answer.rows.map((row) => row.cells[at])) : say.number));
  const rows = answer.rows.map((row, place) => line(writers, row, place, isSame && !shown.keys.has(row.key)));
  const none = el("tr", {}, el("td", { colspan: columns.length + 1, class: "none-left" },
    "No entry passes. ", el("button", { type: "button", class: "link", onclick: tools.reset }, "Show all")));
  byId("rows").replaceChildren(...(rows.length ? rows : [none]));
  if (!isSame) byId("scroll").scrollTop = 0;
  if (focused) byId("rows").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  shown = { keys: new Set(answer.rows.map((row) => row.key)), where };
}

function line(writers, row, place, isNew) {
  const cells = row.cells.map((value, at) => {
    const column = columns[at];
    const { text, full, kind } = say.cell(value, column.id, writers[at]);
    const hasMedia = at === 0 && row.media;
    return el("td", { class: `${cellClass(column, at)} is-${kind}`, title: full || null },
      hasMedia ? el("span", { class: "has-media", title: "This job wrote files" }, icon("media")) : null, text);
  });
  return el("tr", {
    "data-key": row.key, tabindex: place === 0 ? "0" : "-1", class: isNew ? "is-new" : null,
    "aria-current": state.now.key === row.key ? "true" : null, "aria-selected": String(selection.has(row.key)),
    onclick: (event) => { if (!event.target.closest("input")) open(row.key); },
  }, el("td", { class: "box" }, selection.rowBox(row.key, place)), cells);
}

function open(key) {
  state.change({ key: state.now.key === key ? "" : key });
  for (const row of byId("rows").children) row.toggleAttribute("aria-current", row.dataset.key === state.now.key);
}

function moved(event) {
  const row = event.target.closest("tr[data-key]");
  if (!row || event.target.matches("input[type=text]")) return;
  const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
  if (next?.dataset.key) {
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    if (state.now.key) state.change({ key: next.dataset.key }, { replaces: true });
  } else if (event.key === "Enter" && event.target === row) {
    open(row.dataset.key);
  } else if (event.key === " " && event.target === row) {
    event.preventDefault();
    row.querySelector("input").click();
  }
}
