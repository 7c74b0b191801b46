// Knows how values become places along an axis: numbers, their logarithms, times, and categories in bands.

import { cell, moment, number } from "./format.js";

const collator = new Intl.Collator("en", { numeric: true });
export const MOST_BANDS = 40;

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// Numbers on a straight or logarithmic axis where most values are numbers, and categories otherwise.
export function scaleOf(values, { kind, isLog = false } = {}) {
  const there = values.filter((value) => value !== null && value?.t !== "");
  const numbers = there.filter(isNumber);
  if (kind !== "text" && numbers.length && numbers.length >= there.length / 2) {
    return kind === "time" ? times(numbers) : isLog && Math.min(...extent(numbers)) > 0 ? logarithmic(numbers) : linear(numbers);
  }
  return bands(values);
}

export function extent(numbers) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of numbers) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// Steps of 1, 2 or 5 times a power of ten.
function step(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const part = rough / power;
  return power * (part > 5 ? 10 : part > 2 ? 5 : part > 1 ? 2 : 1);
}

function linear(numbers) {
  let [low, high] = extent(numbers);
  if (low === high) [low, high] = [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)];
  const margin = (high - low) * 0.04;
  const [from, to] = [low - margin, high + margin];
  return {
    kind: "linear",
    place: (value) => (isNumber(value) ? (value - from) / (to - from) : NaN),
    ticks: (count) => {
      const each = step(to - from, count);
      const first = Math.ceil(from / each);
      const ticks = [];
      for (let at = first; at * each <= to && ticks.length < 50; at += 1) {
        ticks.push({ at: (at * each - from) / (to - from), text: number(Number((at * each).toPrecision(12))) });
      }
      return ticks;
    },
  };
}

function logarithmic(numbers) {
  let [low, high] = extent(numbers).map(Math.log10);
  if (high - low < 0.1) [low, high] = [low - 0.5, high + 0.5];
  const margin = (high - low) * 0.04;
  const [from, to] = [low - margin, high + margin];
  return {
    kind: "log",
    place: (value) => (isNumber(value) && value > 0 ? (Math.log10(value) - from) / (to - from) : NaN),
    ticks: (count) => {
      const decades = Math.floor(to) - Math.ceil(from) + 1;
      const parts = decades >= 3 ? [1] : decades >= 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
      const each = Math.max(1, Math.ceil(decades / count));
      const ticks = [];
      for (let power = Math.floor(from); power <= Math.ceil(to); power += each) {
        for (const part of parts) {
          const value = part * 10 ** power;
          const at = (Math.log10(value) - from) / (to - from);
          if (at >= 0 && at <= 1) ticks.push({ at, text: number(Number(value.toPrecision(6))) });
        }
      }
      return ticks;
    },
  };
}

const SPANS = [1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 172800, 345600, 604800, 1209600, 2592000, 31536000];

function times(numbers) {
  const scale = linear(numbers);
  const [low, high] = extent(numbers);
  scale.ticks = (count) => {
    const span = Math.max(high - low, 1);
    const each = SPANS.find((seconds) => span / seconds <= count) ?? SPANS.at(-1);
    const shift = new Date(low * 1000).getTimezoneOffset() * 60;
    const ticks = [];
    for (let at = Math.ceil((low - shift) / each) * each + shift; at <= high; at += each) {
      const text = moment(at);
      ticks.push({ at: scale.place(at), text: each >= 86400 ? text.slice(0, 10) : each >= 60 ? text.slice(5, 16) : text.slice(11) });
    }
    return ticks;
  };
  return scale;
}

export const label = (value) => cell(value).text;

// Texts and how often each is there, numbers by their size.
export function categories(values) {
  const found = new Map();
  for (const value of values) {
    const text = label(value);
    if (!found.has(text)) found.set(text, { value, times: 0 });
    found.get(text).times += 1;
  }
  const compared = ([a, { value: one }], [b, { value: other }]) => (
    isNumber(one) && isNumber(other) ? one - other : collator.compare(a, b));
  return [...found].sort(compared).map(([text, { times }]) => [text, times]);
}

function bands(values) {
  const all = categories(values);
  const shown = all.slice(0, MOST_BANDS).map(([text]) => text);
  const places = new Map(shown.map((text, at) => [text, (at + 0.5) / shown.length]));
  return {
    kind: "bands",
    width: 1 / shown.length,
    leftOut: all.length - shown.length,
    place: (value) => places.get(label(value)) ?? NaN,
    ticks: () => shown.map((text) => ({ at: places.get(text), text })),
  };
}
