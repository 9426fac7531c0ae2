"""Text from outside as one line that cannot steer a terminal or break a log."""

import json


def one_line(text: str | None, limit: int | None = None) -> str:
    """Return text on one line: white space becomes one blank, what a terminal would obey "·".

    Args:
        text: Anything; None is no text.
        limit: The most characters that are shown; what follows becomes "…".
    """
    words = " ".join((text or "").split())
    words = "".join(c if c.isprintable() else "·" for c in words)
    return words if limit is None or len(words) <= limit else words[: limit - 1] + "…"


def quoted(text: str) -> str:
    """Return text in double quotes, shortened to 60 characters, escaped as JSON does where needed.

    Characters that no terminal prints are escaped too, unpaired surrogates among them.
    """
    shown = text if len(text) <= 60 else text[:59] + "…"
    written = json.dumps(shown, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in written)
