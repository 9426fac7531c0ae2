// What the page says beside its views: a line to be seen, and a line only to be heard.

import { byId } from "./dom.js";

/** Shows a line until the next one; without text, takes it away. */
export function say(text = "") {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = !text;
}

/** Has a screen reader say something; nothing is seen. */
export function speak(text) {
  byId("spoken").textContent = text;
}
