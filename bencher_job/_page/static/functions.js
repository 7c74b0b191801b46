// The list at the left: what runs now, and each function with its entries, size, hit rate and the time that it saved.

import { byId, el } from "./dom.js";
import * as say from "./format.js";
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

export const hitRate = (each) => each.hits / Math.max(1, each.hits + each.entries);

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
