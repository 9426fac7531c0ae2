"""Stop strings, found across any cuts of a text, and never shown, not even their beginnings.

The answer ends where the first stop string is *complete*, as a model that emits character after
character would be stopped; of two that are complete with the same character, the longer counts.
Shown is the text before that stop string. So what is shown depends on the text alone, not on how
it was cut.
"""

from collections.abc import Sequence

from mlx_tune.errors import UsageError


class _Matcher:
    """How much of one stop string the text so far ends with.

    Source:
        Knuth, Morris and Pratt 1977, doi:10.1137/0206024: constant work a character however
        long the stop string is.
    """

    def __init__(self, stop: str) -> None:
        self.stop, self.matched = stop, 0
        self._shorter = [0] * len(stop)  # for each beginning, the longest that it ends with too
        length = 0
        for i in range(1, len(stop)):
            length = self._grow(length, stop[i])
            self._shorter[i] = length

    def _grow(self, length: int, character: str) -> int:
        while length and self.stop[length] != character:
            length = self._shorter[length - 1]
        return length + (self.stop[length] == character)

    def add(self, character: str) -> bool:
        """Take a character; say whether the stop string is complete with it."""
        self.matched = self._grow(self.matched, character)
        return self.matched == len(self.stop)


class Stops:
    """Watches one answer for stop strings.

    Args:
        stops: None of them empty; there may be none at all.

    Attributes:
        found: The stop string that ended the answer; None until then.

    Raises:
        UsageError: A stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise UsageError("a stop string is empty, so nothing could be answered; leave it out")
        # Longest first: of two that are complete at once, the longer counts.
        self._matchers = [_Matcher(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._held = ""
        self.found: str | None = None

    def add(self, piece: str) -> str:
        """Return what may be shown now that a piece of text has come; nothing after a stop string.

        What could be the beginning of a stop string is held back until it is known.
        """
        if self.found is not None:
            return ""
        text, seen = self._held + piece, len(self._held)
        for end, character in enumerate(piece, start=seen + 1):
            complete = [matcher.stop for matcher in self._matchers if matcher.add(character)]
            if complete:
                self.found, self._held = complete[0], ""
                return text[: end - len(complete[0])]
        kept = max((matcher.matched for matcher in self._matchers), default=0)
        shown = len(text) - kept
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return what was held back and turned out to be text; the answer has ended."""
        left, self._held = self._held, ""
        return left
