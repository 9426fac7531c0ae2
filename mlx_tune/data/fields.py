"""The fields of a row's objects: what is wrong with them is added up with its lines.

A check reports a problem and returns a placeholder, so that the rest of the row is checked too. No
placeholder is returned to a caller: a file with problems raises an error.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from mlx_tune.data.calls import has_none
from mlx_tune.errors import InputError
from mlx_tune.files.strict_json import JsonObject, kind
from mlx_tune.text import quoted

_NEAR = 0.8
"""From this likeness on (difflib's ratio) a name is taken for a misspelling of another."""


class Problems:
    """The problems of one file; equal ones are one, at its first place.

    Attributes:
        path: The name of the file, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._found: dict[str, tuple[int, str, int]] = {}  # first line, its place, how many

    def add(self, line: int, problem: str, *, column: str = "") -> None:
        """Add a problem of a line, and of a column, such as ``:7``, where it is known."""
        first, place, count = self._found.get(problem, (line, f"{line}{column}", 0))
        self._found[problem] = (first, place, count + 1)

    def raise_if_any(self) -> None:
        """Raise what was added, in the order of the lines.

        Raises:
            InputError: There were problems; one per line.
        """
        if self._found:
            by_line = sorted(self._found.items(), key=lambda found: found[1][0])
            raise InputError(
                "\n".join(
                    f"{self.path}:{place}: {problem}" + (f" ({n:,} times)" if n > 1 else "")
                    for problem, (_, place, n) in by_line
                )
            )


class FieldReader:
    """Checks of fields that all objects of a row have in common.

    Args:
        problems: What is wrong is added here.
        passed_over: The names of fields that teach nothing are added here, in their order.
    """

    def __init__(self, problems: Problems, passed_over: dict[str, None]) -> None:
        self.problems, self.passed_over = problems, passed_over

    def has_known_fields(
        self,
        found: JsonObject,
        known: tuple[str, ...],
        at: str = "",
        *,
        exact: Collection[str] = (),
    ) -> bool:
        """Pass over the fields that are not known, and report those nearly spelt as a known one.

        Args:
            found: The object.
            known: Names of fields that are read.
            at: What stands before a name, where it is passed over.
            exact: More of them, of which no other name is taken for a misspelling: "trait" is none
                of "train".
        """
        is_known = True
        for name in found:
            if name in known or name in exact:
                continue
            near = None if found[name] is None else nearest(name, known)
            if near is None:
                self.passed_over[at + name] = None
                continue
            is_known = False
            stands = near in found and not is_nothing(found[near])
            fix = (
                f'"{near}" is there already, so remove it' if stands else f'did you mean "{near}"?'
            )
            self.problems.add(found.key_lines[name], f"{quoted(name)} is not a field; {fix}")
        return is_known

    def check_place(self, found: JsonObject, names: Sequence[str], where: str, fix: str) -> None:
        """Report fields of tools or calls that stand where they say nothing."""
        for name in names:
            # A request may say in words whether anything is to be called.
            if not has_none(found.get(name)) and found[name] not in ("auto", "none"):
                self.problems.add(found.key_lines[name], f'"{name}" stands in {where}; {fix}')

    def string(self, value: object, name: str, line: int, *, leave_out: str = "the row") -> str:
        """Return a text; report what is none, or empty.

        Args:
            value: What should be one.
            name: What it is, for messages.
            line: Where it is.
            leave_out: What can be left out instead of an empty one.
        """
        if not isinstance(value, str):
            fix = "write it in quotes" if isinstance(value, int | float) else "write one text"
            self.problems.add(line, f"{name} is {kind(value)}, not text; {fix}")
            return ""
        if not value.strip():
            self.problems.add(line, f"{name} is empty; write its text, or leave {leave_out} out")
        return value


def stripped(found: JsonObject) -> JsonObject:
    """Return an object without blanks around the names of its fields.

    It is the same where two names would become one: a reader then tells of the one with blanks.
    """
    names = [name.strip() for name in found]
    if names == list(found) or len(set(names)) < len(names):
        return found
    made = JsonObject(found.line, zip(names, found.values(), strict=True))
    made.key_lines = {name.strip(): line for name, line in found.key_lines.items()}
    return made


def is_nothing(value: object) -> bool:
    """Tell whether a field has nothing in it."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


@lru_cache(maxsize=1024)  # every row of a file has the same names
def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name of which another is likely a misspelling.

    ``prompt_id`` is none of ``prompt``, nor is ``conversationId`` of ``conversations``: they are
    names of something else about it.
    """
    # difflib is quadratic, and no known name is longer than a dozen characters.
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])|[-.\s]+", "_", name.strip()[:40]).casefold()
    for near in difflib.get_close_matches(spelt, known, n=len(known), cutoff=_NEAR):
        stems = (near, near.removesuffix("s"))
        about = any(spelt.startswith(f"{one}_") or spelt.endswith(f"_{one}") for one in stems)
        if not (about or near.startswith(f"{spelt}_") or near.endswith(f"_{spelt}")):
            return near
    return None
