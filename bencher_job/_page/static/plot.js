// The plot of a function's entries, drawn by Observable Plot: points, the middle and the spread over each place, facets.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import * as say from "./format.js";
import * as state from "./state.js";
import * as tools from "./tools.js";

const GROUPS = [["argument", "Arguments"], ["result", "Result"], ["record", "Run"]];
const BANDS = { "": ["the quarters", "p25", "p75", "median"], sd: ["mean ± deviation", low, high, "mean"], all: ["all", "min", "max", "median"], none: ["nothing"] };
const MOST_COLORS = 8;
const MOST_FACETS = 12;
const MOST_STEPS = 60;
const MOST_BANDS = 40;
// They differ in lightness too, for people who see few hues.
const LIGHT = ["#2f5bd7", "#d2570a", "#148a5b", "#b0308f", "#8a6d00", "#0089a3", "#c2303a", "#6a55c2"];
const DARK = ["#86a9ff", "#ff9b5a", "#4fd19b", "#f08bd5", "#e3c34a", "#4cc9e0", "#ff8389", "#b6a5ff"];

const dark = matchMedia("(prefers-color-scheme: dark)");
let libraries = null;
let last = null;
let hidden = new Set();
let current = null; // the key of the point that has, or will have, the focus

function low(values) { return d3.mean(values) - (d3.deviation(values) ?? 0); }
function high(values) { return d3.mean(values) + (d3.deviation(values) ?? 0); }

// What most want to see first: a number of the result over an argument that was swept, coloured by another. Repeats and
// seeds are what is averaged over.
export function defaults(columns) {
  const results = columns.filter((each) => each.group === "result" && each.kind === "number");
  const varying = columns.filter((each) => each.group === "argument" && each.distinct > 1);
  const swept = varying.filter((each) => !/^(repeat|seed|random_state)$/.test(each.label));
  const named = swept.length ? swept : varying;
  const x = named.find((each) => each.kind === "number") ?? named[0];
  const color = named.find((each) => each !== x && each.kind === "text" && each.distinct <= 12)
    ?? named.find((each) => each !== x && each.distinct <= 12);
  return { x: x?.id ?? "created", y: results[0]?.id ?? "seconds", color: color?.id ?? "-", facet: "-", swept: swept.map((each) => each.id) };
}

export function select(axis, text, columns, value, none = false) {
  const options = GROUPS.map(([group, name]) => el("optgroup", { label: name }, columns.filter((each) => each.group === group)
    .map((each) => el("option", { value: each.id, selected: each.id === value }, each.label))));
  return el("label", { class: "choice" }, text, el("select", { id: `choose-${axis}`, onchange: (event) => state.change({ [axis]: event.target.value, key: "" }) },
    none ? el("option", { value: "-", selected: value === "-" }, "nothing") : null, options));
}

export async function show(place) {
  place.classList.add("is-loading");
  try {
    libraries ??= import("./vendor/d3.js").then(() => import("./vendor/plot.js")); // which finds d3
    const { columns } = await api.get("columns", { store: state.now.store, function: state.now.function });
    const ids = new Set([...columns.map((each) => each.id), "-"]);
    const first = defaults(columns);
    const axes = Object.fromEntries(["x", "y", "color", "facet"].map((axis) => [axis, ids.has(state.now[axis]) ? state.now[axis] : first[axis]]));
    const asked = { ...state.query(), sort: "", ...axes };
    for (const axis of ["color", "facet"]) if (axes[axis] === "-") asked[axis] = "";
    const [answer] = await Promise.all([api.get("points", asked), libraries]);
    const named = Object.fromEntries(Object.entries(axes).map(([axis, id]) => [axis, columns.find((each) => each.id === id)]));
    const where = JSON.stringify([state.now.store, state.now.function, axes.color]);
    if (last?.where !== where) hidden = new Set();
    last = { where, columns, axes, named, ...answer };
    if (!byId("chart")) frame(place);
    choices();
    picture();
    tools.problem("");
  } catch (error) {
    if (error.status !== 422) throw error;
    if (!byId("chart")) frame(place);
    tools.problem(error.message);
  } finally {
    place.classList.remove("is-loading");
  }
}

function frame(place) {
  place.replaceChildren(
    tools.search(), el("div", { id: "tools" }), el("div", { class: "choices", id: "choices" }),
    el("div", { class: "canvas" }, el("div", { class: "chart", id: "chart", role: "group" }), el("div", { class: "legend", id: "legend" })),
    el("p", { class: "caption muted", id: "caption" }));
  new ResizeObserver(() => { if (last && byId("chart")) picture(); }).observe(byId("chart"));
}

// A logarithmic axis by itself where the numbers span more than two decades, unless the state says otherwise.
function isLog(axis) {
  const numbers = last.cells[axis === "x" ? 0 : 1].map(say.numberOf).filter(Number.isFinite);
  const [least, most] = d3.extent(numbers);
  const can = least > 0 && last.named[axis].kind === "number";
  return { can, on: can && (state.now[`log${axis}`] ? state.now[`log${axis}`] === "1" : most / least > 100) };
}

function choices() {
  const { axes, columns } = last;
  const log = (axis) => {
    const { can, on } = isLog(axis);
    return el("label", { class: "check" }, el("input", { type: "checkbox", id: `log-${axis}`, checked: on, disabled: !can,
      onchange: (event) => state.change({ [`log${axis}`]: event.target.checked ? "1" : "0" }) }), `log ${axis}`);
  };
  const focused = byId("choices").contains(document.activeElement) ? document.activeElement.id : null;
  byId("choices").replaceChildren(select("y", "Plot", columns, axes.y), select("x", "over", columns, axes.x),
    select("color", "coloured by", columns, axes.color, true), select("facet", "side by side", columns, axes.facet, true),
    el("label", { class: "choice" }, "band", el("select", { id: "choose-band", onchange: (event) => state.change({ band: event.target.value }) },
      Object.entries(BANDS).map(([id, [name]]) => el("option", { value: id, selected: id === state.now.band }, name)))),
    log("x"), log("y"));
  if (focused) byId(focused)?.focus();
  byId("tools").replaceWith(tools.bar(last.total));
}

// Cells as places on an axis: numbers and times where most are, else their texts in order.
function axis(cells, column, isLogarithmic) {
  const numbers = cells.map(say.numberOf);
  const there = cells.filter((cell) => cell !== null && cell.t !== "").length;
  if (column.kind !== "text" && numbers.some(Number.isFinite) && numbers.filter(Number.isFinite).length >= there / 2) {
    const kind = column.kind === "time" ? "time" : isLogarithmic ? "log" : "linear";
    const places = numbers.map((number) => (kind === "log" && number <= 0 ? NaN : kind === "time" ? new Date(number * 1000) : number));
    return { places, scale: { type: kind, ...(kind === "time" ? {} : { tickFormat: say.number }) }, isText: false, leftOut: 0 };
  }
  const all = say.categories(cells);
  const shown = new Set(all.slice(0, MOST_BANDS));
  return { places: cells.map((cell) => { const text = say.cell(cell).text; return shown.has(text) ? text : NaN; }), isText: true, leftOut: all.length - shown.size,
    scale: { type: "point", domain: [...shown], padding: 0.5, tickFormat: (text) => (text.length > 14 ? `${text.slice(0, 13)}…` : text) } };
}

function colors(cells) {
  const palette = dark.matches ? DARK : LIGHT;
  if (!cells) return { of: () => "", scale: { type: "ordinal", domain: [""], range: palette }, groups: [] };
  const all = say.categories(cells);
  const numbers = cells.map(say.numberOf);
  const isNumeric = numbers.filter(Number.isFinite).length >= cells.length / 2;
  const ramp = dark.matches ? (part) => d3.interpolateViridis(0.38 + 0.62 * part) : (part) => d3.interpolateViridis(0.58 * part);
  if (all.length > MOST_COLORS && isNumeric) {
    const domain = d3.extent(numbers.filter(Number.isFinite));
    return { of: (at) => numbers[at], scale: { type: "linear", domain, interpolate: ramp, unknown: "gray" }, groups: [], ramp: { domain, stops: d3.range(0, 1.1, 0.25).map(ramp) } };
  }
  const often = d3.rollup(cells, (some) => some.length, (cell) => say.cell(cell).text);
  const kept = new Set([...all].sort((a, b) => often.get(b) - often.get(a)).slice(0, MOST_COLORS));
  const texts = all.filter((text) => kept.has(text));
  const range = texts.map((text, at) => (isNumeric && texts.length > 2 ? ramp(at / (texts.length - 1)) : palette[at]));
  if (all.length > texts.length) { texts.push("others"); range.push("gray"); }
  const of = (at) => { const text = say.cell(cells[at]).text; return kept.has(text) ? text : "others"; };
  return { of, scale: { type: "ordinal", domain: texts, range }, groups: texts.map((text, at) => ({ text, color: range[at] })) };
}

function picture() {
  const { named, cells, keys, total, every } = last;
  const [xs, ys, third, fourth] = cells;
  const across = axis(xs, named.x, isLog("x").on);
  const up = axis(ys, named.y, isLog("y").on);
  const color = colors(named.color ? third : null);
  const facets = named.facet ? say.categories(named.color ? fourth : third).slice(0, MOST_FACETS) : [""];
  const facet = (at) => (named.facet ? say.cell((named.color ? fourth : third)[at]).text : "");
  const data = keys.map((key, at) => ({ key, at, x: across.places[at], y: up.places[at], color: color.of(at), facet: facet(at) }))
    .filter((point) => point.x === point.x && point.y === point.y && facets.includes(point.facet));
  const drawn = d3.sort(data.filter((point) => !hidden.has(point.color)), (point) => (across.isText ? across.scale.domain.indexOf(point.x) : point.x), (point) => point.y);
  const told = (point) => [`${named.y.label} ${say.cell(ys[point.at], named.y.id).text}`, `${named.x.label} ${say.cell(xs[point.at], named.x.id).text}`,
    ...(named.color ? [`${named.color.label} ${say.cell(third[point.at], named.color.id).text}`] : [])];
  const by = { x: "x", stroke: "color", z: color.ramp ? null : "color", ...(named.facet ? { fx: "facet" } : {}) };
  const steps = new Set(drawn.map((point) => +point.x || point.x)).size;
  const lines = !up.isText && steps <= MOST_STEPS && drawn.length >= steps * 1.5;
  const [, from, to, middle] = BANDS[state.now.band] ?? BANDS[""];
  const marks = [];
  if (lines && middle) {
    const spread = Plot.groupX({ y1: from, y2: to }, { ...by, y1: "y", y2: "y", ...(across.isText ? { strokeWidth: 12, strokeOpacity: 0.25 } : { stroke: null, fill: color.ramp ? "currentColor" : "color", fillOpacity: 0.16 }) });
    const through = Plot.groupX({ y: middle }, { ...by, y: "y", stroke: color.ramp ? "currentColor" : "color", strokeWidth: 2.5, ...(across.isText ? { r: 7, symbol: "square" } : {}) });
    marks.push(across.isText ? Plot.ruleX(drawn, spread) : Plot.areaY(drawn, spread), across.isText ? Plot.dot(drawn, through) : Plot.lineY(drawn, through));
  }
  const many = drawn.length;
  const dots = { x: "x", y: "y", fill: "color", fx: by.fx, className: "dots", r: many < 400 ? 4 : many < 4000 ? 3 : 2, fillOpacity: many < 400 ? 0.8 : many < 4000 ? 0.45 : 0.3 };
  marks.push(Plot.dot(drawn, dots), Plot.tip(drawn, Plot.pointer({ x: "x", y: "y", fx: by.fx, title: (point) => told(point).join("\n"), maxRadius: 14 })));
  const place = byId("chart");
  const svg = Plot.plot({
    inset: 8, width: Math.max(300, place.clientWidth), height: Math.max(280, place.clientHeight - 8), marginLeft: 70, marginBottom: 48, marginTop: named.facet ? 44 : 24, marginRight: 16,
    x: { ...across.scale, label: named.x.label, grid: true, ticks: across.isText ? undefined : Math.max(2, Math.floor(place.clientWidth / 100 / facets.length)) },
    y: { ...up.scale, label: named.y.label, grid: true, reverse: up.isText }, color: color.scale, fx: { label: named.facet?.label, domain: named.facet ? facets : undefined }, marks,
  });
  reach(svg, drawn, told);
  const focused = place.contains(document.activeElement);
  place.replaceChildren(svg);
  if (focused) svg.querySelector("[tabindex='0']")?.focus();
  legend(color);
  const missing = keys.length - data.length;
  const notes = [
    every > 1 ? `${say.count(keys.length)} of ${say.counted(total, "entry", "entries")}, one of every ${every}` : say.counted(total, "entry", "entries"),
    missing > 0 ? `${say.count(missing)} without a place here` : "", across.leftOut + up.leftOut ? `${across.leftOut + up.leftOut} categories are left out` : "",
    lines && middle ? `lines go through the ${middle}s` : "",
  ].filter(Boolean).join(" · ");
  byId("caption").textContent = `${notes}. Click a point for its entry; the arrow keys go from point to point.`;
  place.setAttribute("aria-label", `${named.y.label} over ${named.x.label}${named.color ? `, coloured by ${named.color.label}` : ""}: ${drawn.length} points. The table has the same entries.`);
}

// Points can be reached by the keyboard: one of them by Tab, the others by the arrow keys, and Enter opens the entry.
function reach(svg, drawn, told) {
  const circles = [...svg.querySelectorAll(".dots circle")].sort((a, b) => a.__data__ - b.__data__);
  const open = (point) => point && state.change({ key: point.key });
  const point = (circle) => drawn[circle.__data__];
  const tip = ({ clientX, clientY }) => svg.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, pointerType: "mouse" }));
  const stop = (circle) => {
    current = point(circle).key;
    circle.setAttribute("tabindex", "0");
    circle.setAttribute("role", "button");
    circle.setAttribute("aria-label", told(point(circle)).join(", "));
  };
  if (circles.length) stop(circles.find((circle) => point(circle).key === current) ?? circles[0]);
  svg.addEventListener("keydown", (event) => {
    const at = circles.indexOf(event.target);
    if (at < 0) return;
    const next = circles[{ ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: circles.length - 1 }[event.key]];
    if (event.key === "Enter" || event.key === " ") open(point(event.target));
    else if (event.key === "Escape") return;
    if (next) {
      event.target.setAttribute("tabindex", "-1");
      stop(next);
      next.focus();
    }
    if (next || event.key === "Enter" || event.key === " ") event.preventDefault();
  });
  svg.addEventListener("focusin", ({ target }) => {
    const box = target.getBoundingClientRect();
    tip({ clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 });
  });
  svg.addEventListener("click", () => open(svg.value));
}

function legend(color) {
  const place = byId("legend");
  const swatch = (background) => {
    const mark = el("span", { class: "swatch", "aria-hidden": "true" });
    mark.style.background = background;
    return mark;
  };
  const bar = el("span", { class: "ramp-bar", "aria-hidden": "true" });
  if (color.ramp) bar.style.background = `linear-gradient(to top, ${color.ramp.stops.join(", ")})`;
  const ramp = color.ramp ? el("div", { class: "ramp" }, el("span", {}, say.number(color.ramp.domain[1])), bar, el("span", {}, say.number(color.ramp.domain[0]))) : null;
  const items = color.groups.map((group) => el("button", {
    type: "button", class: "legend-item", "aria-pressed": String(!hidden.has(group.text)), title: "Show or hide",
    onclick: () => {
      if (!hidden.delete(group.text)) hidden.add(group.text);
      picture();
      [...byId("legend").querySelectorAll("button")].find((button) => button.textContent === group.text)?.focus();
    },
  }, swatch(group.color), el("span", {}, group.text)));
  place.replaceChildren(...[last.named.color ? el("h3", {}, last.named.color.label) : null, ramp, ...items].filter(Boolean));
  place.hidden = !ramp && !items.length;
}

dark.addEventListener("change", () => { if (last && byId("chart")) picture(); });
