// What stands above a table, groups or a plot: the function, its figures, and which of the three is shown.

import { byId, el } from "./dom.js";
import * as say from "./format.js";
import { hitRate } from "./functions.js";
import * as state from "./state.js";

function figure(label, value, title, kind = "") {
  return el("div", { class: "figure", title }, el("dt", {}, label), el("dd", { class: kind }, value));
}

const VIEWS = [["table", "Table"], ["groups", "Groups"], ["plot", "Plot"]];

function tab(id, label) {
  return el("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "view", "aria-selected": String(state.now.view === id),
    tabindex: state.now.view === id || (state.now.view === "compare" && id === "table") ? "0" : "-1", onclick: () => state.change({ view: id, key: "" }),
  }, label);
}

function moved(event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const at = VIEWS.findIndex(([id]) => id === state.now.view) + (event.key === "ArrowLeft" ? -1 : 1);
  state.change({ view: VIEWS[(at + VIEWS.length) % VIEWS.length][0], key: "" });
  requestAnimationFrame(() => byId(`tab-${state.now.view}`)?.focus());
}

export function show(main, each) {
  const { module, name } = say.parts(each.name);
  const figures = el("dl", { class: "figures" },
    figure("Entries", say.count(each.entries), "Results that are kept"),
    figure("Size", say.size(each.size), `${say.count(each.size)} bytes on disk, files of jobs included`),
    figure("Hit rate", say.percent(hitRate(each)), `${say.count(each.hits)} of ${say.count(each.hits + each.entries)} jobs were answered from the cache`),
    figure("Time saved", say.duration(each.saved), "How long the function had run for the results of these hits", each.saved > 0 ? "saved" : ""),
    figure("Ran for", say.duration(each.seconds), "How long the function ran for the entries in all"));
  const head = el("header", { class: "heading", id: "heading" },
    el("div", { class: "title" }, el("h1", {}, name), el("span", { class: "muted" }, module)), figures,
    el("div", { class: "tabs", role: "tablist", "aria-label": "Views", onkeydown: moved }, VIEWS.map(([id, label]) => tab(id, label))));
  const focused = document.activeElement?.id?.startsWith("tab-") ? document.activeElement.id : null;
  if (byId("heading")) byId("heading").replaceWith(head);
  else main.replaceChildren(head, el("section", { class: "view", id: "view", role: "tabpanel", "aria-label": "Entries" }));
  byId("view").setAttribute("aria-labelledby", `tab-${state.now.view}`);
  if (focused) byId(focused)?.focus();
}
