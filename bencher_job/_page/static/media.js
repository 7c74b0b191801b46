// Files that a job wrote: pictures, films and sounds as such, texts by their beginning, others to save.

import { mediaUrl } from "./api.js";
import { el, icon } from "./dom.js";
import * as say from "./format.js";

const BEGINNING = 32768;
const TEXTS_AT_ONCE = 5;

export function files(store, entry) {
  let texts = 0;
  return el("div", { class: "files" }, entry.media.map((file) => {
    const url = mediaUrl(store, entry.key, file.name);
    const isRead = file.kind === "text" && (texts += 1) <= TEXTS_AT_ONCE;
    return el("figure", {}, content(file, url, isRead),
      el("figcaption", {}, el("span", { title: `${entry.folder}/${file.name}` }, file.name.split("/").at(-1)), el("span", { class: "muted" }, say.size(file.size)),
        el("a", { class: "ghost", href: mediaUrl(store, entry.key, file.name, true), download: "", "aria-label": `Save ${file.name}`, title: "Save" }, icon("save"))));
  }));
}

function content(file, url, isRead) {
  if (file.kind === "image") {
    return el("a", { href: url, target: "_blank", rel: "noopener", title: "Open by itself" },
      el("img", { src: url, alt: file.name, loading: "lazy" }));
  }
  if (file.kind === "video") return el("video", { src: url, controls: true, preload: "metadata" });
  if (file.kind === "audio") return el("audio", { src: url, controls: true, preload: "metadata" });
  return isRead ? text(url, file.size) : null;
}

function text(url, size) {
  const place = el("pre", { class: "code" }, "…");
  fetch(url, { headers: { range: `bytes=0-${BEGINNING - 1}` } })
    .then((response) => (response.ok ? response.text() : Promise.reject(new Error(String(response.status)))))
    .then((beginning) => { place.textContent = beginning + (size > BEGINNING ? "\n…" : ""); })
    .catch((error) => { place.textContent = `It can’t be read: ${error.message}`; });
  return place;
}
