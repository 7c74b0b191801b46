// What is shown. It stands in the address, so that going back, reloading and a bookmark work.

const DEFAULTS = {
  store: "", function: "", view: "table", sort: "-created", search: "", filters: "{}", first: "0", size: "50",
  x: "", y: "", color: "", facet: "", band: "", logx: "", logy: "", key: "", hidden: "", by: "", compare: "", code: "",
};

const listeners = [];

export let now = read();

function read() {
  return { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
}

function written(state) {
  const told = Object.entries(state).filter(([name, value]) => name in DEFAULTS && value !== DEFAULTS[name]);
  return `#${new URLSearchParams(told)}`;
}

export const filters = () => {
  try {
    return JSON.parse(now.filters);
  } catch {
    return {};
  }
};

// What the server is to be asked for, of rows and points alike.
export const query = () => ({
  store: now.store, function: now.function, filters: now.filters, search: now.search, sort: now.sort, code: now.code,
});

// Show something else. What replaces is not a step to go back over; what is quiet is shown already.
export function change(some, { replaces = false, quiet = false } = {}) {
  const before = now;
  now = { ...now, ...some };
  const address = written(now);
  if (address !== written(before)) history[replaces ? "replaceState" : "pushState"](null, "", address);
  if (!quiet) for (const listen of listeners) listen(before);
}

export const listen = (listener) => listeners.push(listener);

export const forFunction = (store, { name, entries }) => ({
  ...DEFAULTS, store, function: name, size: now.size,
  view: entries ? ["groups", "plot"].find((view) => view === now.view) ?? "table" : "failed",
});

addEventListener("popstate", () => {
  const before = now;
  now = read();
  for (const listen of listeners) listen(before);
});
