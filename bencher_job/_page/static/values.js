// A value as a tree that folds, numbers of an array as a line, and a note on what is not shown.

import { el, svg } from "./dom.js";
import { named, number } from "./format.js";

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
  const shown = each.kind === "text" ? named(each.text) : each.text;
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
  const shown = each.first.slice(0, 12).map((item) => (typeof item === "number" ? number(item) : String(item))).join(", ");
  return el("span", { class: "leaf" }, el("span", { class: "muted" }, each.text),
    numbers.length > 2 ? line(numbers) : null,
    shown ? el("span", { class: "numbers" }, `[${shown}${each.first.length > 12 ? ", …" : ""}]`) : null);
}

function line(numbers) {
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  const points = numbers.map((item, at) => {
    const y = high > low ? 22 - (20 * (item - low)) / (high - low) : 12;
    return `${(at * 118) / (numbers.length - 1) + 1},${y.toFixed(1)}`;
  });
  return svg("svg", { class: "spark", viewBox: "0 0 120 24", role: "img", "aria-label": `From ${number(low)} to ${number(high)}` },
    svg("polyline", { points: points.join(" ") }));
}
