// Jobs whose latest run failed: their errors in a table. The traceback of one stands where an entry does.

import * as api from "./api.js";
import { byId, el, icon } from "./dom.js";
import * as say from "./format.js";
import { drop } from "./selection.js";
import * as state from "./state.js";
import { line, local, typed } from "./table.js";

const COLUMNS = [["created", "began", 175], ["call", "arguments", 320], ["error", "error", 380], ["seconds", "took", 90], ["code", "code", 120]];
const written = (field, value) => (field === "created" ? say.moment(value) : field === "seconds" ? say.duration(value) : value);

const failed = local();
let hidden = 0;

export async function show(place) {
  const { store, function: name, code } = state.now;
  const answer = await api.get("failed", { store, function: name, code });
  hidden = answer.hidden;
  if (!byId("failed")) {
    place.replaceChildren(el("div", { id: "tools" }), el("div", { id: "failed", onclick: chosen, oninput: typed,
      onkeydown: (event) => { if (event.key === "Enter") chosen(event); } }));
  }
  const table = await failed(byId("failed"), JSON.stringify([store, name]), answer.jobs, {
    index: "key", rowFormatter: line, placeholder: el("p", { class: "none-left" }, "No failed job passes."),
    initialSort: [{ column: "created", dir: "desc" }],
    columnDefaults: { formatter: (cell) => el("span", {}, written(cell.getField(), cell.getValue())) },
    columns: COLUMNS.map(([field, title, width]) => ({
      field, title, width, titleFormatter: () => el("button", { type: "button", class: "sort" }, title),
      cssClass: { seconds: "is-number", error: "is-error" }[field] ?? "", headerFilter: "input", headerFilterPlaceholder: "filter",
      headerFilterParams: { elementAttributes: { "aria-label": `Filter ${title}`, "data-column": field } },
      headerFilterFunc: (text, value) => written(field, value).toLowerCase().includes(text.toLowerCase()),
    })),
  }, (filters, rows) => tools(rows.map((row) => row.getData().key)));
  tools(table.getData("active").map((job) => job.key));
}

function tools(keys) {
  byId("tools")?.replaceWith(el("div", { class: "tools", id: "tools" },
    el("span", { class: "muted", role: "status" }, [say.counted(keys.length, "failed job"), hidden ? `${say.count(hidden)} of other versions not shown` : ""].filter(Boolean).join(", ")),
    api.session.read_only || !keys.length ? null : el("button", {
      type: "button", class: "plain is-danger", onclick: () => drop({ store: state.now.store, failed: true, keys }, keys.length),
    }, icon("bin"), "Clear…")));
}

function chosen(event) {
  const row = event.target.closest("[data-key]");
  if (row) state.change({ key: state.now.key === row.dataset.key ? "" : row.dataset.key });
}
