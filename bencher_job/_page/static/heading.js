// What stands above a table, groups or a plot: the function, its figures, and which of the three is shown.

import { byId, el } from "./dom.js";
import * as say from "./format.js";
import { hitRate } from "./functions.js";
import * as selection from "./selection.js";
import * as state from "./state.js";

function figure(label, value, title, kind = "") {
  return el("div", { class: "figure", title }, el("dt", {}, label), el("dd", { class: kind }, value));
}

const VIEWS = [["table", "Table"], ["groups", "Groups"], ["plot", "Plot"], ["failed", "Failed"]];

// Which version of the code is shown: the one that was used last, another, or all.
function versions(each) {
  const known = each.versions.filter(({ label }) => label);
  if (known.length < 2) return null;
  const isShown = ({ label, is_latest: isLatest }) => state.now.code === "all" || (state.now.code ? label === state.now.code : isLatest);
  const others = each.versions.filter((version) => !isShown(version));
  const named = ({ label, entries, since, commit }) => [label, say.counted(entries, "entry", "entries"), `since ${say.moment(since).slice(0, 16)}`,
    ...(commit ? [`commit ${commit.slice(0, 7)}`] : [])].join(", ");
  const option = (value, text) => el("option", { value, selected: value === state.now.code }, text);
  const missing = say.counted(others.reduce((sum, { entries }) => sum + entries, 0), "entry", "entries");
  return el("div", { class: "versions" },
    el("label", { class: "choice" }, "Code", el("select", {
      id: "choose-code", onchange: ({ target }) => {
        selection.clear();
        state.change({ code: target.value, first: "0", key: "" });
      },
    }, option("", `latest: ${named(known[0])}`), known.slice(1).map((version) => option(version.label, named(version))), option("all", "all versions"))),
    others.length ? el("span", { class: "muted", id: "hidden-versions" }, `${missing} of ${say.counted(others.length, "other version")} not shown`) : null);
}

function tab(id, label, count) {
  return el("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "view", "aria-selected": String(state.now.view === id),
    tabindex: state.now.view === id || (state.now.view === "compare" && id === "table") ? "0" : "-1", onclick: () => state.change({ view: id, key: "" }),
  }, label, count ? el("span", { class: "badge is-bad" }, say.count(count)) : null);
}

function moved(event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const tabs = [...event.currentTarget.children];
  const at = tabs.findIndex((each) => each.id === `tab-${state.now.view}`) + (event.key === "ArrowLeft" ? -1 : 1);
  tabs[(at + tabs.length) % tabs.length].click();
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
    el("div", { class: "title" }, el("h1", {}, name), el("span", { class: "muted" }, module)), figures, versions(each),
    el("div", { class: "tabs", role: "tablist", "aria-label": "Views", onkeydown: moved }, VIEWS.filter(([id]) => id !== "failed" || each.failed.all || state.now.view === id).map(([id, label]) => tab(id, label, id === "failed" && each.failed[state.now.code]))));
  const focused = byId("heading")?.contains(document.activeElement) ? document.activeElement.id : null;
  if (byId("heading")) byId("heading").replaceWith(head);
  else main.replaceChildren(head, el("section", { class: "view", id: "view", role: "tabpanel", "aria-label": "Entries" }));
  byId("view").setAttribute("aria-labelledby", `tab-${state.now.view}`);
  if (focused) byId(focused)?.focus();
}
