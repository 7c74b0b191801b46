// One entry: its files, arguments and value, and all that is known of its run.

import * as api from "./api.js";
import { byId, el, icon } from "./dom.js";
import * as say from "./format.js";
import { files } from "./media.js";
import { clearButton, save } from "./selection.js";
import * as state from "./state.js";
import { value } from "./values.js";

let shown = "";

export function close() {
  const key = state.now.key;
  state.change({ key: "" });
  document.querySelector(`.tabulator [data-key="${CSS.escape(key)}"]`)?.focus();
}

export async function show() {
  const place = byId("record");
  const { store, key } = state.now;
  byId("body").classList.toggle("has-record", Boolean(key));
  place.hidden = !key;
  if (!key) {
    shown = "";
    place.replaceChildren();
    return;
  }
  if (shown === key) return;
  try {
    const entry = await api.get(state.now.view === "failed" ? "failed" : "entry", { store, key });
    shown = entry.key;
    place.replaceChildren(...parts(store, entry));
    place.scrollTop = 0;
    if (matchMedia("(max-width: 900px)").matches) place.scrollIntoView(); // where it stands below the table
  } catch (error) {
    if (error.status !== 404) throw error;
    shown = "";
    place.replaceChildren(top("Entry"), el("p", { class: "note" }, error.message));
  }
}

function top(title) {
  return el("header", { class: "record-top" }, el("h2", {}, title),
    el("button", { type: "button", class: "ghost", "aria-label": "Close", title: "Close (Esc)", onclick: close }, icon("close")));
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}

function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, text]) => text !== null && text !== "").map(([name, text, title]) => [
    el("dt", {}, name), el("dd", { title: title ?? null }, text)]));
}

// Browsers have a clipboard for pages of this machine only, and for encrypted ones.
function copied(text, label) {
  if (!navigator.clipboard) return null;
  const button = el("button", { type: "button", class: "ghost", "aria-label": `Copy ${label}`, title: `Copy ${label}`,
    onclick: async () => {
      await navigator.clipboard.writeText(text);
      button.classList.add("is-done");
      setTimeout(() => button.classList.remove("is-done"), 1200);
    } }, icon("copy"));
  return button;
}

function parts(store, entry) {
  const call = entry.arguments.map(([name, given]) => {
    const { text, full, kind } = say.cell(given);
    return [name, el("code", { class: `is-${kind}` }, text), full];
  });
  const isFailed = "error" in entry;
  const given = { store, keys: [entry.key], ...(isFailed ? { failed: true } : {}) };
  const when = say.moment(entry.created);
  return [
    top(say.parts(entry.function).name),
    el("div", { class: "record-body" },
      el("p", { class: "record-line" },
        el("span", { title: "How long the function ran" }, say.duration(entry.seconds)), el("span", { title: when }, say.ago(entry.created)),
        isFailed ? el("span", { class: "failed" }, "failed") : el("span", {}, say.size(entry.size)),
        entry.tag ? el("span", { class: "badge", title: "Tag" }, entry.tag) : null),
      entry.media?.length ? section(`Files (${entry.media.length})`, files(store, entry)) : null,
      section("Arguments", call.length ? facts(call) : el("p", { class: "note" }, "None.")),
      isFailed ? section("Error", el("p", { class: "problem" }, entry.error), el("pre", { class: "code is-traceback", tabindex: "0", "aria-label": "Traceback" }, entry.traceback))
        : section("Result", value(entry.value)),
      isFailed ? null : section("Use", facts([
        ["Hits", say.count(entry.hits)], ["Last used", say.ago(entry.used), say.moment(entry.used)],
        ["Expires", entry.expires === null ? "never" : say.moment(entry.expires)]])),
      section("Run", facts([["began", when], ["took", say.duration(entry.seconds), `${entry.seconds} s`],
        ...entry.run.map(([name, text]) => [name, el("code", {}, text)])])),
      section("Key", el("p", { class: "key" }, el("code", {}, entry.key), copied(entry.key, "the key"))),
      el("div", { class: "record-actions" },
        isFailed ? null : el("button", { type: "button", class: "plain", onclick: () => save(given, 1) }, icon("save"), "Export…"),
        clearButton(() => given, 1))),
  ];
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.now.key && !document.querySelector("dialog[open]")) close();
});
