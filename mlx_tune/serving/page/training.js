// A training that runs: how far it is, how long it still takes, its loss.

import { get } from "./api.js";
import { chart } from "./chart.js";
import { byId, h } from "./dom.js";
import { decimal, duration } from "./words.js";

const POLL_MS = { running: 2000, otherwise: 10000 };
const STATES = {
  running: "Running",
  interrupted: "Interrupted",
  finished: "Finished",
  failed: "Failed",
};
const FRAME = 34; // pixels that the figure has around its drawing
let timer = 0;
let isShown = false;
let last = "";

/** Connects the view with its elements. */
export function start() {
  document.addEventListener("visibilitychange", () => {
    if (isShown && !document.hidden) poll();
  });
}

/** Shows the training and keeps it up to date until the view is left. */
export function enter() {
  isShown = true;
  poll({ mayAsk: true });
}

/** Stops looking. */
export function leave() {
  isShown = false;
  clearTimeout(timer);
}

async function poll({ mayAsk = false } = {}) {
  clearTimeout(timer);
  let state = "";
  try {
    const { run } = await get("/api/training", { mayAsk });
    state = run?.state ?? "";
    if (isShown) show(run);
  } catch (error) {
    if (isShown) tell(error.message);
  }
  clearTimeout(timer); // another look may have begun meanwhile
  if (isShown && !document.hidden) timer = setTimeout(poll, POLL_MS[state] ?? POLL_MS.otherwise);
}

function show(run) {
  const now = JSON.stringify(run);
  if (now === last && byId("training-body").childElementCount) return;
  last = now;
  byId("training-body").replaceChildren(...(run ? drawn(run) : [nothing()]));
}

function tell(text) {
  last = "";
  byId("training-body").replaceChildren(h("p", { class: "note bad" }, text));
}

function nothing() {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, "No training is running."),
    h(
      "p",
      {},
      "Start one in a terminal: ",
      h("code", {}, "mlx-tune train data/cs.json"),
      ". Its loss and the time left appear here.",
    ),
  );
}

function drawn(run) {
  const left =
    typeof run.seconds_left === "number" ? `about ${duration(run.seconds_left)} left` : "";
  const [, loss] = run.losses.at(-1) ?? [];
  const isEarly = run.state === "finished" && run.step < run.steps;
  const steps = isEarly ? run.step : run.steps;
  const facts = [
    ["Epoch", `${run.epoch} of ${isEarly ? run.epoch : run.epochs}`],
    ["Step", `${run.step} of ${steps}`],
    ["Loss", loss === undefined ? "–" : decimal(loss, { digits: 3 })],
  ];
  return [
    h(
      "p",
      { class: "lead" },
      h("span", { class: `badge ${run.state}` }, STATES[run.state] ?? run.state),
      " ",
      h("strong", {}, run.name),
      left && run.state === "running" ? `, ${left}` : "",
    ),
    h("progress", { max: steps, value: run.step, "aria-label": "Steps done" }),
    h(
      "dl",
      { class: "measures" },
      ...facts.map(([name, value]) =>
        h("div", {}, h("dt", {}, name), h("dd", { class: "value" }, value)),
      ),
    ),
    run.losses.length > 1
      ? chart(run.losses, steps, byId("training-body").clientWidth - FRAME)
      : h("p", { class: "note" }, "The loss is drawn from the second step on."),
    isEarly
      ? h("p", { class: "note" }, `All was learned before the ${run.epochs} epochs there could be.`)
      : "",
    run.state === "interrupted"
      ? h(
          "p",
          { class: "note" },
          h("code", {}, "mlx-tune resume"),
          " goes on exactly where it stopped.",
        )
      : "",
  ];
}
