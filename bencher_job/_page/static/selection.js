// Which entries are selected, and what may be done with them: compare, export, or clear after a question.

import * as api from "./api.js";
import { MOST } from "./compare.js";
import { ask, byId, el, icon, tell } from "./dom.js";
import * as say from "./format.js";
import * as state from "./state.js";

const keys = new Set();
let isAll = false;
let page = [];
let total = 0;

export const size = () => (isAll ? total : keys.size);
export const has = (key) => isAll || keys.has(key);

export function clear() {
  keys.clear();
  isAll = false;
}

// What the table shows now, so that the box in its head stands for it.
export function see(shown, all) {
  page = shown;
  total = all;
  const box = byId("page-box");
  if (box) mark(box);
}

function mark(box) {
  const chosen = page.filter(has).length;
  box.checked = chosen > 0 && chosen === page.length;
  box.indeterminate = chosen > 0 && chosen < page.length;
}

function changed() {
  for (const row of document.querySelectorAll("#rows [data-key]")) {
    row.setAttribute("aria-selected", String(has(row.dataset.key)));
    row.querySelector("input").checked = has(row.dataset.key);
  }
  mark(byId("page-box"));
  dispatchEvent(new Event("bencher-job-selected"));
}

export function pageBox() {
  const box = el("input", { type: "checkbox", id: "page-box", "aria-label": "Select all on this page",
    onchange: () => choose(page, box.checked) });
  mark(box);
  return box;
}

export function rowBox(key, place) {
  const box = el("input", { type: "checkbox", tabindex: "-1", checked: has(key), "aria-label": `Select row ${place + 1}`,
    onchange: () => choose([key], box.checked) });
  return box;
}

function choose(some, on) {
  if (isAll) for (const key of page) keys.add(key);
  isAll = false;
  for (const key of some) keys[on ? "add" : "delete"](key);
  changed();
}

const named = () => ({
  store: state.now.store,
  ...(isAll
    ? { ...state.query(), filters: state.filters(), count: total }
    : { keys: [...keys] }),
});

export function bar() {
  const all = !isAll && keys.size >= page.length && total > keys.size;
  return el("div", { class: "actions" },
    el("strong", { role: "status" }, `${say.count(size())} selected`),
    all ? el("button", { type: "button", class: "link", onclick: () => { isAll = true; changed(); } }, `Select all ${say.count(total)}`) : null,
    el("button", { type: "button", class: "link", onclick: () => { clear(); changed(); } }, "Select none"),
    !isAll && keys.size > 1 && keys.size <= MOST ? el("button", { type: "button", class: "plain", onclick: () => state.change({ view: "compare", key: "", compare: [...keys].join(",") }) }, "Compare") : null,
    el("button", { type: "button", class: "plain", onclick: () => save(named(), size()) }, icon("save"), "Export…"),
    clearButton(named, size()));
}

export const clearButton = (given, many) => (api.session.read_only ? null
  : el("button", { type: "button", class: "plain is-danger", onclick: () => drop(given(), many) }, icon("bin"), "Clear…"));

export async function save(given, many) {
  const sure = await ask(`Export ${say.counted(many, "entry", "entries")}?`,
    ["They are written to one archive with their records and files, which bencher-job import takes in.",
      "Nothing here changes."], "Export");
  if (!sure) return;
  try {
    const archive = await api.post("export", given);
    const href = URL.createObjectURL(await archive.blob());
    el("a", { href, download: `${say.parts(state.now.function).name}.tar` }).click();
    setTimeout(URL.revokeObjectURL, 60000, href);
    const count = Number(archive.headers.get("x-entries"));
    const missing = many - count;
    tell(`${say.counted(count, "entry", "entries")} exported.${missing ? ` ${say.count(missing)} are damaged or gone.` : ""}`,
      { isProblem: missing > 0 });
  } catch (error) {
    tell(error.message, { isProblem: true });
  }
}

export async function drop(given, many) {
  const counted = (number) => (given.failed ? say.counted(number, "failed job") : say.counted(number, "entry", "entries"));
  const sure = await ask(`Clear ${counted(many)}?`,
    [given.failed ? "Their errors and tracebacks are removed. Results stay."
      : `Their results and files are removed from ${state.now.store}. Their jobs run again when they are asked for.`,
    "This can’t be undone."], `Clear ${say.count(many)}`, { dangerous: true });
  if (!sure) return false;
  try {
    const { removed } = await api.post("clear", given);
    clear();
    tell(`${counted(removed)} cleared.`);
    state.change({ key: "" }, { replaces: true });
    dispatchEvent(new Event("bencher-job-changed"));
    return true;
  } catch (error) {
    tell(error.message, { isProblem: true });
    return false;
  }
}
