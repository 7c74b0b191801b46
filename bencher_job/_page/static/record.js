// One entry: its files, arguments and value, and all that is known of its run.

import * as api from "./api.js";
import { byId, el, icon, svg } from "./dom.js";
import * as say from "./format.js";
import { clearButton, save } from "./selection.js";
import * as state from "./state.js";

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

// Files that a job wrote: pictures, films and sounds as such, texts by their beginning, others to save.
const BEGINNING = 32768;
const TEXTS_AT_ONCE = 5;

export function files(store, entry) {
  let texts = 0;
  return el("div", { class: "files" }, entry.media.map((file) => {
    const url = api.mediaUrl(store, entry.key, file.name);
    const isRead = file.kind === "text" && (texts += 1) <= TEXTS_AT_ONCE;
    return el("figure", {}, content(file, url, isRead),
      el("figcaption", {}, el("span", { title: `${entry.folder}/${file.name}` }, file.name.split("/").at(-1)), el("span", { class: "muted" }, say.size(file.size)),
        el("a", { class: "ghost", href: api.mediaUrl(store, entry.key, file.name, true), download: "", "aria-label": `Save ${file.name}`, title: "Save" }, icon("save"))));
  }));
}

function content(file, url, isRead) {
  if (file.kind === "image") {
    return el("a", { href: url, target: "_blank", rel: "noopener", title: "Open by itself" },
      el("img", { src: url, alt: file.name, loading: "lazy" }));
  }
  if (file.kind === "video") return el("video", { src: url, controls: true, preload: "metadata" });
  if (file.kind === "audio") return el("audio", { src: url, controls: true, preload: "metadata" });
  return isRead ? textOf(url, file.size) : null;
}

function textOf(url, size) {
  const place = el("pre", { class: "code" }, "…");
  fetch(url, { headers: { range: `bytes=0-${BEGINNING - 1}` } })
    .then((response) => (response.ok ? response.text() : Promise.reject(new Error(String(response.status)))))
    .then((beginning) => { place.textContent = beginning + (size > BEGINNING ? "\n…" : ""); })
    .catch((error) => { place.textContent = `It can’t be read: ${error.message}`; });
  return place;
}

// A value as a tree that folds, numbers of an array as a line, and a note on what is not shown.
export function value(told) {
  const parts = [];
  if (told.outline) parts.push(el("div", { class: "outline" }, node(told.outline, told.is_whole)));
  if (told.text) parts.push(el("pre", { class: "code" }, told.text));
  if (told.note) parts.push(el("p", { class: told.is_bad ? "problem" : "note" }, told.note));
  return parts;
}

const BRACKETS = { dict: "{ }", list: "[ ]", tuple: "( )", set: "{ }" };

function node(each, isOpen = false) {
  if (each.items) return tree(each, isOpen);
  if (each.kind === "array") return array(each);
  const more = each.more ? ` … ${each.more} more characters` : "";
  const shown = each.kind === "text" ? say.named(each.text) : each.text;
  return el("span", { class: `leaf is-${each.kind}`, title: shown === each.text ? null : each.text }, shown + more);
}

function tree(each, isOpen) {
  const title = each.kind === "object" ? each.text : `${each.kind} ${BRACKETS[each.kind] ?? ""} ${each.text}`;
  if (!each.items.length && !each.more) return el("span", { class: "leaf muted" }, title);
  const lines = each.items.map(([label, part]) => el("li", {},
    label ? el("span", { class: "label" }, label) : null, node(part)));
  if (each.more) lines.push(el("li", { class: "muted" }, `… ${each.more} more`));
  return el("details", { open: isOpen }, el("summary", {}, title), el("ul", {}, lines));
}

function array(each) {
  const numbers = each.first.filter((item) => typeof item === "number" && Number.isFinite(item));
  const shown = each.first.slice(0, 12).map((item) => (typeof item === "number" ? say.number(item) : String(item))).join(", ");
  return el("span", { class: "leaf" }, el("span", { class: "muted" }, each.text),
    numbers.length > 2 ? spark(numbers) : null,
    shown ? el("span", { class: "numbers" }, `[${shown}${each.first.length > 12 ? ", …" : ""}]`) : null);
}

function spark(numbers) {
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  const points = numbers.map((item, at) => {
    const y = high > low ? 22 - (20 * (item - low)) / (high - low) : 12;
    return `${(at * 118) / (numbers.length - 1) + 1},${y.toFixed(1)}`;
  });
  return svg("svg", { class: "spark", viewBox: "0 0 120 24", role: "img", "aria-label": `From ${say.number(low)} to ${say.number(high)}` },
    svg("polyline", { points: points.join(" ") }));
}
