// Turns an answer's Markdown into safe DOM: URLs whole, no images, no HTML, no other schemes.

import MarkdownIt from "./vendor/markdown-it.esm.min.mjs";
import "./vendor/purify.min.js";
import { findUrls, mayGoOn, urlEnd } from "./urls.js";

const FOLLOWED = /^(?:https?:\/\/|mailto:)/i;
const KEPT = {
  ALLOWED_TAGS: (
    "a blockquote br code del div em h2 h3 h4 h5 h6 hr li ol " +
    "p pre s strong table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["class", "href", "start", "tabindex"],
  ALLOWED_URI_REGEXP: FOLLOWED, // asked of every attribute but class and these
  ADD_URI_SAFE_ATTR: ["start", "tabindex"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const purifier = globalThis.DOMPurify;
const markdown = new MarkdownIt({ html: false, breaks: true });

/**
 * Returns an answer as a document fragment.
 *
 * @param {string} text - Markdown, from anybody.
 * @param {boolean} unfinished - More of it is to come: a URL at its end is no link yet.
 */
export function rendered(text, unfinished = false) {
  return purifier.sanitize(markdown.render(text, unfinished ? { soFar: text } : {}), KEPT);
}

/** Returns plain text as nodes in which URLs are links. */
export function linked(text) {
  return purifier.sanitize(linkedHtml(text), KEPT);
}

purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

// An address is what was written: encoding it again would make another one of it.
markdown.normalizeLink = (url) => url;
markdown.normalizeLinkText = (url) => url;
markdown.validateLink = (url) => FOLLOWED.test(url);
// A model's list of sources would vanish, being read as definitions of links.
markdown.block.ruler.disable("reference");
// Emphasis and entities would break a bare URL, so it is taken before either is looked for.
markdown.inline.ruler.at("linkify", bareUrl);
markdown.core.ruler.disable("linkify");

function bareUrl(state, silent) {
  if (state.linkLevel > 0 || !state.src.startsWith("://", state.pos)) return false;
  const scheme = /https?$/i.exec(state.src.slice(Math.max(0, state.pos - 5), state.pos))?.[0];
  if (!scheme || !(silent || state.pending.endsWith(scheme))) return false;
  const start = state.pos - scheme.length;
  const { url, end } = urlAt(state.src, start, state.posMax);
  if (!url) return false;
  if (!silent) {
    state.pending = state.pending.slice(0, -scheme.length);
    if (isUnfinished(state, start)) state.pending += url;
    else pushLink(state, url);
  }
  state.pos = end;
  return true;
}

/** Finds a URL in Markdown, where a backslash may stand before its punctuation. */
function urlAt(source, start, most) {
  const before = source.slice(Math.max(0, start - 2), start);
  let plain = before;
  const places = []; // of each character of `plain` in `source`
  for (let at = start; at < most && !/\s/.test(source[at]); at += 1) {
    if (/^\\[!-/:-@[-`{-~]/.test(source.slice(at, at + 2)) && at + 1 < most) at += 1;
    plain += source[at];
    places.push(at);
  }
  const end = urlEnd(plain, before.length);
  if (end === before.length) return { url: "", end: start };
  return { url: plain.slice(before.length, end), end: places[end - before.length - 1] + 1 };
}

function isUnfinished(state, start) {
  const rest = state.src.slice(start);
  return Boolean(state.env.soFar?.endsWith(rest)) && mayGoOn(rest, 0);
}

function pushLink(state, url) {
  state.push("link_open", "a", 1).attrs = [["href", url]];
  state.push("text", "", 0).content = url;
  state.push("link_close", "a", -1);
}

const { rules } = markdown.renderer;

rules.code_inline = (tokens, index) => {
  const { content } = tokens[index];
  const inner = isInLink(tokens, index) ? escaped(content) : linkedHtml(content);
  return `<code>${inner}</code>`;
};
// What scrolls sideways takes the focus, or the keyboard could not scroll it.
rules.fence = rules.code_block = (tokens, index) =>
  `<pre tabindex="0"><code>${linkedHtml(tokens[index].content)}</code></pre>\n`;
rules.image = (tokens, index, options, env, renderer) => {
  const { children, attrs } = tokens[index];
  const address = new Map(attrs).get("src");
  const alt = renderer.renderInlineAsText(children, options, env) || address;
  return isInLink(tokens, index) ? escaped(alt) : anchor(address, alt);
};
rules.table_open = () => `<div class="scroll" tabindex="0"><table>\n`;
rules.table_close = () => "</table></div>\n";
rules.heading_open = (tokens, index) => `<${heading(tokens[index])}>`;
rules.heading_close = (tokens, index) => `</${heading(tokens[index])}>\n`;
rules.th_open = rules.td_open = (tokens, index) => {
  const side = /left|center|right/.exec(tokens[index].attrGet("style") ?? "")?.[0];
  return side ? `<${tokens[index].tag} class="${side}">` : `<${tokens[index].tag}>`;
};

/** Returns a heading's tag, one below the page's own. */
function heading(token) {
  return `h${Math.min(Number(token.tag[1]) + 1, 6)}`;
}

function isInLink(tokens, index) {
  const opened = tokens.slice(0, index).map((token) => token.type);
  return opened.lastIndexOf("link_open") > opened.lastIndexOf("link_close");
}

function linkedHtml(text) {
  let html = "";
  let at = 0;
  for (const { start, end, url } of findUrls(text)) {
    html += escaped(text.slice(at, start)) + anchor(url, url);
    at = end;
  }
  return html + escaped(text.slice(at));
}

function anchor(url, text) {
  return `<a href="${escaped(url)}">${escaped(text)}</a>`;
}

function escaped(text) {
  return markdown.utils.escapeHtml(text);
}
