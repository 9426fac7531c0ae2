// A chat completion as it is written, read from server-sent events.

import { ApiError, call } from "./api.js";

/**
 * Yields the pieces of an answer: {text}, {finish} and {tokens}.
 *
 * @param {{model: string, messages: object[], temperature: number, maxTokens: number}} question
 * @param {AbortSignal} signal - Ends the request, and with it the server's work.
 * @throws {ApiError} The server refused, failed on the way, or broke off.
 */
export async function* chatCompletion({ model, messages, temperature, maxTokens }, signal) {
  const body = {
    model,
    messages,
    temperature,
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  };
  const response = await call("/v1/chat/completions", { body, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    yield* pieces(parsed(data));
  }
  throw new ApiError("The answer broke off: the connection ended early.");
}

function* pieces(chunk) {
  if (chunk.error) throw new ApiError(String(chunk.error.message ?? "The server failed."));
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.usage) yield { tokens: chunk.usage.completion_tokens };
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The answer broke off: the server sent something that is no JSON.");
  }
}

/** Yields the data of each event (HTML standard, 9.2.6); comments and other fields are skipped. */
async function* events(stream) {
  let data = [];
  for await (const line of lines(stream)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) return;
    rest += value;
    const whole = rest.split(/\r\n|\n|\r(?!$)/); // a \r at the end may be half of a \r\n
    rest = whole.pop();
    yield* whole;
  }
}

function broken(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError("The answer broke off: the connection was lost.");
}
