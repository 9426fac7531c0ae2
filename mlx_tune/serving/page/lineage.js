// The lineage: a tree of sessions, who is HEAD, and moving it there and back.

import { get, post } from "./api.js";
import { confirmed } from "./dialogs.js";
import { byId, h } from "./dom.js";
import { loadModels } from "./models.js";
import { say, speak } from "./notices.js";
import { baseCard, sessionCard } from "./session_card.js";
import { shortName } from "./words.js";

/** Nothing to connect: the tree is drawn when it is looked at. */
export function start() {}

/** Shows the lineage as it is now. */
export async function enter() {
  try {
    draw(await get("/api/lineage"));
  } catch (error) {
    byId("lineage-body").replaceChildren(h("p", { class: "note bad" }, error.message));
  }
}

function draw(lineage) {
  const tree = h(
    "ol",
    { class: "lane" },
    h("li", { class: mark(!lineage.head, true) }, baseCard(lineage, moves)),
    ...lane(null, lineage),
  );
  byId("lineage-body").replaceChildren(now(lineage), tree);
}

function now(lineage) {
  const name = lineage.head ? shortName(lineage.head) : `the base model, ${lineage.base}`;
  const back = lineage.previous ? shortName(lineage.previous) : "the base model";
  const button = h(
    "button",
    { type: "button", onclick: () => moves.rollback(lineage.previous, lineage) },
    `Roll back to ${back}`,
  );
  return h(
    "div",
    { class: "now", id: "lineage-now", tabindex: "-1" },
    h("p", {}, "In use: ", h("strong", {}, name)),
    lineage.error ? h("p", { class: "note bad" }, lineage.error) : null,
    lineage.head ? button : null,
  );
}

/** Returns the rows under a parent: its side branches, then the child that goes on, and so down. */
function lane(parent, lineage) {
  const rows = [];
  let children = childrenOf(parent, lineage);
  while (children.length) {
    const onward = children.find((child) => child.in_chain) ?? children[0];
    const others = children.filter((child) => child !== onward);
    rows.push(...others.map((child) => branch(child, onward, lineage)), row(onward, lineage));
    children = childrenOf(onward.id, lineage);
  }
  return rows;
}

function childrenOf(parent, { sessions }) {
  const known = new Set(sessions.map(({ id }) => id));
  // What stands on something that is not there any more is shown as well, at the root.
  const parentOf = (session) => (known.has(session.parent) ? session.parent : null);
  return sessions.filter((session) => parentOf(session) === parent);
}

/** Returns the row of a side branch, past which the line goes on to another child. */
function branch(session, onward, lineage) {
  return h(
    "li",
    { class: onward.in_chain ? "side in-chain" : "side" },
    h("ol", { class: "lane" }, row(session, lineage), ...lane(session.id, lineage)),
  );
}

function row(session, lineage) {
  return h(
    "li",
    { class: mark(session.id === lineage.head, session.in_chain) },
    sessionCard(session, lineage, moves),
  );
}

function mark(isHead, isInChain) {
  return ["step", isHead && "head", isInChain && "in-chain"].filter(Boolean).join(" ");
}

const moves = {
  /** Moves HEAD back to an ancestor, once a person said so; null is the base. */
  async rollback(to, { head }) {
    const name = to ? shortName(to) : "the base model";
    const lines = [
      `Answers will then come from ${name}; those being written now are not touched.`,
      `${shortName(head)} stays in the store; it can be promoted again.`,
    ];
    const isSure = await confirmed({ title: `Roll back to ${name}?`, lines, action: "Roll back" });
    if (isSure) await move("/api/rollback", { to });
  },
  /** Moves HEAD to a session it does not stand on, once a person said so. */
  async promote(session) {
    const name = shortName(session.id);
    const isOverruled = session.verdict === "ask" || session.verdict === "refuse";
    const lines = [
      ...(isOverruled ? ["The gate held this session back:", ...session.reasons] : []),
      `Answers will then come from ${name} and what it stands on.`,
    ];
    const action = isOverruled ? "Promote all the same" : "Promote";
    if (await confirmed({ title: `Promote ${name}?`, lines, action })) {
      await move("/api/promote", { session: session.id });
    }
  },
};

async function move(path, body) {
  try {
    const { head } = await post(path, body);
    say();
    const models = loadModels();
    await enter();
    // The button that was pressed is gone with the old tree: the focus moves with the drawing.
    byId("lineage-now")?.focus();
    await models;
    speak(`In use: ${head ? shortName(head) : "the base model"}`);
  } catch (error) {
    say(error.message);
  }
}
