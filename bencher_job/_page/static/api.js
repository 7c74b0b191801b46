// Ask the server, and say what it means when it doesn't answer.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export let session = {};

async function answered(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new Refused("The server does not answer. Start it again: bencher-job serve", 0);
  }
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    const body = await response.json();
    if (response.ok) return body;
    throw new Refused(body.error, response.status);
  }
  if (response.ok) return response;
  throw new Refused(response.status === 403
    ? "This session has ended. Open the URL that bencher-job serve printed last."
    : `The server failed (${response.status}).`, response.status);
}

export function get(path, given = {}) {
  const known = Object.entries(given).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return answered(fetch(`api/${path}?${new URLSearchParams(known)}`));
}

export function post(path, body) {
  const headers = { "content-type": "application/json", "x-bencher-job": session.token };
  return answered(fetch(`api/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

export async function begin() {
  session = await get("session");
  return session;
}

export function mediaUrl(store, key, name, download = false) {
  const path = [store, key, ...name.split("/")].map(encodeURIComponent).join("/");
  return `media/${path}${download ? "?download" : ""}`;
}
