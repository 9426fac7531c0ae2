// The models there are, and the pickers that offer them.

import { get } from "./api.js";
import { h } from "./dom.js";
import { shortName } from "./words.js";

const pickers = [];
let models = [];

/** Asks the server for its models and fills every picker. */
export async function loadModels(options) {
  models = (await get("/v1/models", options)).data;
  pickers.forEach(fill);
}

/** Makes a picker of a select: `first` is chosen where nothing was yet. */
export function offerModels(select, first = "head") {
  const picker = { select, wanted: first };
  select.addEventListener("change", () => (picker.wanted = select.value));
  pickers.push(picker);
  fill(picker);
}

/** Chooses a model in a picker, now or as soon as it is known. */
export function choose(select, id) {
  const picker = pickers.find((one) => one.select === select);
  picker.wanted = id;
  fill(picker);
}

/** Returns a model's name for a person: "HEAD · 3 dining". */
export function modelName(id) {
  const model = models.find((one) => one.id === id);
  if (!model || id === model.root) return shortName(id);
  return `${id === "head" ? "HEAD" : id} · ${shortName(model.root)}`;
}

/** Returns the id of what a model is at this moment: for "head" the session it names. */
export function rootOf(id) {
  return models.find((one) => one.id === id)?.root ?? id;
}

function fill({ select, wanted }) {
  const options = models.map(({ id }) => h("option", { value: id }, modelName(id)));
  select.replaceChildren(...options);
  select.disabled = !options.length;
  if (models.some(({ id }) => id === wanted)) select.value = wanted;
}
