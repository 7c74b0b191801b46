// Knows which colour a point has: one a category, or along a ramp where the values are many numbers.

import { number } from "./format.js";
import { categories, extent, isNumber, label } from "./scales.js";

export const MOST_COLORS = 8;

// Hues that stay apart on light and dark ground, and for people who see few of them: they differ in lightness too.
const LIGHT = ["#2f5bd7", "#d2570a", "#148a5b", "#b0308f", "#8a6d00", "#0089a3", "#c2303a", "#6a55c2"];
const DARK = ["#86a9ff", "#ff9b5a", "#4fd19b", "#f08bd5", "#e3c34a", "#4cc9e0", "#ff8389", "#b6a5ff"];
const RAMP_LIGHT = [[68, 58, 131], [49, 104, 142], [33, 145, 140], [53, 183, 121], [171, 196, 40]];
const RAMP_DARK = [[104, 98, 190], [76, 139, 190], [52, 178, 172], [99, 211, 140], [226, 232, 92]];

const dark = matchMedia("(prefers-color-scheme: dark)");
export const isDark = () => dark.matches;
export const whenTurned = (work) => dark.addEventListener("change", work);

function along(ramp, part) {
  const at = Math.min(0.99999, Math.max(0, part)) * (ramp.length - 1);
  const low = ramp[Math.floor(at)];
  const high = ramp[Math.floor(at) + 1];
  return `rgb(${low.map((value, each) => Math.round(value + (high[each] - value) * (at % 1))).join(" ")})`;
}

// Gives a group and a colour for each value: `groups` for a legend, or `ramp` for one that runs from low to high.
export function colorsOf(values) {
  const palette = isDark() ? DARK : LIGHT;
  const ramp = isDark() ? RAMP_DARK : RAMP_LIGHT;
  if (!values) return { groups: [], of: () => palette[0], group: () => "" };
  const all = categories(values);
  const numbers = values.filter(isNumber);
  if (all.length > MOST_COLORS && numbers.length >= values.length / 2) {
    const [low, high] = extent(numbers);
    const part = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    return {
      groups: [], group: () => "", ramp: { low: number(low), high: number(high), stops: [0, 0.25, 0.5, 0.75, 1].map((at) => along(ramp, at)) },
      of: (value) => (isNumber(value) ? along(ramp, part(value)) : "gray"),
    };
  }
  const often = [...all].sort((a, b) => b[1] - a[1]).slice(0, MOST_COLORS).map(([text]) => text);
  const shown = all.map(([text]) => text).filter((text) => often.includes(text));
  const isOrdered = numbers.length === values.length && shown.length > 2;
  const color = (at) => (isOrdered ? along(ramp, at / (shown.length - 1)) : palette[at]);
  const known = new Map(shown.map((text, at) => [text, color(at)]));
  const group = (value) => (known.has(label(value)) ? label(value) : "others");
  const groups = shown.map((text) => ({ text, color: known.get(text) }));
  if (all.length > shown.length) groups.push({ text: "others", color: "gray" });
  return { groups, group, of: (value) => known.get(label(value)) ?? "gray" };
}
