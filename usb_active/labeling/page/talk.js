// What the page says to the server, and hears. Addresses are relative: the token is in the page's own.

// This tab; somebody else's tab has another one.
export const client = crypto.getRandomValues(new Uint32Array(4)).join("-");

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

export async function send(what, message) {
  const body = JSON.stringify({ client, ...message });
  return read(await fetch(what, { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}
