// Finds the http(s) URLs in plain text, each whole and without the sentence around it.
//
// A URL is what RFC 3986 allows, letters of other alphabets (RFC 3987) and balanced brackets. It
// ends where prose goes on: at a space, at a quote or bracket it did not open, before text of a
// script that puts no spaces between words, before the next URL of a list. What may stand at its
// end and is the sentence's (GFM 6.9, extended autolinks) is given back.

const SCHEME = /https?:\/\//iy;
const HOST = /(?:[\w.~!$&'()*+,;=:%-]*@)?(?:\[[\da-f:.]+(?:%25[\w.~-]+)?\]|[\p{L}\p{Nd}])/iuy;
const PART = /[\w\-.~%:/?#@!$&'*+,;=]/;
const LETTER = /[\p{L}\p{M}\p{Nd}]/u;
const UNSPACED = new RegExp(
  "[" +
    "\\u0E00-\\u109F" + // Thai, Lao, Tibetan, Myanmar
    "\\u1100-\\u11FF\\uA960-\\uA97F\\uAC00-\\uD7FF" + // Hangul, whose particles follow directly
    "\\u1780-\\u17FF" + // Khmer
    "\\u2E80-\\uA4CF\\uF900-\\uFAFF\\uFE30-\\uFE4F" + // Han, kana, Bopomofo, Yi
    "\\uFF00-\\uFFEF" + // full-width forms
    "\\u{1B000}-\\u{1B16F}\\u{20000}-\\u{3FFFF}" +
    "]",
  "u",
);
const CLOSES = new Map([
  ["(", ")"],
  ["[", "]"],
  ["{", "}"],
]);
const CLOSERS = new Set(CLOSES.values());
const WRAPS = new Set(["'", "*"]); // would be part of a URL, had they not been opened before it
const NEXT_URL = /[,;]https?:\/\//iy;
const SENTENCE = new Set(".,;:!?'*_~");

/** Returns the URLs of a text in order, each as {start, end, url}. */
export function findUrls(text) {
  const found = [];
  for (const match of text.matchAll(/https?:\/\//gi)) {
    if (found.length && match.index < found.at(-1).end) continue;
    const end = urlEnd(text, match.index);
    if (end > match.index)
      found.push({ start: match.index, end, url: text.slice(match.index, end) });
  }
  return found;
}

/** Returns where the URL that starts at `start` ends, or `start` where there is none. */
export function urlEnd(text, start, most = text.length) {
  const least = hostReach(text, start, most);
  if (least < 0 || isOtherScheme(text, start)) return start;
  const wrap = WRAPS.has(text[start - 1]) ? text[start - 1] : "";
  const { at, open } = walk(text, start, most, wrap);
  const end = trimmedEnd(text, open.length ? open[0].at : at);
  return end < least ? start : end;
}

/** Tells whether the URL that starts at `start` reaches the end of the text and might go on. */
export function mayGoOn(text, start) {
  return walk(text, start, text.length, "").at === text.length;
}

/** Returns how far a URL goes at least, to its host's first letter or its IPv6 address. */
function hostReach(text, start, most) {
  SCHEME.lastIndex = start;
  if (!SCHEME.test(text)) return -1;
  HOST.lastIndex = SCHEME.lastIndex;
  const match = HOST.exec(text);
  if (!match || HOST.lastIndex > most || UNSPACED.test([...match[0]].at(-1))) return -1;
  return HOST.lastIndex;
}

function isOtherScheme(text, start) {
  return /[a-z\d]\+?$/i.test(text.slice(Math.max(0, start - 2), start));
}

/** Walks over what may be a URL's; returns where that stops, and the brackets still open. */
function walk(text, start, most, wrap) {
  const open = [];
  let at = start;
  while (at < most) {
    const character = String.fromCodePoint(text.codePointAt(at));
    if (character === wrap || startsNext(text, at)) break;
    if (CLOSES.has(character)) open.push({ at, closer: CLOSES.get(character) });
    else if (CLOSERS.has(character)) {
      if (open.at(-1)?.closer !== character) break;
      open.pop();
    } else if (!isPart(character)) break;
    at += character.length;
  }
  return { at, open };
}

function startsNext(text, at) {
  NEXT_URL.lastIndex = at;
  return NEXT_URL.test(text);
}

function isPart(character) {
  return PART.test(character) || (LETTER.test(character) && !UNSPACED.test(character));
}

function trimmedEnd(text, end) {
  while (SENTENCE.has(text[end - 1])) end -= 1;
  return end;
}
