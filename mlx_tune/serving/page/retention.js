// The retention matrix as tables: numbers first, the colour says the same again.

import { get } from "./api.js";
import { byId, h } from "./dom.js";
import { decimal, shortName, wholePercent } from "./words.js";

const STEPS = 10;
const TITLES = {
  other_words: ["Right in other words", "asked in words never trained on"],
  as_taught: ["Right as taught", "with the taught facts, in any words"],
  verbatim: ["Word for word", "asked and answered exactly as taught"],
};

/** Connects the view with its elements. */
export function start() {
  byId("retention-session").addEventListener("change", (event) => load(event.target.value));
}

/** Shows a session's matrix, HEAD's where none is named. */
export async function enter(session) {
  const select = byId("retention-session");
  const chosen = session ?? select.value;
  try {
    const { sessions, head } = await get("/api/lineage");
    const options = sessions.filter(({ damaged }) => !damaged).reverse();
    select.replaceChildren(
      ...options.map(({ id }) =>
        h("option", { value: id }, id === head ? `HEAD · ${shortName(id)}` : shortName(id)),
      ),
    );
    select.disabled = !options.length;
    const known = options.some(({ id }) => id === chosen);
    select.value = known ? chosen : (head ?? options[0]?.id ?? "");
    if (!options.length) return tell("Nothing was taught yet, so there is nothing to forget.");
    await load(select.value);
  } catch (error) {
    tell(error.message, true);
  }
}

async function load(session) {
  try {
    const found = await get(`/api/retention?session=${encodeURIComponent(session)}`);
    if (byId("retention-session").value !== session) return; // another was chosen meanwhile
    byId("retention-body").replaceChildren(...drawn(found));
  } catch (error) {
    tell(error.message, true);
  }
}

function drawn(found) {
  if (!found.labels?.length)
    return [h("p", { class: "note" }, "There is no session to be asked about.")];
  const known = found.scores.filter(({ matrix }) => matrix.flat().some(Boolean));
  if (!known.length)
    return [h("p", { class: "note" }, "Nothing was measured yet: `mlx-tune eval` does it.")];
  const sections = known.flatMap((score) => section(found.labels, score));
  return [...sections, legend(), generalAnswers(found.general)];
}

function section(labels, { kind, matrix, measures }) {
  const [title, meaning] = TITLES[kind];
  return [
    h("h2", {}, title, h("span", {}, `, ${meaning}`)),
    summary(measures),
    table(labels, matrix, title, meaning),
  ];
}

function tell(text, isBad = false) {
  byId("retention-body").replaceChildren(h("p", { class: isBad ? "note bad" : "note" }, text));
}

function summary({ acc, bwt, fwt, forgetting, worst }) {
  const points = (value, signed = true) =>
    isNumber(value) ? `${decimal(value, { signed })} points` : "–";
  const rows = [
    ["Known now", "ACC", isNumber(acc) ? `${decimal(acc)} %` : "–", "mean over sessions"],
    ["Since learned", "BWT", points(bwt), "below 0 means forgetting"],
    ["Forgotten", "F", points(forgetting, false), "from the best it ever was"],
    ["Known beforehand", "FWT", points(fwt), "against the base"],
    ["Known least", "", worst ?? "–", "of all sessions"],
  ];
  return h("dl", { class: "measures" }, ...rows.map(measure));
}

function generalAnswers(general) {
  const value = isNumber(general) ? `${decimal(general, { signed: true, digits: 3 })} nats` : "–";
  const row = ["General answers", "ΔG", value, "loss per token, against the base"];
  return h("dl", { class: "measures" }, measure(row));
}

function measure([name, term, value, meaning]) {
  return h(
    "div",
    {},
    h("dt", {}, name, term ? h("abbr", {}, ` ${term}`) : null),
    h("dd", { class: "value" }, value),
    h("dd", { class: "meaning" }, meaning),
  );
}

function table(labels, matrix, title, meaning) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "after"),
    ...labels.map((label) => h("th", { scope: "col" }, label)),
  );
  const rows = matrix.map((cells, index) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, index ? labels[index - 1] : "base"),
      ...cells.map(cell),
    ),
  );
  return h(
    "div",
    // It scrolls sideways, which the keyboard can do only where the focus can go.
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    h(
      "table",
      { class: "heat", "aria-label": `${title}, ${meaning}` },
      h("thead", {}, head),
      h("tbody", {}, ...rows),
    ),
  );
}

function cell(found) {
  if (!found?.asked)
    return h(
      "td",
      { class: "unknown" },
      h("span", { "aria-hidden": "true" }, "–"),
      h("span", { class: "unseen" }, "not measured"),
    );
  const step = Math.min(Math.floor((found.right / found.asked) * STEPS), STEPS - 1);
  return h(
    "td",
    { class: `step-${step}` },
    `${wholePercent(found)} %`,
    h("small", {}, ` of ${found.asked}`),
  );
}

function legend() {
  const steps = [...Array(STEPS).keys()].map((step) => h("span", { class: `step-${step}` }));
  return h(
    "p",
    { class: "legend" },
    "0 %",
    h("span", { class: "scale", "aria-hidden": "true" }, ...steps),
    "100 %",
    h("span", { class: "apart" }, "– not measured"),
  );
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
