// An answer: how it is asked for, written as it arrives, and shown.

import { h } from "./dom.js";
import { rendered } from "./markdown.js";
import { modelName, rootOf } from "./models.js";
import { speak } from "./notices.js";
import { chatCompletion } from "./stream.js";
import { counted, shortName } from "./words.js";

const PAUSE_MS = 50; // between two renderings, so that long answers stay fluent

/** Returns an answer of which nothing is there yet. */
export function emptyAnswer(model) {
  return { text: "", model, root: rootOf(model), state: "waiting" };
}

/**
 * Fills an answer as it arrives; never throws.
 *
 * @param {object} answer - Its `text` grows; its `state` becomes done, stopped or failed.
 * @param {object} question - As for `chatCompletion`.
 * @param {AbortSignal} signal - Stops it; what has come is kept.
 * @param {(answer: object) => void} changed - Called after each piece, and at the end.
 */
export async function fill(answer, question, signal, changed) {
  try {
    for await (const piece of chatCompletion(question, signal)) {
      answer.state = "writing";
      if (piece.text) answer.text += piece.text;
      if (piece.finish) answer.finish = piece.finish;
      if (piece.tokens) answer.tokens = piece.tokens;
      changed(answer);
    }
    answer.state = "done";
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) answer.error = error.message;
  }
  changed(answer);
}

/** Returns a card that shows an answer: `card.show(answer)` brings it up to date. */
export function answerCard({ onretry }) {
  const from = h("p", { class: "from" });
  const body = h("div", { class: "prose" });
  const note = h("p", { class: "note" });
  const tools = h("div", { class: "tools" });
  const element = h(
    "article",
    { class: "answer" },
    from,
    body,
    h("div", { class: "foot" }, tools, note),
  );
  let timer = 0;

  const draw = (answer) => {
    timer = 0;
    const isOpen = answer.state === "waiting" || answer.state === "writing";
    from.textContent = nameOf(answer);
    element.setAttribute("aria-busy", String(isOpen));
    element.dataset.state = answer.state;
    body.replaceChildren(rendered(answer.text, isOpen));
    note.textContent = isOpen ? (answer.text ? "" : "thinking…") : said(answer);
    note.classList.toggle("bad", answer.state === "failed");
    tools.replaceChildren(...(isOpen ? [] : buttons(answer, onretry)));
  };
  return {
    element,
    show(answer) {
      const isOpen = answer.state === "waiting" || answer.state === "writing";
      if (isOpen && answer.text) {
        timer ||= setTimeout(() => draw(answer), PAUSE_MS);
        return;
      }
      clearTimeout(timer);
      draw(answer);
    },
    speak() {
      speak(`${note.textContent} ${body.textContent}`.trim());
    },
  };
}

/** Returns a question as it stands over its answer. */
export function questionCard(text, nodes) {
  return h("div", { class: "question", role: "group", "aria-label": "You asked" }, nodes ?? text);
}

function nameOf({ model, root }) {
  if (model !== "head" || root === "head") return modelName(model);
  return `HEAD · ${shortName(root)}`;
}

function said({ state, finish, tokens, error, text }) {
  if (state === "failed") return error ?? "The answer failed.";
  if (state === "stopped") return "Stopped.";
  if (finish === "length")
    return `Cut off after ${counted(tokens ?? 0, "token")}: the longest answer is in Settings.`;
  if (!text) return "The model said nothing.";
  return tokens ? counted(tokens, "token") : "";
}

function buttons(answer, onretry) {
  const copy = h(
    "button",
    { type: "button", class: "quiet", onclick: () => copied(copy, answer.text) },
    "Copy",
  );
  const retry =
    onretry && h("button", { type: "button", class: "quiet", onclick: onretry }, "Retry");
  return [answer.text ? copy : null, retry].filter(Boolean);
}

async function copied(button, text) {
  const worked = await navigator.clipboard.writeText(text).then(
    () => true,
    () => copiedBySelection(text),
  );
  button.textContent = worked ? "Copied" : "Not copied";
  speak(button.textContent);
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/** Copies where the clipboard is withheld: on plain http from another machine. */
function copiedBySelection(text) {
  const field = h("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
  const focused = document.activeElement;
  field.value = text;
  document.body.append(field);
  field.select();
  const worked = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return worked;
}
