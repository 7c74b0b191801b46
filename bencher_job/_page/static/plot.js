// Knows the plot of a function's entries: which field stands over which argument, in which colours, and what is near the pointer.

import * as api from "./api.js";
import { draw } from "./chart.js";
import { whenTurned } from "./colors.js";
import { byId, el } from "./dom.js";
import * as say from "./format.js";
import { extent, isNumber, label } from "./scales.js";
import * as state from "./state.js";
import * as tools from "./tools.js";

const GROUPS = [["argument", "Arguments"], ["result", "Result"], ["record", "Run"]];

let last = null;
let hidden = new Set();

// What most want to see first: a number of the result over an argument that was swept, coloured by another.
function defaults(columns) {
  const results = columns.filter((each) => each.group === "result" && each.kind === "number");
  const swept = columns.filter((each) => each.group === "argument" && each.distinct > 1);
  const y = results[0]?.id ?? "seconds";
  const x = swept.find((each) => each.kind === "number") ?? swept[0];
  const color = swept.find((each) => each !== x && each.kind === "text" && each.distinct <= 12)
    ?? swept.find((each) => each !== x && each.distinct <= 12);
  return { x: x?.id ?? "created", y, color: color?.id ?? "-" };
}

export async function show(place) {
  place.classList.add("is-loading");
  try {
    const { columns } = await api.get("columns", { store: state.now.store, function: state.now.function });
    const ids = new Set([...columns.map((each) => each.id), "-"]);
    const first = defaults(columns);
    const axes = Object.fromEntries(["x", "y", "color"].map((axis) => [axis, ids.has(state.now[axis]) ? state.now[axis] : first[axis]]));
    const asked = { ...state.query(), sort: "", x: axes.x, y: axes.y, color: axes.color === "-" ? "" : axes.color };
    const answer = await api.get("points", asked);
    const named = Object.fromEntries(Object.entries(axes).map(([axis, id]) => [axis, columns.find((each) => each.id === id)]));
    const [x, y, color] = answer.cells;
    const where = JSON.stringify([state.now.store, state.now.function, axes.color]);
    if (last?.where !== where) hidden = new Set();
    last = { where, columns, axes, named, total: answer.total, every: answer.every, data: { x, y, color, keys: answer.keys } };
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
    el("div", { class: "canvas" },
      el("div", { class: "chart", id: "chart", role: "img" }),
      el("div", { class: "legend", id: "legend" }),
      el("div", { class: "tip", id: "tip", hidden: true })),
    el("p", { class: "caption muted", id: "caption" }));
  const watch = new ResizeObserver(() => { if (last && byId("chart")) picture(); });
  watch.observe(byId("chart"));
}

function choice(axis, text, none) {
  const options = GROUPS.map(([group, name]) => el("optgroup", { label: name },
    last.columns.filter((each) => each.group === group)
      .map((each) => el("option", { value: each.id, selected: each.id === last.axes[axis] }, each.label))));
  return el("label", { class: "choice" }, text, el("select", {
    id: `choose-${axis}`, onchange: (event) => state.change({ [axis]: event.target.value, key: "" }),
  }, none ? el("option", { value: "-", selected: last.axes[axis] === "-" }, "nothing") : null, options));
}

// A logarithmic axis by itself where the numbers span more than two decades, unless somebody has said otherwise.
function isLog(axis, values) {
  const numbers = values.filter(isNumber);
  const [low, high] = extent(numbers);
  const can = numbers.length > 0 && low > 0 && last.named[axis]?.kind === "number";
  const said = state.now[`log${axis}`];
  return { can, on: can && (said ? said === "1" : high / low > 100) };
}

function choices() {
  const log = (axis, name) => {
    const { can, on } = isLog(axis, last.data[axis]);
    return el("label", { class: "check" }, el("input", { type: "checkbox", id: `log-${axis}`, checked: on, disabled: !can,
      onchange: (event) => state.change({ [`log${axis}`]: event.target.checked ? "1" : "0" }) }), name);
  };
  const focused = byId("choices").contains(document.activeElement) ? document.activeElement.id : null;
  byId("choices").replaceChildren(choice("y", "Plot"), choice("x", "over"), choice("color", "coloured by", true),
    el("span", { class: "grow" }), log("x", "log x"), log("y", "log y"));
  if (focused) byId(focused)?.focus();
  byId("tools").replaceWith(tools.bar(last.total));
}

function picture() {
  const { data, named, total, every } = last;
  const drawn = draw(byId("chart"), data, {
    x: named.x, y: named.y, color: named.color, hidden, tip,
    logx: isLog("x", data.x).on, logy: isLog("y", data.y).on,
    open: (key) => state.change({ key }),
  });
  legend(drawn.colors);
  const missing = data.keys.length - drawn.drawn - (hidden.size ? data.keys.filter((_, at) => hidden.has(drawn.colors.group(data.color?.[at]))).length : 0);
  const notes = [
    every > 1 ? `${say.count(data.keys.length)} of ${say.counted(total, "entry", "entries")}, one of every ${every}` : say.counted(total, "entry", "entries"),
    missing > 0 ? `${say.count(missing)} without a place here` : "",
    drawn.leftOut ? `${say.count(drawn.leftOut)} categories are left out` : "",
    drawn.lines ? "lines go through the medians" : "",
  ].filter(Boolean).join(" · ");
  byId("caption").textContent = `${notes}. Click a point for its entry.`;
  byId("chart").setAttribute("aria-label", `${named.y.label} over ${named.x.label}${named.color ? `, coloured by ${named.color.label}` : ""}: ${drawn.drawn} points. The table has the same entries.`);
}

function legend(colors) {
  const place = byId("legend");
  const title = last.named.color ? el("h3", {}, last.named.color.label) : null;
  const swatch = (color) => {
    const mark = el("span", { class: "swatch", "aria-hidden": "true" });
    mark.style.background = color;
    return mark;
  };
  const ramp = colors.ramp ? el("div", { class: "ramp" }, el("span", {}, colors.ramp.high), el("span", { class: "ramp-bar", "aria-hidden": "true" }), el("span", {}, colors.ramp.low)) : null;
  if (ramp) ramp.children[1].style.background = `linear-gradient(to top, ${colors.ramp.stops.join(", ")})`;
  const items = colors.groups.map(({ text, color }) => el("button", {
    type: "button", class: "legend-item", "aria-pressed": String(!hidden.has(text)), title: "Show or hide",
    onclick: () => {
      if (!hidden.delete(text)) hidden.add(text);
      picture();
      [...byId("legend").querySelectorAll("button")].find((button) => button.textContent === text)?.focus();
    },
  }, swatch(color), el("span", {}, text)));
  place.replaceChildren(...[title, ramp, ...items].filter(Boolean));
  place.hidden = !ramp && !items.length;
}

function tip(point) {
  const place = byId("tip");
  place.hidden = !point;
  if (!point) return;
  const { data, named } = last;
  const line = (column, value) => [el("dt", {}, column.label), el("dd", {}, column.id === "created" ? say.moment(value) : say.cell(value, column.id).text ?? label(value))];
  place.replaceChildren(el("dl", {}, line(named.y, data.y[point.at]), line(named.x, data.x[point.at]),
    named.color ? line(named.color, data.color[point.at]) : []));
  const chart = byId("chart");
  const isRight = point.x > chart.clientWidth * 0.65;
  place.style.left = isRight ? "" : `${point.x + 14}px`;
  place.style.right = isRight ? `${place.parentElement.clientWidth - point.x + 14}px` : "";
  place.style.top = `${Math.max(4, point.y - 20)}px`;
}

whenTurned(() => { if (last && byId("chart")) picture(); });
