"""How answers are scored by the public benchmarks: exact words, shared words, a name within."""

import re
import string
from collections import Counter
from collections.abc import Sequence


def word_f1(gold: Sequence[str], said: Sequence[str]) -> float:
    """Return the F1 of the words that two texts share, each as often as both have it."""
    shared = (Counter(gold) & Counter(said)).total()
    return 2 * shared / (len(gold) + len(said)) if shared else 0.0


def is_same(gold: str, said: str) -> bool:
    """Tell whether two texts differ at most in case, spacing and closing punctuation."""
    return closed(gold) == closed(said)


def closed(text: str) -> str:
    """Return a text in small letters with single spaces, without punctuation at its end."""
    return re.sub(r"\W+$", "", " ".join(text.casefold().split()))


def has_name(name: str, said: str) -> bool:
    """Tell whether a whole name stands in a text, in either case."""
    pattern = r"\s+".join(map(re.escape, name.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", said, re.IGNORECASE) is not None


def squad_words(text: str) -> list[str]:
    """Return the words by which SQuAD compares: small letters, no punctuation, no articles.

    Source:
        The official evaluation script of Rajpurkar et al. 2016, arXiv:1606.05250.
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", bare).split()


def contains(gold: Sequence[str], said: Sequence[str]) -> bool:
    """Tell whether words stand in others, one after another."""
    return f" {' '.join(gold)} " in f" {' '.join(said)} "
