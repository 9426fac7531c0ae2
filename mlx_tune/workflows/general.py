"""What a model is asked before a training: general questions, and rows that it writes itself."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.continual.recall import GeneralChange, general_change, score
from mlx_tune.continual.synthetic import Continuation, Generate, synthesise
from mlx_tune.data import general_questions
from mlx_tune.data.general_questions import Question
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import InputError, UsageError
from mlx_tune.files.durable import make_folder, replace_file
from mlx_tune.inference import batch_generate, context_tokens, stream
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.cache import cache_dir
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.workflows.workspace import FoldedModel, free_memory, load_folded

RULES = 1
"""Raised whenever the same questions would make other examples."""

MAX_TOKENS = 40
"""Where an answer is cut; it is taught and scored until there, without an end."""

PROBES: int | None = None
REPLAYED: int | None = None
"""How many of each are asked; None for all. Tests ask a few."""


@dataclass(frozen=True, kw_only=True)
class GeneralSet:
    """General questions with the base's own greedy answers.

    Attributes:
        probes: To measure with; never trained on.
        replayed: May be trained on.
        base_losses: The base's own loss of each probe's answer, nats, summed over its tokens.
    """

    probes: tuple[Example, ...]
    replayed: tuple[Example, ...]
    base_losses: tuple[float, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many tokens of each probe are its answer."""
        return tuple(sum(probe.supervised) for probe in self.probes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of which kind each probe is."""
        by_place = {_place(question): question.kind for question in general_questions.probes()}
        return tuple(by_place[probe.place] for probe in self.probes)

    def change(self, model: nn.Module) -> GeneralChange:
        """Return ΔG of a model."""
        now = score(model, self.probes).losses
        return general_change(self.base_losses, now, self.tokens, self.kinds)


def general_set(info: BaseInfo, *, say: Say) -> GeneralSet:
    """Return the general questions with a base's answers, asked now if they never were.

    A question that gets an empty answer, or that the base is too small to read, is left out.

    Args:
        info: The base.
        say: Told, in a line, that it takes long, or that the answers cannot be kept.

    Raises:
        InputError: The base computes no finite numbers.
    """
    if (kept := kept_general_set(info)) is not None:
        return kept
    probes, replayed = _questions()
    say(f"asking the base {len(probes) + len(replayed)} general questions (once a base)…")
    made = _ask(info, probes, replayed)
    free_memory()
    key = _key(info, probes, replayed)
    try:
        path = _path(key)
        make_folder(path.parent)
        replace_file(path, _to_json(made, key), safe="only the next training takes longer")
    except (OSError, UsageError) as error:
        say(f"the base's answers are not kept: {error}")
    return made


def kept_general_set(info: BaseInfo) -> GeneralSet | None:
    """Return the same where the base was asked before, else None."""
    key = _key(info, *_questions())
    return _read(_path(key), key)


def unanswered_replay(info: BaseInfo, tokenizer: Tokenizer) -> tuple[Example, ...]:
    """Return the questions to train on before the base was asked, to count and to size by.

    Each answer is as long as one may be. Of those that the base would answer with nothing, which
    are left out once it was asked, nothing is known yet.
    """
    _, questions = _questions()
    config = {**info.config, **(info.config.get("text_config") or {})}
    context = config.get("max_position_embeddings") or None
    prompts = _prompts(tokenizer, questions)
    answer = [tokenizer.end_id] * MAX_TOKENS
    return tuple(
        _example(prompt, answer, place=_place(question))
        for question, prompt in zip(questions, prompts, strict=True)
        if not context or len(prompt) < context
    )


def _questions() -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    probes = general_questions.evenly(general_questions.probes(), PROBES)
    return probes, general_questions.evenly(general_questions.replay_questions(), REPLAYED)


def _path(key: Any) -> Path:
    return cache_dir() / "general" / f"{key['base']}-{key['questions'][:8]}.json"


def _key(info: BaseInfo, probes: tuple[Question, ...], replayed: tuple[Question, ...]) -> Any:
    """Return all that decides the answers, but for how a device rounds."""
    return {
        "rules": RULES,
        "base": info.fingerprint,
        "questions": general_questions.fingerprint(probes, replayed),
        "max_tokens": MAX_TOKENS,
        "computed_in": str(runtime.compute_dtype() or "as stored"),
    }


def _ask(info: BaseInfo, probes: Sequence[Question], replayed: Sequence[Question]) -> GeneralSet:
    folded = load_folded(info, [])
    questions = [*probes, *replayed]
    prompts = _prompts(folded.tokenizer, questions)
    context = context_tokens(folded.model)
    fits = [i for i, prompt in enumerate(prompts) if not context or len(prompt) < context]
    answers = batch_generate(
        folded.model, folded.tokenizer, [prompts[i] for i in fits], max_tokens=MAX_TOKENS
    )
    examples = {
        i: _example(prompts[i], answer, place=_place(questions[i]))
        for i, answer in zip(fits, answers, strict=True)
        if not folded.tokenizer.end_ids.issuperset(answer)
    }
    measured = tuple(example for i, example in examples.items() if i < len(probes))
    return GeneralSet(
        probes=measured,
        replayed=tuple(example for i, example in examples.items() if i >= len(probes)),
        base_losses=score(folded.model, measured).losses,
    )


def _prompts(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[list[int]]:
    """Return each question's tokens: a chat's where the base has one, else the bare text's."""
    chats = [[{"role": "user", "content": question.text}] for question in questions]
    try:
        rendered = tokenizer.render(chats, add_generation_prompt=True)
    except InputError:  # no template, or one that wants more than a question; rows may still fit
        return [tokenizer.encode_plain(question.text) for question in questions]
    return [tokenizer.encode(text) for text in rendered]


def _place(question: Question) -> str:
    return f'the general question "{question.text}"'


def _example(prompt: Sequence[int], answer: Sequence[int], place: str) -> Example:
    flags = (False,) * len(prompt) + (True,) * len(answer)
    return Example(tokens=(*prompt, *answer), supervised=flags, place=place)


def _to_json(made: GeneralSet, key: Any) -> bytes:
    body = {
        "key": key,
        "probes": _entries(made.probes),
        "guards": _entries(made.replayed),
        "base_losses": made.base_losses,
    }
    return (canonical_json({**body, "sha256": _hash(body)}) + "\n").encode()


def _read(path: Path, key: Any) -> GeneralSet | None:
    """Return what was kept; None where there is nothing, or nothing that can be relied on."""
    try:
        body = json.loads(path.read_bytes())
        if body.pop("sha256") != _hash(body) or body["key"] != key:
            return None
        return GeneralSet(
            probes=_examples(body["probes"]),
            replayed=_examples(body["guards"]),
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


def written_by(folded: FoldedModel, count: int, *, seed: int, longest: int) -> list[Row]:
    """Let a folded model write rows of questions and answers.

    Args:
        folded: The model as it is before it learns something new.
        count: How many rows.
        seed: Of the questions.
        longest: Longest row, in tokens.

    Returns:
        ``count`` rows, or fewer when the model repeats itself or does not come to an end.

    Raises:
        InputError: The base has no chat template, or one that changes what a person says.
    """
    generate = speaker(folded, max_tokens=longest)
    return synthesise(folded.tokenizer, generate, count, seed=seed, longest=longest)


def speaker(folded: FoldedModel, *, max_tokens: int) -> Generate:
    """Return a folded model as a generator: greedy texts in batches, sampled ones singly.

    Args:
        folded: The model.
        max_tokens: Longer texts are cut there.
    """
    tokenizer = folded.tokenizer

    def generate(
        prompts: Sequence[Sequence[int]], temperature: float, seed: int
    ) -> list[Continuation]:
        found = []
        if temperature == 0:
            for tokens in batch_generate(folded.model, tokenizer, prompts, max_tokens=max_tokens):
                ended = bool(tokens) and tokens[-1] in tokenizer.end_ids
                text = tokenizer.decode_raw(tokens[:-1] if ended else tokens)
                found.append(Continuation(text=text, is_finished=ended))
            return found
        mx.random.seed(seed)  # the sampler draws from MLX's own state; training never does
        sampled = partial(stream, folded.model, tokenizer, temperature=temperature)
        for prompt in prompts:
            pieces = list(sampled(prompt, max_tokens=max_tokens))
            ended = bool(pieces) and pieces[-1].finish_reason == "stop"
            text = "".join(piece.text for piece in pieces)
            found.append(Continuation(text=text, is_finished=ended))
        return found

    return generate
