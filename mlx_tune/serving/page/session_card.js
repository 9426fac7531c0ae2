// One session in the tree: what it was taught, how well it knows it, what the gate said.

import { h } from "./dom.js";
import { counted, moment, share, shortName } from "./words.js";

const VERDICTS = { promote: "promoted", ask: "held back", refuse: "refused" };

/** Returns the card of the bare base model. */
export function baseCard(lineage, moves) {
  const back = h(
    "button",
    { type: "button", onclick: () => moves.rollback(null, lineage) },
    "Roll back to the base",
  );
  return h(
    "article",
    { class: "card", "aria-label": "Base model" },
    h("h2", {}, lineage.base ?? "base", lineage.head ? null : badge("HEAD", "head")),
    h("p", { class: "facts" }, "the base model, pristine and frozen"),
    h(
      "div",
      { class: "foot" },
      h("div", { class: "tools" }, lineage.head ? back : null, askLink("base")),
    ),
  );
}

/** Returns the card of a session. */
export function sessionCard(session, lineage, moves) {
  const isHead = session.id === lineage.head;
  return h(
    "article",
    { class: "card", "aria-label": `Session ${shortName(session.id)}` },
    h(
      "h2",
      {},
      `${session.number} ${session.name}`,
      isHead ? badge("HEAD", "head") : null,
      verdict(session),
      ...session.tags.map((tag) => badge(tag, "tag")),
    ),
    h("p", { class: "facts" }, facts(session)),
    session.damaged ? h("p", { class: "note bad" }, session.damaged) : scores(session),
    reasons(session),
    h(
      "div",
      { class: "foot" },
      session.damaged
        ? null
        : h("div", { class: "tools" }, ...tools(session, isHead, lineage, moves).filter(Boolean)),
      h("p", { class: "id" }, session.id),
    ),
  );
}

function verdict({ verdict: said }) {
  return said && said !== "promote" ? badge(VERDICTS[said] ?? said, said) : null;
}

function facts({ rows, sources, created }) {
  const taught = typeof rows === "number" ? counted(rows, "row") : "rows unknown";
  const from = sources?.length ? ` of ${sources.join(", ")}` : "";
  return created ? `${taught}${from} · ${moment(created)}` : `${taught}${from}`;
}

function scores({ as_taught: taught, other_words: reworded, recall }) {
  const rows = [
    ["right as taught", share(taught)],
    ["in other words", share(reworded)],
    ["word for word", share(recall)],
  ];
  const confused = (taught?.confused ?? 0) + (reworded?.confused ?? 0);
  if (confused) rows.splice(2, 0, ["confused", String(confused)]);
  return h(
    "dl",
    { class: "scores" },
    ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function reasons({ verdict: said, reasons: why }) {
  if (!why?.length || !said || said === "promote") return null;
  return h("ul", { class: "reasons" }, ...why.map((reason) => h("li", {}, reason)));
}

function tools(session, isHead, lineage, moves) {
  const name = shortName(session.id);
  const back = h(
    "button",
    {
      type: "button",
      "aria-label": `Roll back to this: ${name}`,
      onclick: () => moves.rollback(session.id, lineage),
    },
    "Roll back to this",
  );
  const promote = h(
    "button",
    { type: "button", "aria-label": `Promote ${name}`, onclick: () => moves.promote(session) },
    "Promote",
  );
  const matrix = h(
    "a",
    { href: `#retention/${session.id}`, "aria-label": `Retention of ${name}` },
    "Retention",
  );
  return [isHead ? null : session.in_chain ? back : promote, askLink(session.id), matrix];
}

function askLink(id) {
  return h(
    "a",
    { href: `#chat/${id}`, "aria-label": `Chat with it: ${shortName(id)}` },
    "Chat with it",
  );
}

function badge(text, kind) {
  return h("span", { class: `badge ${kind}` }, text);
}
