// Entries in groups, by the arguments that were swept: how many there are, and mean and spread of a value.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import * as say from "./format.js";
import { defaults, select } from "./plot.js";
import * as state from "./state.js";
import { local } from "./table.js";
import * as tools from "./tools.js";

const FIGURES = [["count", "count"], ["mean", "mean"], ["sd", "spread (sd)"], ["low", "min"], ["high", "max"]];

const groups = local();

export async function show(place) {
  const { columns } = await api.get("columns", { store: state.now.store, function: state.now.function });
  const first = defaults(columns);
  const there = (id) => columns.some((each) => each.id === id);
  const by = (state.now.by ? JSON.parse(state.now.by) : first.swept).filter(there);
  const value = there(state.now.y) ? state.now.y : first.y;
  if (!byId("groups")) place.replaceChildren(tools.search(), el("div", { id: "tools" }), el("div", { class: "choices", id: "choices" }), el("div", { id: "groups" }));
  let answer;
  try {
    answer = await api.get("groups", { ...state.query(), by: JSON.stringify(by), value });
    tools.problem("");
  } catch (error) {
    if (error.status !== 422) throw error;
    return tools.problem(error.message);
  }
  const choose = (id, on) => state.change({ by: JSON.stringify(columns.map((each) => each.id).filter((each) => (each === id ? on : by.includes(each)))) });
  if (!byId("choices").contains(document.activeElement)) {
    byId("choices").replaceChildren(
      select("y", "Mean of", columns, value),
      tools.menu("Group by", columns.filter((each) => each.group === "argument" || ["tag", "code"].includes(each.id)).map((column) => el("label", { class: "check" },
        el("input", { type: "checkbox", checked: by.includes(column.id), onchange: (event) => choose(column.id, event.target.checked) }), column.label))));
  }
  const label = (id) => columns.find((each) => each.id === id).label;
  const written = (cell) => el("span", {}, say.cell(cell.getValue(), cell.getField() === "count" ? "" : value).text);
  const data = answer.groups.map(({ cells, ...figures }) => ({ ...figures, ...Object.fromEntries(cells.map((cell, at) => [`by${at}`, cell])) }));
  const table = await groups(byId("groups"), JSON.stringify([state.now.store, state.now.function, by, value]), data, {
    initialSort: by.map((id, at) => ({ column: `by${at}`, dir: "asc" })).reverse(),
    columnDefaults: { sorter: (a, b) => say.compared(a, b), formatter: (cell) => el("span", {}, say.cell(cell.getValue()).text) },
    columns: [
      ...by.map((id, at) => ({ field: `by${at}`, title: label(id), titleFormatter: () => title(label(id)) })),
      ...FIGURES.map(([field, name]) => ({ field, title: name, cssClass: "is-number", formatter: written, titleFormatter: () => title(name) })),
    ],
  });
  const save = el("button", { type: "button", class: "plain", onclick: () => table.download("csv", `${say.parts(state.now.function).name}-groups.csv`) }, "CSV");
  byId("tools").replaceWith(tools.bar(answer.entries, () => null, () => [
    el("span", { class: "muted", id: "group-count" }, `${say.counted(answer.total, "group")} of ${say.counted(answer.entries, "entry", "entries")}`), save]));
}

const title = (text) => el("button", { type: "button", class: "sort" }, text);
