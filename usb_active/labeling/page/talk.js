// What the page says to the server, and hears. Addresses are relative: the token is in the page's own.

// This tab; somebody else's tab has another one. It outlives a reload, for undo. While the page is there it is not in the tab's storage:
// a tab that is duplicated gets a copy of that.
const client = stored("getItem", "client") || crypto.getRandomValues(new Uint32Array(4)).join("-");
stored("removeItem", "client");

// What this tab keeps when it is loaded again: "getItem" of a name, "setItem", "removeItem".
export function stored(what, ...more) {
  try {
    return sessionStorage[what](...more);
  } catch {
    // A browser that keeps nothing: a reload is somebody else.
    return null;
  }
}

// Who goes lets others have the image.
addEventListener("pagehide", () => {
  stored("setItem", "client", client);
  post("drop", {}, { keepalive: true }).catch(() => null);
});
addEventListener("pageshow", () => stored("removeItem", "client"));

export class Refused extends Error {
  constructor(message, moved) {
    super(message);
    this.moved = moved;
  }
}

async function read(response) {
  const text = await response.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Refused(text.trim() || `status ${response.status}`, false);
  }
  if (!response.ok) throw new Refused(told.error, Boolean(told.moved));
  return told;
}

export async function everything() {
  return read(await fetch("state"));
}

function post(what, message, more = {}) {
  const body = JSON.stringify({ client, ...message });
  return fetch(what, { method: "POST", headers: { "Content-Type": "application/json" }, body, ...more });
}

export async function send(what, message) {
  return read(await post(what, message));
}
