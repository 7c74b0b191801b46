// Entries side by side: what differs in their arguments, results, runs and code, and their files.

import * as api from "./api.js";
import { el } from "./dom.js";
import * as say from "./format.js";
import { files, value } from "./record.js";
import * as state from "./state.js";

export const MOST = 6;

export async function show(place) {
  const { store } = state.now;
  if (place.querySelector(".compared")?.dataset.keys === state.now.compare) return; // what is read stays where it is
  const found = await Promise.all(state.now.compare.split(",").slice(0, MOST).map((key) => api.get("entry", { store, key }).catch((error) => {
    if (error.status !== 404) throw error;
    return null;
  })));
  const entries = found.filter(Boolean);
  const [base] = entries;
  const rows = (title, pairs, write) => {
    const names = [...new Set(entries.flatMap((entry) => pairs(entry).map(([name]) => name)))];
    const lines = names.map((name) => {
      const cells = entries.map((entry) => pairs(entry).find(([other]) => other === name)?.[1]);
      const differs = new Set(cells.map((cell) => JSON.stringify(cell))).size > 1;
      return el("tr", { class: differs ? "differs" : null }, el("th", { scope: "row" }, name, differs ? el("span", { class: "badge" }, "differs") : null),
        cells.map((cell) => el("td", {}, cell === undefined ? el("span", { class: "muted" }, "–") : write(cell))));
    });
    return lines.length ? el("tbody", {}, el("tr", {}, el("th", { class: "part", colspan: entries.length + 1, scope: "rowgroup" }, title)), lines) : null;
  };
  const fields = (entry) => {
    const outline = entry.value.outline;
    return outline?.items && entry.value.is_whole !== false ? outline.items.map(([name, part]) => [name || "item", part]) : [["result", outline ?? entry.value]];
  };
  const facts = (entry) => [["began", say.moment(entry.created)], ["took", say.duration(entry.seconds)], ["size", say.size(entry.size)],
    ["tag", entry.tag], ...entry.run.map(([name, text]) => [name, name === "code" ? text.slice(0, 12) : text])];
  const hasFiles = entries.some((entry) => entry.media.length);
  place.replaceChildren(el("div", { class: "tools" }, el("button", { type: "button", class: "plain", onclick: () => state.change({ view: "table", compare: "" }) }, "Back to the table")),
    found.length > entries.length ? el("p", { class: "note" }, `${say.counted(found.length - entries.length, "entry", "entries")} gone.`) : "",
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, el("table", { class: "compared", "data-keys": state.now.compare },
      el("thead", {}, el("tr", {}, el("td", {}), entries.map((entry) => el("th", { scope: "col" },
        el("button", { type: "button", class: "link", title: entry.key, onclick: () => state.change({ key: entry.key }) }, entry.key.slice(0, 12)))))),
      hasFiles ? el("tbody", {}, el("tr", {}, el("th", { scope: "row" }, "files"), entries.map((entry) => el("td", {}, files(store, entry))))) : null,
      rows("Arguments", (entry) => entry.arguments, (cell) => el("code", {}, say.cell(cell).full || say.cell(cell).text)),
      rows("Result", fields, (part) => value("kind" in part ? { outline: part } : part)),
      rows("Run", facts, (text) => text)),
    ...await Promise.all(entries.slice(1).map((entry) => code(store, base, entry)))));
}

async function code(store, base, entry) {
  const head = el("h3", {}, `Code: ${base.key.slice(0, 12)} → ${entry.key.slice(0, 12)}`);
  try {
    const { code: parts, libraries } = await api.get("changes", { store, key: base.key, other: entry.key });
    const same = parts.length || libraries.length ? null : el("p", { class: "note" }, "The same code and libraries.");
    return el("section", { class: "changes" }, head, same,
      parts.map(([name, kind, diff]) => [el("p", {}, el("code", {}, name), ` ${kind}`), diff ? el("pre", { class: "code" }, diff.split("\n").map(changed)) : null]),
      libraries.length ? el("ul", {}, libraries.map(([name, before, now]) => el("li", {}, `${name} ${before} → ${now}`))) : null);
  } catch (error) {
    if (error.status !== 404) throw error;
    return el("section", { class: "changes" }, head, el("p", { class: "note" }, error.message));
  }
}

const changed = (text) => el("span", { class: text.startsWith("+") ? "is-added" : text.startsWith("-") ? "is-gone" : null }, `${text}\n`);
