// How answers are drawn: temperature and length, kept in this browser.

import { byId } from "./dom.js";

const KEY = "mlx-tune.settings";
const DEFAULTS = { temperature: 0, maxTokens: 512 };

/** Returns the settings as they stand in their fields; a field with nonsense counts as untouched. */
export function settings() {
  return {
    temperature: number("temperature", DEFAULTS.temperature),
    maxTokens: number("max-tokens", DEFAULTS.maxTokens),
  };
}

/** Fills the fields and keeps what is changed there. */
export function startSettings() {
  const { temperature, maxTokens } = { ...DEFAULTS, ...kept() };
  byId("temperature").value = temperature;
  byId("max-tokens").value = maxTokens;
  for (const id of ["temperature", "max-tokens"]) {
    byId(id).addEventListener("change", () => keep(settings()));
  }
  closeWhenLeft(byId("settings"));
}

function closeWhenLeft(sheet) {
  document.addEventListener("pointerdown", ({ target }) => {
    if (!sheet.contains(target)) sheet.open = false;
  });
  sheet.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    sheet.open = false;
    sheet.querySelector("summary").focus();
  });
}

function number(id, otherwise) {
  const field = byId(id);
  return field.value && field.validity.valid ? field.valueAsNumber : otherwise;
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function keep(values) {
  try {
    localStorage.setItem(KEY, JSON.stringify(values));
  } catch {
    // a browser may forbid it; then they last until the page is loaded again
  }
}
