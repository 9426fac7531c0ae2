// Calls to this page's own server, the token with every one of them.

import { askAgain, authorization, currentToken } from "./token.js";

/** A call that failed, in words for a person. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** Returns the JSON of a GET. */
export async function get(path, options = {}) {
  return json(await call(path, options));
}

/** Returns the JSON of a POST. */
export async function post(path, body) {
  return json(await call(path, { body }));
}

/**
 * Returns the response of a call that succeeded.
 *
 * @param {string} path
 * @param {{body?: object, signal?: AbortSignal, mayAsk?: boolean}} options - `mayAsk` is false for
 *   calls that nobody made by hand: those open no dialog.
 * @throws {ApiError} The server refused or could not be reached.
 */
export async function call(path, { body, signal, mayAsk = true } = {}) {
  for (;;) {
    const used = currentToken();
    const response = await send(path, body, signal);
    if (response.ok) return response;
    if (response.status === 401 && mayAsk && (await askAgain(used))) continue;
    throw await refusal(response);
  }
}

async function send(path, body, signal) {
  const headers = { ...authorization(), ...(body && { "Content-Type": "application/json" }) };
  const method = body ? "POST" : "GET";
  try {
    return await fetch(path, {
      method,
      headers,
      signal,
      body: body && JSON.stringify(body),
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `mlx-tune serve` still running?");
  }
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The server answered with something that is no JSON.", response.status);
  }
}

async function refusal(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The server answered ${response.status}.`;
  return new ApiError(String(message), response.status);
}
