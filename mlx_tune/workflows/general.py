"""A base's own answers to the general questions: asked once, then kept beside the bases."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.recall import score
from mlx_tune.data import questions
from mlx_tune.data.questions import Question
from mlx_tune.data.rows import canonical_json
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import InputError, UsageError
from mlx_tune.inference.batch import answers
from mlx_tune.lineage.atomic import make_folder, replace_file
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.cache import cache_dir
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.folded import let_go, load_folded

RULES = 1
"""Raised whenever the same questions would make other examples."""

MAX_TOKENS = 40
"""Where an answer is cut; what was said until then is taught and scored, without an end."""

PROBES: int | None = None
GUARDS: int | None = None
"""How many of each are asked; None for all. Tests ask a few."""


@dataclass(frozen=True, kw_only=True)
class General:
    """General questions with the base's own greedy answers.

    Attributes:
        probes: To measure with; never trained on.
        guards: May be trained on.
        base_losses: The base's own loss of each probe's answer, nats, summed over its tokens.
    """

    probes: tuple[Example, ...]
    guards: tuple[Example, ...]
    base_losses: tuple[float, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many tokens of each probe are its answer."""
        return tuple(sum(probe.supervised) for probe in self.probes)


def general_set(info: BaseInfo, *, say: Say) -> General:
    """Return the general questions with a base's answers, asked now if they never were.

    A question that gets an empty answer, or that the base is too small to read, is left out.

    Args:
        info: The base.
        say: Told, in a line, that it takes long, or that the answers cannot be kept.

    Raises:
        InputError: The base computes no finite numbers.
    """
    probes, guards = _asked()
    key = _key(info, probes, guards)
    if (kept := kept_general_set(info)) is not None:
        return kept
    say(f"asking the base {len(probes) + len(guards)} general questions (once a base)…")
    made = _ask(info, probes, guards)
    let_go()
    try:
        path = _path(key)
        make_folder(path.parent)
        replace_file(path, _to_json(made, key), safe="only the next training takes longer")
    except (OSError, UsageError) as error:
        say(f"the base's answers are not kept: {error}")
    return made


def kept_general_set(info: BaseInfo) -> General | None:
    """Return the same where the base was asked before, else None."""
    key = _key(info, *_asked())
    return _read(_path(key), key)


def _asked() -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    probes = questions.evenly(questions.probes(), PROBES)
    return probes, questions.evenly(questions.guards(), GUARDS)


def _path(key: Any) -> Path:
    return cache_dir() / "general" / f"{key['base']}-{key['questions'][:8]}.json"


def _key(info: BaseInfo, probes: tuple[Question, ...], guards: tuple[Question, ...]) -> Any:
    """Return all that decides the answers, but for how a device rounds."""
    return {
        "rules": RULES,
        "base": info.fingerprint,
        "questions": questions.fingerprint(probes, guards),
        "max_tokens": MAX_TOKENS,
        "computed_in": str(runtime.compute_dtype() or "as stored"),
    }


def _ask(info: BaseInfo, probes: Sequence[Question], guards: Sequence[Question]) -> General:
    folded = load_folded(info, [])
    asked = [*probes, *guards]
    prompts = _prompts(folded.tokenizer, asked)
    reads = getattr(folded.model.args, "max_position_embeddings", None)
    fits = [i for i, prompt in enumerate(prompts) if not reads or len(prompt) < reads]
    said = answers(
        folded.model, folded.tokenizer, [prompts[i] for i in fits], max_tokens=MAX_TOKENS
    )
    examples = {
        i: _example(prompts[i], answer, place=f'the general question "{asked[i].text}"')
        for i, answer in zip(fits, said, strict=True)
        if not folded.tokenizer.end_ids.issuperset(answer)
    }
    measured = tuple(example for i, example in examples.items() if i < len(probes))
    return General(
        probes=measured,
        guards=tuple(example for i, example in examples.items() if i >= len(probes)),
        base_losses=score(folded.model, measured).losses,
    )


def _prompts(tokenizer: Tokenizer, asked: Sequence[Question]) -> list[list[int]]:
    """Return each question's tokens: a chat's where the base has one, else the bare text's."""
    chats = [[{"role": "user", "content": question.text}] for question in asked]
    try:
        rendered = tokenizer.render(chats, add_generation_prompt=True)
    except InputError:  # no template, or one that wants more than a question; rows may still fit
        return [tokenizer.encode_plain(question.text) for question in asked]
    return [tokenizer.encode(text) for text in rendered]


def _example(prompt: Sequence[int], answer: Sequence[int], place: str) -> Example:
    flags = (False,) * len(prompt) + (True,) * len(answer)
    return Example(tokens=(*prompt, *answer), supervised=flags, place=place)


def _to_json(made: General, key: Any) -> bytes:
    body = {
        "key": key,
        "probes": _entries(made.probes),
        "guards": _entries(made.guards),
        "base_losses": made.base_losses,
    }
    return (canonical_json({**body, "sha256": _hash(body)}) + "\n").encode()


def _read(path: Path, key: Any) -> General | None:
    """Return what was kept; None where there is nothing, or nothing that can be relied on."""
    try:
        body = json.loads(path.read_bytes())
        if body.pop("sha256") != _hash(body) or body["key"] != key:
            return None
        return General(
            probes=_examples(body["probes"]),
            guards=_examples(body["guards"]),
            base_losses=tuple(body["base_losses"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _hash(body: Any) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _entries(examples: Iterable[Example]) -> list[Any]:
    return [
        {"place": e.place, "tokens": e.tokens, "answer_tokens": sum(e.supervised)} for e in examples
    ]


def _examples(entries: Iterable[Any]) -> tuple[Example, ...]:
    parted = ((e["tokens"], len(e["tokens"]) - e["answer_tokens"], e["place"]) for e in entries)
    return tuple(_example(tokens[:at], tokens[at:], place) for tokens, at, place in parted)
