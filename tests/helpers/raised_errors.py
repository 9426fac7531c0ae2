"""Finds every function of the program that raises an error of its own, and lets one of them do so.

What is found by reading the source needs no list: an error that is added later is found too.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import mlx_tune
from helpers.training_lab import RecordingObserver
from mlx_tune import errors
from mlx_tune.errors import Interrupted, MlxTuneError

PACKAGE = Path(mlx_tune.__file__).parent
ERRORS: dict[str, type[MlxTuneError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MlxTuneError)
}


@dataclass(frozen=True, order=True)
class RaisingFunction:
    """A function that raises an error of the program's own.

    Attributes:
        file: Within the package, such as ``store/runs.py``.
        name: Its qualified name, as its code object has it.
        error: The class.
    """

    file: str
    name: str
    error: str

    def make(self) -> MlxTuneError:
        """Return such an error."""
        if ERRORS[self.error] is Interrupted:
            return Interrupted("struck", signal=2)
        return ERRORS[self.error]("struck")


@cache
def raising_functions() -> frozenset[RaisingFunction]:
    """Return all of them in the package."""
    return frozenset(found for path in PACKAGE.rglob("*.py") for found in _in_file(path))


def _in_file(path: Path) -> Iterator[RaisingFunction]:
    tree = ast.parse(path.read_text())
    makers = {
        node.name: node.returns.id
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id in ERRORS
    }
    for name, error in _raises(tree, "", ""):
        if (kind := makers.get(error, error)) in ERRORS:
            yield RaisingFunction(str(path.relative_to(PACKAGE)), name, kind)


def _raises(node: ast.AST, within: str, function: str) -> Iterator[tuple[str, str]]:
    """Yield a function's qualified name and the name of what it calls to make what it raises."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            name = within + child.name
            yield from _raises(child, f"{name}.<locals>.", name)
        elif isinstance(child, ast.ClassDef):
            yield from _raises(child, f"{within}{child.name}.", function)
        else:
            raised = child.exc if isinstance(child, ast.Raise) else None
            if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name):
                yield function, raised.func.id
            yield from _raises(child, within, function)


class StruckObserver(RecordingObserver):
    """An observer that counts calls once there is a run's folder, and lets one of them raise.

    Attributes:
        calls: How often each raising function was called; by file and qualified name.
    """

    def __init__(self, struck: RaisingFunction | None = None, *, call: int = 1, **options: Any):
        super().__init__(**options)
        self.calls: Counter[tuple[str, str]] = Counter()
        self._struck, self._call = struck, call
        self._wanted = {(f.file, f.name) for f in raising_functions()}

    def opened(self, run):
        super().opened(run)
        sys.setprofile(self._count)

    def stop_counting(self) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        file = frame.f_code.co_filename[len(str(PACKAGE)) + 1 :]
        key = (file, frame.f_code.co_qualname)
        if key not in self._wanted:
            return
        self.calls[key] += 1
        struck = self._struck
        if struck and key == (struck.file, struck.name) and self.calls[key] == self._call:
            sys.setprofile(None)
            raise struck.make()  # in the frame that was called
