"""What an answer spells out for a computer: hosts, paths, file names, dotted names, flags.

These are compared letter for letter, case and all: ``git branch -d`` is not ``git branch -D``.
"""

import re
from typing import Literal, NamedTuple

LiteralKind = Literal["literal", "flag"]

_PATH = re.compile(r"(?<![\w.~/\\:<-])(?:~/|\.{1,2}/|/(?=[^\W\d])|[A-Za-z]:\\)[\w.@+\\/-]*\w")
# www.x.example, settings.toml, os.path.join; not e.g., Ph.D. or two sentences as in "there.The".
_DOTTED = re.compile(
    r"(?<![\w.@~-])(?=[\w.-]{4,}\w)(?!\w*[a-z]\.[A-Z][a-z]+\b(?!\.))"
    r"[^\W\d][\w-]+(?:\.[^\W\d_][\w-]*)+(?![\w@])"
)
_SUFFIXED = re.compile(r"(?<!\w)[^\W\d_]\w*(?:\+{1,2}|#)(?![\w+#])")  # C++, C#, a grade of B+
_FLAG = re.compile(
    r"(?<![^\s`'\"(\[])(?:--[A-Za-z][\w-]+|-(?:[A-Za-z]|[a-z]{2,3}))(?![\w-])"  # no "-It is"
)
# x < 5, a == b; no menus, such as Settings > Network, and no tags.
_COMPARED = re.compile(
    r"(?<![<\w/.\])])[\w.\])]+[ ]?"
    r"(?:[=!]==?|[<>]=?(?!/?\w+>)|[≤≥]|&&|\|\|)"
    r"[ ]?(?:-?[a-z_\d.]|[(\['\"])[\w.('\"\[-]*"
)


class Spelled(NamedTuple):
    """Something spelled out: its kind, as it is written, and the form it is compared in."""

    kind: LiteralKind
    text: str
    value: str


def literals(text: str) -> tuple[list[Spelled], str]:
    """Return what a text spells out, and the text without it but for comparisons."""
    found = [
        Spelled("literal", match[0], re.sub(" ", "", match[0]))
        for match in _COMPARED.finditer(text)
    ]
    for pattern in (_PATH, _DOTTED, _SUFFIXED, _FLAG):
        for match in pattern.finditer(text):
            value = match[0].casefold() if pattern is _SUFFIXED else match[0]
            found.append(Spelled("flag" if pattern is _FLAG else "literal", match[0], value))
        text = pattern.sub(" , ", text)
    return found, text


def parts(address: str) -> tuple[str, str]:
    """Return what else a URL or path spells out: its host, and the file at its end."""
    path = address.split("://", 1)[-1]
    return path.split("/", 1)[0], re.split(r"[/\\]", path)[-1]
