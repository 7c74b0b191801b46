// The list at the left: what runs now, and each function with its entries, size, hit rate and the time that it saved.

import { byId, el } from "./dom.js";
import * as say from "./format.js";
import * as selection from "./selection.js";
import * as state from "./state.js";

const MOST_RUNNING = 8;
let order = "used";

const ORDERS = {
  used: ["Last used", (each) => -each.used],
  name: ["Name", (each) => each.name],
  entries: ["Entries", (each) => -each.entries],
  size: ["Size", (each) => -each.size],
  saved: ["Time saved", (each) => -each.saved],
};

const hitRate = (each) => each.hits / Math.max(1, each.hits + each.entries);

function sorted(functions) {
  const by = ORDERS[order][1];
  return [...functions].sort((a, b) => (by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : a.name < b.name ? -1 : 1));
}

function meter(each) {
  const bar = el("span", { class: "meter", "aria-hidden": "true" }, el("span", {}));
  bar.firstChild.style.width = `${hitRate(each) * 100}%`;
  return bar;
}

function item(store, each) {
  const { module, name } = say.parts(each.name);
  const chosen = state.now.store === store && state.now.function === each.name;
  return el("li", {},
    el("button", {
      type: "button", class: "function", "aria-current": chosen ? "true" : null, title: each.name,
      onclick: () => state.change(state.forFunction(store, each)),
    },
    el("span", { class: "function-name" }, name),
    el("span", { class: "function-module" }, module),
    el("span", { class: "function-figures" },
      el("span", {}, say.counted(each.entries, "entry", "entries")),
      each.failed[""] ? el("span", { class: "failed" }, `${say.count(each.failed[""])} failed`) : null, el("span", {}, say.size(each.size))),
    meter(each),
    el("span", { class: "function-figures" },
      el("span", {}, `${say.percent(hitRate(each))} hits`),
      el("span", { class: each.saved > 0 ? "saved" : "" }, `${say.duration(each.saved)} saved`))));
}

// What runs now, where and since when.
function running(stores) {
  const jobs = stores.flatMap((store) => store.running);
  if (!jobs.length) return "";
  const shown = jobs.slice(0, MOST_RUNNING).map((job) => el("li", { title: job.key },
    el("code", {}, job.function ? `${say.parts(job.function).name}(${job.call})` : job.key.slice(0, 12)), el("br"),
    el("span", { class: "muted" }, `${job.program || "process"} ${job.pid} on ${job.host}, since ${say.since(job.since)}`)));
  return el("section", { class: "running", id: "running" }, el("h2", {}, `Running (${say.count(jobs.length)})`), el("ul", {}, shown));
}

export function show(stores) {
  const place = byId("functions");
  const focused = place.contains(document.activeElement) ? document.activeElement.title : null;
  const top = place.scrollTop;
  const pick = el("select", {
    "aria-label": "Sort functions by",
    onchange: (event) => { order = event.target.value; show(stores); },
  }, Object.entries(ORDERS).map(([id, [label]]) => el("option", { value: id, selected: id === order }, label)));
  const lists = stores.map((store) => [
    stores.length > 1 ? el("h3", { class: "store" }, store.name) : null,
    store.error ? el("p", { class: "problem" }, store.error) : null,
    ...(store.shared ?? []).map((text) => el("p", { class: "shared muted" }, text)),
    el("ul", {}, sorted(store.functions).map((each) => item(store.name, each))),
  ]);
  place.replaceChildren(running(stores), el("div", { class: "functions-head" }, el("h2", {}, "Functions"), pick), ...lists.flat().filter(Boolean));
  place.scrollTop = top;
  if (focused) [...place.querySelectorAll("button")].find((button) => button.title === focused)?.focus();
}

// What stands above a table, groups or a plot: the function, its figures, and which view is shown.
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

export function head(main, each) {
  const { module, name } = say.parts(each.name);
  const figures = el("dl", { class: "figures" },
    figure("Entries", say.count(each.entries), "Results that are kept"),
    figure("Size", say.size(each.size), `${say.count(each.size)} bytes on disk, files of jobs included`),
    figure("Hit rate", say.percent(hitRate(each)), `${say.count(each.hits)} of ${say.count(each.hits + each.entries)} jobs were answered from the cache`),
    figure("Time saved", say.duration(each.saved), "How long the function had run for the results of these hits", each.saved > 0 ? "saved" : ""),
    figure("Ran for", say.duration(each.seconds), "How long the function ran for the entries in all"));
  const header = el("header", { class: "heading", id: "heading" },
    el("div", { class: "title" }, el("h1", {}, name), el("span", { class: "muted" }, module)), figures, versions(each),
    el("div", { class: "tabs", role: "tablist", "aria-label": "Views", onkeydown: moved }, VIEWS.filter(([id]) => id !== "failed" || each.failed.all || state.now.view === id).map(([id, label]) => tab(id, label, id === "failed" && each.failed[state.now.code]))));
  const focused = byId("heading")?.contains(document.activeElement) ? document.activeElement.id : null;
  if (byId("heading")) byId("heading").replaceWith(header);
  else main.replaceChildren(header, el("section", { class: "view", id: "view", role: "tabpanel", "aria-label": "Entries" }));
  byId("view").setAttribute("aria-labelledby", `tab-${state.now.view}`);
  if (focused) byId(focused)?.focus();
}
