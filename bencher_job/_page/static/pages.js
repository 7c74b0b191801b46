// Knows how somebody goes from page to page.

import { el, icon } from "./dom.js";
import * as say from "./format.js";
import * as state from "./state.js";

const SIZES = [25, 50, 100, 200];

function step(name, label, first, disabled) {
  return el("button", { type: "button", class: "ghost", "aria-label": label, title: label, disabled,
    onclick: () => state.change({ first: String(first) }) }, icon(name));
}

export function bar(first, shown, total) {
  const size = Number(state.now.size);
  const page = Math.floor(first / size) + 1;
  const last = Math.max(1, Math.ceil(total / size));
  const jump = el("input", {
    type: "number", min: 1, max: last, value: String(page), "aria-label": "Page",
    onchange: (event) => {
      const wanted = Math.min(last, Math.max(1, Math.trunc(Number(event.target.value)) || 1));
      state.change({ first: String((wanted - 1) * size) });
    },
  });
  const sizes = el("select", { "aria-label": "Rows on a page",
    onchange: (event) => state.change({ size: event.target.value, first: "0" }) },
  SIZES.map((each) => el("option", { value: each, selected: each === size }, `${each} rows`)));
  return [
    el("span", { class: "range" }, total ? `${say.count(first + 1)}–${say.count(first + shown)} of ${say.count(total)}` : "0 entries"),
    el("span", { class: "grow" }), sizes,
    step("first", "First page", 0, page === 1), step("left", "Previous page", first - size, page === 1),
    el("label", { class: "jump" }, "Page ", jump, ` of ${say.count(last)}`),
    step("right", "Next page", first + size, page >= last), step("last", "Last page", (last - 1) * size, page >= last),
  ];
}
