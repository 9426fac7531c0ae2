// Questions that wait for a person: a confirmation, and the token.

import { byId } from "./dom.js";

/**
 * Asks whether something shall be done.
 *
 * @param {{title: string, lines: string[], action: string, isGrave?: boolean}} question
 * @returns {Promise<boolean>} False also where the dialog was left with Escape.
 */
export async function confirmed({ title, lines, action, isGrave = false }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").replaceChildren(...lines.map(paragraph));
  byId("confirm-action").textContent = action;
  byId("confirm-action").classList.toggle("grave", isGrave);
  return (await answered(dialog)) === "yes";
}

/** Asks for the server's token; returns "" where none is given. */
export async function askForToken({ wasRefused }) {
  const field = byId("token-field");
  field.value = "";
  byId("token-refused").hidden = !wasRefused;
  byId("token-cancel").onclick = () => byId("token").close("no"); // Enter in the field is the other
  return (await answered(byId("token"))) === "yes" ? field.value.trim() : "";
}

function answered(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}
