// The chat: one conversation at a time, each answer streamed, all of it kept in this browser.

import { answerCard, emptyAnswer, fill, questionCard } from "./answers.js";
import { composer } from "./composer.js";
import {
  allConversations,
  deleteConversation,
  deleteConversations,
  keepConversation,
  newConversation,
  onOtherTab,
} from "./conversations.js";
import { byId, h } from "./dom.js";
import { confirmed } from "./dialogs.js";
import { showHistory } from "./history.js";
import { linked } from "./markdown.js";
import { choose, offerModels } from "./models.js";
import { say } from "./notices.js";
import { settings, startSettings } from "./settings.js";

let conversation = newConversation();
let form = null;
const running = new Map(); // by conversation's id: {controller, conversation, turn}
const cards = new WeakMap(); // by turn, of the conversation that is shown

/** Connects the view with its elements. */
export function start() {
  startSettings();
  offerModels(byId("chat-model"));
  form = composer({
    form: byId("chat-form"),
    field: byId("chat-question"),
    button: byId("chat-send"),
    onsend: ask,
    onstop: () => running.get(conversation.id)?.controller.abort(),
  });
  for (const id of ["chat-new", "chat-new-narrow"]) {
    byId(id).addEventListener("click", () => open(newConversation()));
  }
  byId("history-clear").addEventListener("click", clearHistory);
  byId("history-toggle").addEventListener("click", () => toggleHistory());
  onOtherTab(list);
  addEventListener("pagehide", () => running.forEach((run) => keepConversation(run.conversation)));
  show();
}

/** Shows the view; an argument is the model to talk to. */
export function enter(model) {
  if (!model) return;
  history.replaceState(null, "", "#chat");
  choose(byId("chat-model"), model);
  byId("chat-question").focus();
}

function ask(question) {
  const turn = { question, answer: emptyAnswer(byId("chat-model").value) };
  conversation.turns.push(turn);
  byId("turns").querySelector(".empty")?.remove();
  byId("turns").append(...cardsOf(turn));
  answerTurn(turn);
  scrollTo({ top: document.body.scrollHeight });
}

function retry(turn) {
  if (running.has(conversation.id)) return;
  turn.answer = emptyAnswer(byId("chat-model").value);
  byId("chat-question").focus(); // the button that had the focus goes
  answerTurn(turn);
}

async function answerTurn(turn) {
  const controller = new AbortController();
  const asked = conversation;
  running.set(asked.id, { controller, conversation: asked, turn });
  form.busy(true);
  cards.get(turn)?.show(turn.answer);
  keep(asked);
  const question = { model: turn.answer.model, messages: messagesUpTo(turn, asked), ...settings() };
  await fill(turn.answer, question, controller.signal, (answer) => update(turn, answer));
  running.delete(asked.id);
  if (!controller.signal.reason?.isForgotten) keep(asked);
  if (asked !== conversation) return;
  form.busy(false);
  cards.get(turn)?.speak();
}

function update(turn, answer) {
  const isAtEnd = innerHeight + scrollY >= document.body.scrollHeight - 80;
  cards.get(turn)?.show(answer);
  if (isAtEnd) requestAnimationFrame(() => scrollTo({ top: document.body.scrollHeight }));
}

/** Returns what the model is sent: the turns before that have an answer, and the question. */
function messagesUpTo(turn, { turns }) {
  const before = turns.slice(0, turns.indexOf(turn)).filter(({ answer }) => answer.text);
  const spoken = before.flatMap(({ question, answer }) => [
    { role: "user", content: question },
    { role: "assistant", content: answer.text },
  ]);
  return [...spoken, { role: "user", content: turn.question }];
}

function open(chosen) {
  conversation = chosen;
  toggleHistory(false);
  show();
  byId("chat-question").focus();
  scrollTo({ top: document.body.scrollHeight });
}

function show() {
  const run = running.get(conversation.id);
  if (run)
    conversation = run.conversation; // what is read from the browser lacks what is coming
  else conversation.turns.forEach(endLost);
  form.busy(Boolean(run));
  const { turns } = conversation;
  byId("turns").replaceChildren(...(turns.length ? turns.flatMap(cardsOf) : [nothingYet()]));
  list();
}

function cardsOf(turn) {
  const card = answerCard({ onretry: () => retry(turn) });
  cards.set(turn, card);
  card.show(turn.answer);
  return [questionCard(null, linked(turn.question)), card.element];
}

/** An answer that was on its way when the page was left comes no more. */
function endLost({ answer }) {
  if (["waiting", "writing"].includes(answer.state)) answer.state = "stopped";
}

function nothingYet() {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, "What would you like to know?"),
    h(
      "p",
      {},
      "Answers are made on the machine that serves this page. Conversations stay in this browser.",
    ),
  );
}

function keep(kept) {
  if (!keepConversation(kept)) say("This browser has no room left: delete some conversations.");
  list();
}

function list() {
  showHistory({
    conversations: allConversations(),
    open: conversation.id,
    onopen: open,
    ondelete: remove,
  });
}

async function remove(chosen) {
  stop(chosen.id);
  deleteConversation(chosen.id);
  if (chosen.id === conversation.id) open(newConversation());
  else list();
}

async function clearHistory() {
  const lines = ["Every conversation in this browser will be gone. This cannot be undone."];
  const title = "Delete all conversations?";
  if (!(await confirmed({ title, lines, action: "Delete all", isGrave: true }))) return;
  [...running.keys()].forEach(stop);
  deleteConversations();
  open(newConversation());
}

function stop(id) {
  running.get(id)?.controller.abort({ isForgotten: true });
}

function toggleHistory(isOpen = !byId("history").classList.contains("open")) {
  byId("history").classList.toggle("open", isOpen);
  byId("history-toggle").setAttribute("aria-expanded", String(isOpen));
}
