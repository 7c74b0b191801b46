// Make elements by their parts and never from a text, so that nothing in a cache can become markup; ask, and tell.

// Libraries that write markup write text: what they take for HTML is escaped, whatever it is.
globalThis.trustedTypes?.createPolicy("default", { createHTML: (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;") });

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "indeterminate") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function icon(name) {
  const paths = {
    up: "M4 10l4-4 4 4", down: "M4 6l4 4 4-4", close: "M4 4l8 8M12 4l-8 8",
    copy: "M6 6h7v7H6zM10 6V3H3v7h3", media: "M2.5 3.5h11v9h-11zM2.5 10.5l3-3 3 3 2-2 3 3",
    search: "M7 2.8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4M10.2 10.2l3.3 3.3", save: "M8 2.5v7M5 7l3 3 3-3M3 13h10",
    bin: "M3 4.5h10M6 4.5v-2h4v2M4.5 4.5l.6 9h5.8l.6-9",
  };
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: paths[name] }));
}

export const byId = (id) => document.getElementById(id);

export function ask(title, text, yes, { dangerous = false } = {}) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { class: "question", "aria-labelledby": "question-title" },
      el("h2", { id: "question-title" }, title),
      text.map((line) => el("p", {}, line)),
      el("form", { method: "dialog", class: "answers" },
        el("button", { class: "plain", value: "no", autofocus: true }, "Cancel"),
        el("button", { class: dangerous ? "danger" : "strong", value: "yes" }, yes)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

let timer = 0;

export function tell(text, { isProblem = false } = {}) {
  const toast = byId("toast");
  toast.replaceChildren(el("span", {}, text), el("button", {
    type: "button", class: "ghost", "aria-label": "Dismiss", onclick: () => { toast.hidden = true; },
  }, "OK"));
  toast.classList.toggle("is-problem", isProblem);
  toast.hidden = false;
  clearTimeout(timer);
  if (!isProblem) timer = setTimeout(() => { toast.hidden = true; }, 6000);
}
