// Side by side: the same question to two models, answered at once.

import { answerCard, emptyAnswer, fill, questionCard } from "./answers.js";
import { composer } from "./composer.js";
import { byId, h } from "./dom.js";
import { linked } from "./markdown.js";
import { offerModels } from "./models.js";
import { settings } from "./settings.js";

let form = null;
let running = []; // the controllers of the round that is being answered

/** Connects the view with its elements. */
export function start() {
  offerModels(byId("compare-left"), "head");
  offerModels(byId("compare-right"), "base");
  form = composer({
    form: byId("compare-form"),
    field: byId("compare-question"),
    button: byId("compare-send"),
    onsend: ask,
    onstop: () => running.forEach((controller) => controller.abort()),
  });
  byId("rounds").append(
    h(
      "div",
      { class: "empty" },
      h("p", {}, "What did a session change? Ask it, and what it stands on."),
    ),
  );
}

async function ask(question) {
  const sides = ["compare-left", "compare-right"].map((id) => side(byId(id).value));
  byId("rounds").querySelector(".empty")?.remove();
  byId("rounds").append(
    h(
      "div",
      { class: "round" },
      questionCard(null, linked(question)),
      h("div", { class: "pair" }, ...sides.map(({ card }) => card.element)),
    ),
  );
  scrollTo({ top: document.body.scrollHeight });
  running = sides.map(({ controller }) => controller);
  form.busy(true);
  await Promise.all(sides.map((one) => answerSide(one, question)));
  form.busy(false);
  sides.forEach(({ card }) => card.speak());
}

function side(model) {
  const card = answerCard({});
  const answer = emptyAnswer(model);
  card.show(answer);
  return { card, answer, controller: new AbortController() };
}

function answerSide({ card, answer, controller }, question) {
  const messages = [{ role: "user", content: question }];
  const asked = { model: answer.model, messages, ...settings() };
  return fill(answer, asked, controller.signal, (now) => card.show(now));
}
