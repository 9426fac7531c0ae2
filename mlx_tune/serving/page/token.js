// The server's token: taken once from the address, kept for this tab, asked for when it is needed.

import { askForToken } from "./dialogs.js";

const KEY = "mlx-tune.token";
let token = stored();
let asking = null;

/** Takes a token from an address such as /#token=…, and takes it out of there. */
export function takeTokenFromAddress() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return;
  keep(decoded(found[1]));
  // Nobody who looks over the shoulder, and no history, should have it.
  history.replaceState(null, "", location.pathname + location.search);
}

/** Returns the header that carries the token; none where it is not known. */
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Returns what tells one token from the next. */
export function currentToken() {
  return token;
}

/** Asks a person for the token, once however many calls need it; tells whether they gave one. */
export async function askAgain(refused) {
  if (token !== refused) return Boolean(token); // another call has asked meanwhile
  asking ??= askForToken({ wasRefused: Boolean(refused) }).finally(() => (asking = null));
  const given = await asking;
  if (given) keep(given);
  return Boolean(given);
}

function keep(given) {
  token = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // a browser may forbid it; then it lasts until the page is loaded again
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
