// The line above a table, groups or a plot: search, the filters that are set, and what can be done with a selection.

import { byId, el, icon } from "./dom.js";
import * as say from "./format.js";
import * as selection from "./selection.js";
import * as state from "./state.js";

let typing = 0;

export function search() {
  const input = el("input", {
    type: "search", id: "search", value: state.now.search, placeholder: "Search arguments, tags and keys", spellcheck: "false",
    "aria-label": "Search arguments, tags and keys",
    oninput: () => { clearTimeout(typing); typing = setTimeout(apply, 250); },
    onkeydown: (event) => { if (event.key === "Enter") { clearTimeout(typing); apply(); } },
  });
  function apply() {
    selection.clear();
    state.change({ search: input.value.trim(), first: "0" });
  }
  return el("div", { class: "search" }, icon("search"), input,
    el("p", { class: "problem", id: "filter-problem", role: "alert", hidden: true }));
}

export function problem(text) {
  const place = byId("filter-problem");
  if (!place) return;
  place.textContent = text;
  place.hidden = !text;
}

export function reset() {
  state.change({ search: "", filters: "{}", first: "0" });
  if (byId("search")) byId("search").value = "";
}

export function menu(title, items) {
  return el("details", { class: "menu" }, el("summary", { class: "plain" }, title), el("div", { class: "menu-items" }, items));
}

// Menus close where something else is clicked, or by Escape.
addEventListener("click", (event) => {
  for (const each of document.querySelectorAll(".menu[open]")) if (!each.contains(event.target)) each.open = false;
});
addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector(".menu[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); event.stopImmediatePropagation(); }
});

const labelOf = (id) => id.replace(/^(arguments|results)\./, "");

// The filters that are set, each with a button that drops it: above a plot they can't be seen otherwise.
function chips() {
  const set = Object.entries(state.filters());
  const drop = (id) => {
    const left = { ...state.filters() };
    delete left[id];
    state.change({ filters: JSON.stringify(left), first: "0" });
  };
  return set.map(([id, text]) => el("button", { type: "button", class: "chip", title: "Drop this filter", onclick: () => drop(id) },
    el("b", {}, labelOf(id)), ` ${text} `, icon("close")));
}

export function bar(total, actions = () => null, more = () => null) {
  const isFiltered = state.now.search || state.now.filters !== "{}";
  return el("div", { class: "tools", id: "tools" },
    selection.size() ? actions() : [
      el("span", { class: "muted", role: "status" }, isFiltered ? `${say.counted(total, "entry", "entries")} found` : ""),
      ...chips(),
      isFiltered ? el("button", { type: "button", class: "link", onclick: reset }, "Show all") : null,
      more(),
      state.now.view === "table" ? el("a", { class: "plain", href: `api/csv?${new URLSearchParams(state.query())}`, download: "" }, icon("save"), "CSV") : null,
    ].flat());
}
