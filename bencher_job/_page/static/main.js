// The page as a whole: what is asked for when it opens, when the user chooses something, and when the store changes.

import * as api from "./api.js";
import * as compare from "./compare.js";
import { byId, el, tell } from "./dom.js";
import * as failed from "./failed.js";
import * as functions from "./functions.js";
import * as groups from "./groups.js";
import * as plot from "./plot.js";
import * as record from "./record.js";
import * as state from "./state.js";
import * as table from "./table.js";

const VIEWS = { compare, failed, groups, plot, table };
const EVERY = 1000;
const SLOW = 300;

let stores = [];
let stamp = "";

const chosen = () => stores.find((store) => store.name === state.now.store)
  ?.functions.find((each) => each.name === state.now.function);

function live(text, kind) {
  const place = byId("live");
  if (place.textContent !== text) place.textContent = text;
  place.className = `live is-${kind}`;
}

async function overview() {
  const answer = await api.get("overview");
  stores = answer.stores;
  stamp = answer.stamp;
  if (!chosen()) choose();
  functions.show(stores);
}

// Show the function that was used last, where none is chosen or the one that was has no entries left.
function choose() {
  const all = stores.flatMap((store) => store.functions.map((each) => ({ store: store.name, ...each })));
  const latest = all.sort((a, b) => b.used - a.used)[0];
  table.forget();
  state.change(latest ? state.forFunction(latest.store, latest) : { store: "", function: "", key: "" }, { replaces: true, quiet: true });
}

function empty() {
  const code = [
    "from bencher_job import cached_job", "", "@cached_job", "def score(model: str, c: float = 1.0) -> dict:",
    '    return {"accuracy": ...}', "", 'score("svm", c=0.1)',
  ].join("\n");
  const problems = stores.filter((store) => store.error);
  byId("main").replaceChildren(el("section", { class: "empty" },
    el("img", { src: "static/mark.svg", alt: "", width: 44, height: 44 }),
    el("h1", {}, problems.length ? "This cache can’t be shown" : "Nothing is remembered here yet"),
    problems.map((store) => el("p", { class: "problem" }, store.error)),
    el("p", {}, "This page shows ", el("code", {}, api.session.directory), ". It fills by itself as soon as a job is done:"),
    el("pre", { class: "code" }, code),
    el("p", { class: "muted" }, "Do your programs keep their cache elsewhere? Then start ",
      el("code", {}, "bencher-job serve --cache-dir DIR"), " with their folder.")));
}

async function view() {
  const each = chosen();
  byId("body").classList.toggle("is-empty", !stores.some((store) => store.functions.length || store.running.length));
  if (!each) {
    document.title = "bencher_job";
    empty();
    return;
  }
  const title = `${each.name || "(no function)"} · bencher_job`;
  if (document.title !== title) document.title = title;
  functions.head(byId("main"), each);
  await (VIEWS[state.now.view] ?? table).show(byId("view"));
}

let turn = Promise.resolve();

// One at a time, so that a slow answer never replaces a later one. What takes long says that it is at work.
function refresh(work) {
  turn = turn.then(async () => {
    const slow = setTimeout(() => live("working", "busy"), SLOW);
    try {
      await work();
      live("live", "good");
    } catch (error) {
      fail(error);
    } finally {
      clearTimeout(slow);
    }
  });
  return turn;
}

let failing = "";

// Say what went wrong, and once only while it stays so.
function fail(error) {
  const isGone = error.status === 0 || error.status === 403;
  live(error.status === 0 ? "no answer" : error.status === 403 ? "session ended" : "live", isGone ? "bad" : "good");
  if (!isGone || failing !== error.message) tell(error.message, { isProblem: true });
  failing = isGone ? error.message : "";
}

state.listen((before) => refresh(async () => {
  const other = before.function !== state.now.function || before.store !== state.now.store;
  if (other) {
    table.forget();
    functions.show(stores);
  }
  if (before.view !== state.now.view) table.forget();
  if (before.key !== state.now.key || other) {
    await record.show();
    table.mark();
  }
  if (Object.keys(state.now).some((name) => name !== "key" && before[name] !== state.now[name])) await view();
}));

export const reload = () => refresh(async () => {
  await overview();
  await view();
  await record.show();
});

async function watch() {
  let pause = EVERY;
  try {
    if (!document.hidden) {
      const answer = await api.get("stamp");
      if (answer.stamp !== stamp) {
        const begun = performance.now();
        await reload();
        // A store that takes long to look at is looked at less often.
        pause = Math.max(EVERY, 3 * (performance.now() - begun));
      }
      if (failing) {
        failing = "";
        live("live", "good");
      }
    }
  } catch (error) {
    fail(error);
  }
  setTimeout(watch, pause);
}

async function begin() {
  try {
    const { directory, unpickles, read_only: isReadOnly } = await api.begin();
    byId("place").replaceChildren(el("code", { title: directory }, directory),
      isReadOnly ? el("span", { class: "badge", title: "Nothing can be cleared here, so the URL may be shared." }, "read only") : "",
      unpickles ? el("span", { class: "badge is-warning", title: "Values that can’t be shown otherwise are unpickled, which runs code." }, "trusted") : "");
  } catch (error) {
    fail(error);
  }
  await reload();
  document.body.dataset.ready = "true";
  setTimeout(watch, EVERY);
}

addEventListener("bencher-job-changed", reload);
addEventListener("bencher-job-failed", (event) => fail(event.detail));
begin();
