"""The ways to learn something new without losing the old, one a file."""

import difflib

from mlx_tune.continual.methods import (
    none,
    orthogonal,
    rehearsal,
    seed,
    self_distill,
    soup,
    synthetic,
)
from mlx_tune.continual.methods.method import Method as Method
from mlx_tune.errors import UsageError

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (rehearsal, none, seed, self_distill, orthogonal, synthetic, soup)
}
"""By name; the first is the default."""


def method(name: str) -> Method:
    """Return a method by its name; ``self-distill`` is as good as ``self_distill``.

    Raises:
        UsageError: There is no such method.
    """
    found = METHODS.get(name.replace("-", "_"))
    if found is None:
        near = difflib.get_close_matches(name[:40].replace("-", "_").casefold(), METHODS, n=1)
        fix = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(METHODS)}"
        raise UsageError(f"{name[:40]!r} is not a method of remembering; {fix}")
    return found
