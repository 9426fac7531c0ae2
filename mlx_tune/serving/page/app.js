// Starts the page: takes the token, shows the view that the address names.

import * as chat from "./chat.js";
import * as compare from "./compare.js";
import * as lineage from "./lineage.js";
import * as retention from "./retention.js";
import * as training from "./training.js";
import { get } from "./api.js";
import { byId } from "./dom.js";
import { loadModels } from "./models.js";
import { say } from "./notices.js";
import { takeTokenFromAddress } from "./token.js";

const VIEWS = { chat, compare, lineage, retention, training };
let shown = null;

takeTokenFromAddress();
for (const view of Object.values(VIEWS)) view.start();
addEventListener("hashchange", () => {
  takeTokenFromAddress();
  show({ moveFocus: true });
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  byId("main").focus();
});
show({ moveFocus: false });
look().catch((error) => say(error.message));
// Meanwhile a terminal may have moved HEAD, taught a session or moved the store.
addEventListener("focus", () => look({ mayAsk: false }).catch(() => {}));

async function look(options) {
  await loadModels(options);
  const { warning } = await get("/health", options);
  if (warning) say(warning);
}

function show({ moveFocus }) {
  const [asked, argument] = location.hash.slice(1).split("/");
  const name = Object.hasOwn(VIEWS, asked) ? asked : (shown ?? "chat");
  if (shown && shown !== name) VIEWS[shown].leave?.();
  for (const other of Object.keys(VIEWS)) byId(`view-${other}`).hidden = other !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`${name}-title`).textContent} · mlx-tune`;
  if (moveFocus && shown !== name) byId("main").focus({ preventScroll: true });
  if (shown !== name) scrollTo(0, 0);
  shown = name;
  VIEWS[name].enter?.(argument || null);
}
