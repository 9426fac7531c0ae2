// The list of conversations, each to be opened or deleted.

import { titleOf } from "./conversations.js";
import { byId, h } from "./dom.js";

/** Shows the list; `open` is the id of the conversation that is on the screen. */
export function showHistory({ conversations, open, onopen, ondelete }) {
  const rows = conversations.map((one) => row(one, one.id === open, onopen, ondelete));
  const isEmpty = rows.length === 0;
  byId("history-list").replaceChildren(...rows);
  byId("history-list").hidden = isEmpty;
  byId("history-clear").hidden = isEmpty;
}

function row(conversation, isOpen, onopen, ondelete) {
  const title = titleOf(conversation);
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: "open",
        "aria-current": isOpen && "true",
        title,
        onclick: () => onopen(conversation),
      },
      title,
    ),
    h(
      "button",
      {
        type: "button",
        class: "delete",
        "aria-label": `Delete “${title}”`,
        onclick: () => ondelete(conversation),
      },
      "×",
    ),
  );
}
