// Write figures for people: sizes, durations, times, and the cells of a table.

const whole = new Intl.NumberFormat("en-US");

export const count = (number) => whole.format(number);

export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = bytes / 1000;
  let place = 0;
  while (value >= 999.5 && place < units.length - 1) { value /= 1000; place += 1; }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}

export function duration(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${short(seconds * 1e6)} µs`;
  if (seconds < 1) return `${short(seconds * 1e3)} ms`;
  if (seconds < 99.5) return `${short(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
  return `${count(Math.round(minutes / 1440))} days`;
}

const short = (value) => (value < 9.95 ? value.toFixed(1) : String(Math.round(value)));

export function percent(part) {
  if (part > 0 && part < 0.01) return "< 1%";
  if (part < 1 && part > 0.99) return "> 99%";
  return `${Math.round(part * 100)}%`;
}

const two = (number) => String(number).padStart(2, "0");

export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function ago(seconds) {
  const since = Math.max(0, Date.now() / 1000 - seconds);
  if (since < 5) return "just now";
  if (since < 90) return `${Math.round(since)} s ago`;
  if (since < 5400) return `${Math.round(since / 60)} min ago`;
  if (since < 129600) return `${Math.round(since / 3600)} h ago`;
  return `${count(Math.round(since / 86400))} days ago`;
}

export const since = (seconds) => duration(Math.max(1, Math.round(Date.now() / 1000 - seconds)));

// A number to six digits, or all of them where that changes nothing.
export function number(value) {
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? String(value) : value.toExponential();
  const digits = Number(value.toPrecision(6));
  const size = Math.abs(digits);
  return size !== 0 && (size < 1e-4 || size >= 1e9) ? digits.toExponential() : String(digits);
}

const PATH = /(?:…|(?<![/\w])(?:\/[^/'"\s,]+){3})[^'"\s,]*\/(?=[^/'"\s,])/g;

// Paths of three folders or more are shown by their last name, also inside of other texts.
export const named = (text) => text.replace(PATH, "");

// The number that a cell stands for, or NaN. A whole float comes as an object, for 1 and 1.0 differ.
export const numberOf = (value) => (typeof value === "number" ? value : value?.n ?? NaN);

const collator = new Intl.Collator("en", { numeric: true });

// Numbers by their size, before texts by their letters.
export function compared(one, other) {
  const [a, b] = [numberOf(one), numberOf(other)];
  if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
  return a - b || collator.compare(cell(one).text, cell(other).text);
}

// The texts of all cells, each once, in order.
export const categories = (cells) => [...new Map(cells.map((each) => [cell(each).text, each]))].sort(([, a], [, b]) => compared(a, b)).map(([text]) => text);

// What a cell says: its text, all of it for a tooltip, and how it is to be set.
export function cell(value, column, write = number) {
  if (value === undefined) return { text: "", full: "", kind: "none" }; // a column that has just come
  if (value === null) return { text: "None", full: "None", kind: "none" };
  if (value === true || value === false) return { text: value ? "True" : "False", full: "", kind: "text" };
  const at = numberOf(value);
  if (column === "created") return { text: moment(at), full: ago(at), kind: "time" };
  if (column === "seconds") return { text: duration(at), full: `${at} s`, kind: "number" };
  if (column === "size") return { text: size(at), full: `${count(at)} bytes`, kind: "number" };
  if (typeof value === "object") {
    if (value.t === "") return { text: "–", full: "no such argument or field", kind: "none" };
    if ("n" in value) return { text: write === number ? value.t : write(value), full: value.t, kind: "number" };
    return { text: value.t, full: value.t, kind: /^-?\d/.test(value.t) || value.t === "nan" ? "number" : "text" };
  }
  if (typeof value === "string") return { text: named(value), full: value, kind: "text" };
  return { text: write(value), full: String(value), kind: "number" };
}

// Writes the numbers of a column with as many decimals as the longest of them needs for five digits, so that they line up.
export function aligned(values) {
  const broken = values.filter((value) => !Number.isInteger(value)).map(numberOf).filter(Number.isFinite);
  const sizes = broken.map(Math.abs).filter((value) => value > 0);
  if (!sizes.length || Math.min(...sizes) < 1e-4 || Math.max(...sizes) >= 1e7) return number;
  const digits = Math.max(...broken.map((value) => (String(Number(value.toPrecision(5))).split(".")[1] ?? "").length));
  return (value) => (Number.isInteger(value) ? String(value) : numberOf(value).toFixed(Math.max(digits, 1)));
}

// A function's name apart from its module, which is told smaller.
export function parts(name) {
  if (!name) return { module: "", name: "(no function)" };
  const local = name.lastIndexOf("<locals>.");
  const dot = local >= 0 ? local + 8 : name.search(/\.[^.]*$/);
  return dot > 0 ? { module: name.slice(0, dot), name: name.slice(dot + 1) } : { module: "", name };
}
