// The field a question is written in: it grows, Enter sends, and while an answer comes Send stops.

/**
 * Makes a form a composer.
 *
 * @param {{form: HTMLFormElement, field: HTMLTextAreaElement, button: HTMLButtonElement,
 *   onsend: (text: string) => void, onstop: () => void}} parts
 * @returns {{busy: (isBusy: boolean) => void}}
 */
export function composer({ form, field, button, onsend, onstop }) {
  const label = button.textContent;
  let isBusy = false;

  const submit = () => {
    const text = field.value.trim();
    if (isBusy || !text) return;
    field.value = "";
    fit(field);
    onsend(text);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isBusy && event.submitter === button) onstop();
    else submit();
  });
  field.addEventListener("input", () => fit(field));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape" && isBusy) onstop();
  });
  return {
    busy(now) {
      isBusy = now;
      button.textContent = now ? "Stop" : label;
      button.classList.toggle("stop", now);
    },
  };
}

function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
