// Conversations kept in this browser, each under a key of its own so that two tabs lose nothing.

const PREFIX = "mlx-tune.conversation.";

/** Returns an empty conversation, not kept yet. */
export function newConversation() {
  return { id: crypto.randomUUID?.() ?? String(Date.now()), changed: Date.now(), turns: [] };
}

/** Returns the conversations that are kept, newest first. */
export function allConversations() {
  return keys()
    .map((key) => read(key))
    .filter((found) => found !== null)
    .sort((one, other) => other.changed - one.changed);
}

/** Keeps a conversation; tells whether the browser had room for it. */
export function keepConversation(conversation) {
  conversation.changed = Date.now();
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

/** Forgets a conversation. */
export function deleteConversation(id) {
  localStorage.removeItem(PREFIX + id);
}

/** Forgets them all. */
export function deleteConversations() {
  for (const key of keys()) localStorage.removeItem(key);
}

/** Returns what a conversation is called: the beginning of its first question. */
export function titleOf({ turns }) {
  const question = (turns[0]?.question ?? "New conversation").replace(/\s+/g, " ").trim();
  return question.length > 60 ? `${question.slice(0, 59)}…` : question;
}

/** Calls back when another tab kept or forgot a conversation. */
export function onOtherTab(callback) {
  addEventListener("storage", ({ key }) => {
    if (key === null || key.startsWith(PREFIX)) callback();
  });
}

function keys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    return []; // a browser may forbid it; then nothing is kept
  }
}

function read(key) {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return isConversation(found) ? found : null;
  } catch {
    return null;
  }
}

function isConversation(found) {
  const isTurn = (turn) =>
    typeof turn?.question === "string" && typeof turn.answer?.text === "string";
  return typeof found?.id === "string" && Array.isArray(found.turns) && found.turns.every(isTurn);
}
