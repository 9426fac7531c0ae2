"""Random keys with random values, as in a published study of how facts are memorised in turns.

The study teaches 2,000 of them until all are known, then another set, and counts what is left of
the first. Its own file is not needed: keys and values carry no meaning, so any draw is as good.

Source:
    KVR of Chen et al. 2024, arXiv:2411.07175.
"""

import random
import string
from typing import Any

_CHARACTERS = string.ascii_lowercase + string.digits
_LENGTH = 8


def subject(seed: int, index: int, count: int) -> list[dict[str, Any]]:
    """Return the rows of a set of keys, as ``data/*.json`` holds them; there are no paraphrases.

    Args:
        seed: Of everything drawn.
        index: Of the set, from 0; no key comes in two sets of a seed but by the rarest chance.
        count: Of rows; fewer of a larger set are its first.
    """
    draw = random.Random(f"key values {seed}/{index}")
    return [_row(_word(draw), _word(draw)) for _ in range(count)]


def name(index: int) -> str:
    """Return what a set is called."""
    return f"keys-{index + 1}"


def _word(draw: random.Random) -> str:
    return "".join(draw.choices(_CHARACTERS, k=_LENGTH))


def _row(key: str, value: str) -> dict[str, Any]:
    return {"instruction": f"The value of key {key} is?", "response": value}
