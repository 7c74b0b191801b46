// Ask before anything is changed, and say what went wrong.

import { byId, el } from "./dom.js";

// Ask; gives whether the answer was yes. What is done can't be undone, so No has the focus.
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
