// Knows how points are drawn: axes that are read, points on a canvas that holds many, and a line through their medians.

import { el, svg } from "./dom.js";
import { colorsOf } from "./colors.js";
import { scaleOf } from "./scales.js";

const MARGIN = { top: 16, right: 20, bottom: 56, left: 76 };
const MOST_STEPS = 60;
const NEAR = 14;

// The same shift for the same entry each time, so that a plot that is drawn again looks the same.
const jitter = (key, seed) => {
  let sum = seed;
  for (let at = 0; at < Math.min(key.length, 12); at += 1) sum = (Math.imul(sum, 31) + key.charCodeAt(at)) >>> 0;
  return ((Math.imul(sum, 2654435761) >>> 0) / 2 ** 32 - 0.5) * 0.55;
};

export function draw(place, data, { x, y, color, logx, logy, hidden, open, tip }) {
  const width = Math.max(320, place.clientWidth);
  const height = Math.max(280, place.clientHeight);
  const across = scaleOf(data.x, { kind: x.kind, isLog: logx });
  const up = scaleOf(data.y, { kind: y.kind, isLog: logy });
  const colors = colorsOf(data.color);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const points = [];
  data.keys.forEach((entry, at) => {
    const left = across.place(data.x[at]);
    const bottom = up.place(data.y[at]);
    const group = colors.group(data.color?.[at]);
    if (Number.isNaN(left) || Number.isNaN(bottom) || hidden.has(group)) return;
    const shiftX = across.kind === "bands" ? jitter(entry, 1) * across.width : 0;
    const shiftY = up.kind === "bands" ? jitter(entry, 7) * up.width : 0;
    points.push({
      at, entry, group, color: colors.of(data.color?.[at]), key: data.x[at],
      x: MARGIN.left + (left + shiftX) * inner.width, y: MARGIN.top + (1 - bottom - shiftY) * inner.height,
      middle: MARGIN.left + left * inner.width,
    });
  });
  const lines = medians(points, across, up, inner);
  const canvas = el("canvas", { class: "points", "aria-hidden": "true" });
  paint(canvas, width, height, points, lines);
  place.replaceChildren(
    svg("svg", { class: "axes", width, height, "aria-hidden": "true" }, ...axes(across, up, inner, x, y)), canvas);
  hover(canvas, points, { open, tip });
  return { colors, drawn: points.length, lines: lines.length > 0, leftOut: (across.leftOut ?? 0) + (up.leftOut ?? 0) };
}

function axes(across, up, inner, x, y) {
  const parts = [];
  const bottom = MARGIN.top + inner.height;
  const ticks = fitting(across.ticks(Math.floor(inner.width / 90)), inner.width);
  for (const { at, text, isCut } of ticks) {
    const left = MARGIN.left + at * inner.width;
    parts.push(svg("line", { class: "grid", x1: left, x2: left, y1: MARGIN.top, y2: bottom }));
    const shown = svg("text", { x: left, y: bottom + 18, "text-anchor": "middle" }, isCut ? `${text.slice(0, isCut)}…` : text);
    parts.push(shown);
  }
  for (const { at, text } of up.ticks(Math.floor(inner.height / 48))) {
    const top = bottom - at * inner.height;
    parts.push(svg("line", { class: "grid", x1: MARGIN.left, x2: MARGIN.left + inner.width, y1: top, y2: top }));
    parts.push(svg("text", { x: MARGIN.left - 10, y: top + 4, "text-anchor": "end" }, text.length > 11 ? `${text.slice(0, 10)}…` : text));
  }
  parts.push(svg("line", { class: "axis", x1: MARGIN.left, x2: MARGIN.left + inner.width, y1: bottom, y2: bottom }));
  const middle = MARGIN.top + inner.height / 2;
  parts.push(svg("text", { class: "axis-name", x: MARGIN.left + inner.width / 2, y: bottom + 44, "text-anchor": "middle" }, x.label));
  parts.push(svg("text", { class: "axis-name", x: 16, y: middle, "text-anchor": "middle", transform: `rotate(-90 16 ${middle})` }, y.label));
  return parts;
}

// Fewer names, or shorter ones, where all of them would touch.
function fitting(ticks, width) {
  const room = width / Math.max(1, ticks.length);
  const longest = Math.floor(room / 7) - 1;
  if (longest >= 5) return ticks.map((tick) => ({ ...tick, isCut: tick.text.length > longest ? longest - 1 : 0 }));
  const every = Math.ceil(48 / room);
  return ticks.filter((_, at) => at % every === 0);
}

// Medians over each place along x, where several points stand over each: a line over numbers, a dash over a category.
function medians(points, across, up, inner) {
  if (up.kind === "bands" || across.kind === "bands" && !across.width) return [];
  const groups = new Map();
  for (const point of points) {
    if (!groups.has(point.group)) groups.set(point.group, new Map());
    const places = groups.get(point.group);
    if (!places.has(point.middle)) places.set(point.middle, []);
    places.get(point.middle).push(point.y);
  }
  const steps = new Set(points.map((point) => point.middle)).size;
  if (steps > MOST_STEPS || points.length < steps * 1.5) return [];
  const isRamp = new Set(points.map((point) => point.color)).size > groups.size;
  return [...groups.entries()].map(([group, places]) => ({
    color: isRamp ? null : points.find((point) => point.group === group).color,
    isDashes: across.kind === "bands",
    half: across.kind === "bands" ? across.width * inner.width * 0.3 : 0,
    places: [...places].sort(([a], [b]) => a - b).map(([left, all]) => [left, all.sort((a, b) => a - b)[all.length >> 1]]),
  }));
}

function paint(canvas, width, height, points, lines) {
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const many = points.length;
  pen.globalAlpha = many < 400 ? 0.8 : many < 4000 ? 0.45 : 0.22;
  const radius = many < 400 ? 4 : many < 4000 ? 3 : 2;
  for (const point of points) {
    pen.fillStyle = point.color;
    pen.beginPath();
    pen.arc(point.x, point.y, radius, 0, 2 * Math.PI);
    pen.fill();
  }
  const ink = getComputedStyle(document.body).color;
  const ground = getComputedStyle(document.body).getPropertyValue("--surface");
  pen.globalAlpha = 1;
  pen.lineJoin = pen.lineCap = "round";
  for (const [color, thick] of [[ground, 5], [null, 2.5]]) {
    for (const line of lines) {
      pen.strokeStyle = color ?? line.color ?? ink;
      pen.lineWidth = thick;
      pen.beginPath();
      line.places.forEach(([left, top], at) => {
        if (line.isDashes) {
          pen.moveTo(left - line.half, top);
          pen.lineTo(left + line.half, top);
        } else if (at) pen.lineTo(left, top);
        else pen.moveTo(left, top);
      });
      pen.stroke();
    }
  }
}

function hover(canvas, points, { open, tip }) {
  const cells = new Map();
  for (const point of points) {
    const cell = `${Math.floor(point.x / NEAR)} ${Math.floor(point.y / NEAR)}`;
    if (!cells.has(cell)) cells.set(cell, []);
    cells.get(cell).push(point);
  }
  function nearest(event) {
    const { left, top } = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    let best = null;
    let distance = NEAR ** 2;
    for (const dx of [-1, 0, 1]) {
      for (const dy of [-1, 0, 1]) {
        for (const point of cells.get(`${Math.floor(x / NEAR) + dx} ${Math.floor(y / NEAR) + dy}`) ?? []) {
          const far = (point.x - x) ** 2 + (point.y - y) ** 2;
          if (far < distance) [best, distance] = [point, far];
        }
      }
    }
    return best;
  }
  canvas.addEventListener("pointermove", (event) => {
    const point = nearest(event);
    canvas.classList.toggle("is-near", Boolean(point));
    tip(point);
  });
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) open(point.entry);
  });
}

