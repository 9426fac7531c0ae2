"""Everything decided before training starts: what `plan` shows and what `train` carries out."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune import sizing
from mlx_tune.continual.rehearse import Rehearsal, rehearse
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row
from mlx_tune.data.split import split
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import InputError
from mlx_tune.lineage.session import Session, check_name, slug
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.shipped import shipped_config
from mlx_tune.settings import Given, gather, read_config
from mlx_tune.training import memory, schedule
from mlx_tune.training.batches import padding
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.memory import MemoryPlan
from mlx_tune.workflows import fitting, space
from mlx_tune.workflows.folded import choose_base, locate_base, read_history
from mlx_tune.workflows.space import DiskPlan

_LONG_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for.

    Attributes:
        data: Files or folders.
        store: The store's folder.
        flags: By setting's name; None where not given.
        config: A YAML file, or None.
    """

    data: Sequence[Path]
    store: Path
    flags: Mapping[str, Any]
    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training, fully decided.

    Attributes:
        name: Of the session to be.
        info: Its base model.
        store: Where it will go.
        chain: The sessions it stands on, root first.
        rehearsal: New rows and old ones.
        sizing: Every setting with its reason.
        too_long: Rows left out because they exceed the length limit.
        long_share: Share of all tokens that are in those rows.
        examples: What is trained on, new rows first.
        held_out: New rows that are not trained on, but choose the best checkpoint.
        validation: The same, tokenised.
        disk: What the run will write, and what is free.
        memory: Where the bytes will go.
        shapes: How many distinct shapes micro-batches are padded to.
        padding: Share of the tokens computed that are padding, 0 to 1.
        sources: The data files as they were named.
    """

    name: str
    info: BaseInfo
    store: Store
    chain: tuple[Session, ...]
    rehearsal: Rehearsal
    sizing: sizing.Sizing
    too_long: tuple[Row, ...]
    long_share: float
    examples: tuple[Example, ...]
    held_out: tuple[Row, ...]
    validation: tuple[Example, ...]
    disk: DiskPlan
    memory: MemoryPlan
    shapes: int
    padding: float
    sources: tuple[str, ...]

    @property
    def parent(self) -> Session | None:
        """The session it will stand on, None for the bare base."""
        return self.chain[-1] if self.chain else None

    @property
    def taught(self) -> tuple[Row, ...]:
        """The new rows without those that are too long."""
        left_out = {id(row) for row in self.too_long}
        return tuple(row for row in self.rehearsal.new if id(row) not in left_out)

    @property
    def training(self) -> TrainingConfig:
        """What the loop is told."""
        return training_config(self.sizing, len(self.taught))

    @property
    def planned_steps(self) -> int:
        """Optimizer updates."""
        return self.training.planned_steps(len(self.examples))

    @property
    def warmup_steps(self) -> int:
        """How many of them warm up."""
        return schedule.warmup_steps(len(self.taught), self.planned_steps)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all rows, padding not counted."""
        return sum(len(example.tokens) for example in self.examples)


def prepare(request: Request, *, say: Say) -> Plan:
    """Read, check and size a training; nothing is written and no weights are loaded.

    Raises:
        InputError: The data or the config cannot be used.
        UsageError: A flag cannot.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """
    new = read.read(request.data)
    store = Store.open(request.store)
    given = _given(request)  # before anything is fetched: a slip must not cost a download
    name = given["name"].value if "name" in given else _name(request.data)
    check_name(name)
    info = _base(request, store, given, say)
    asked = frozenset(given)
    if request.config is None:
        given = {**gather({}, shipped_config(info.name)), **given}
    chain = tuple(store.chain(store.head()))
    for note in store.notes:
        say(note)
    new, held_out = split(new, _value(given, "validation", 0.0), seed=_value(given, "seed", 0))
    rehearsal = rehearse(new, read_history(chain))
    decided = sizing.plan(
        len(new), hidden_size=info.hidden_size, loss_chunk=memory.loss_chunk(), given=given
    )
    tokenizer = load_tokenizer(info.folder, info.template)
    fresh = tokenise.encode(rehearsal.new, tokenizer)
    tokenise.probes(rehearsal.new, tokenizer)  # what cannot be scored must fail before training
    limit = int(decided.max_length.value)
    fits = [len(example.tokens) <= limit for example in fresh]
    allowed = "allow_long" in given and bool(given["allow_long"].value)
    share = _check_lengths(fresh, fits, limit, allowed=allowed)
    # Old rows fitted the limit of the session that taught them; a shorter one now must not make
    # the model forget them.
    examples = (*itertools.compress(fresh, fits), *tokenise.encode(rehearsal.old, tokenizer))
    decided, memory_plan = fitting.fit(
        info, decided, training_config(decided, sum(fits)), examples, asked
    )
    batches = training_config(decided, sum(fits)).batches(
        examples, share_prefix=fitting.dimensions(info).walked
    )
    shapes, needed = batches.shapes()
    # The limit bounds memory, for these as for the others.
    scored = zip(held_out, tokenise.encode(held_out, tokenizer), strict=True)
    held = [(row, example) for row, example in scored if len(example.tokens) <= limit]
    return Plan(
        name=name,
        info=info,
        store=store,
        chain=chain,
        rehearsal=rehearsal,
        sizing=decided,
        too_long=tuple(itertools.compress(rehearsal.new, map(operator.not_, fits))),
        long_share=share,
        examples=examples,
        held_out=tuple(row for row, _ in held),
        validation=tuple(example for _, example in held),
        disk=_disk(store, info, decided, [*rehearsal.rows, *held_out]),
        memory=memory_plan,
        shapes=len(set(shapes.values())),
        padding=padding(shapes, needed),
        sources=tuple(map(str, request.data)),
    )


def _value(given: Mapping[str, Given], name: str, default: Any) -> Any:
    return given[name].value if name in given else default


def _disk(store: Store, info: BaseInfo, decided: sizing.Sizing, rows: Sequence[Row]) -> DiskPlan:
    numbers = fitting.dimensions(info).adapter_numbers(int(decided.rank.value))
    return space.plan(store.root, adapter_bytes=4 * numbers, rows_bytes=len(read.dump(rows)))


def _given(request: Request) -> dict[str, Given]:
    """Return what flags and config set, checked."""
    if request.config is None:
        return gather(request.flags)
    return gather(request.flags, (str(request.config), read_config(request.config)))


def _base(request: Request, store: Store, given: Mapping[str, Given], say: Say) -> BaseInfo:
    """Find the base: the flag's, else the store's, else the config's, else what fits."""
    config = given["base"].value if "base" in given else None
    return locate_base(store, choose_base(store, request.flags.get("base"), config), say)


def training_config(decided: sizing.Sizing, new_rows: int) -> TrainingConfig:
    """Return what the loop is told, from a sizing and the number of new rows."""
    return TrainingConfig(
        rank=int(decided.rank.value),
        scale=decided.scale,
        epochs=int(decided.epochs.value),
        batch_size=int(decided.batch_size.value),
        grad_accumulation=int(decided.grad_accumulation.value),
        learning_rate=float(decided.learning_rate.value),
        new_rows=new_rows,
        seed=int(decided.seed.value),
        dropout=float(decided.dropout.value),
        lora_plus_ratio=float(decided.lora_plus_ratio.value),
        checkpoint_layers=int(decided.checkpoint_layers.value),
        loss_chunk=int(decided.loss_chunk.value),
        wire_memory=bool(decided.wire_memory.value),
    )


def _name(paths: Sequence[Path]) -> str:
    return slug("-".join(path.stem for path in paths))


def _check_lengths(
    fresh: Sequence[Example], fits: Sequence[bool], limit: int, *, allowed: bool
) -> float:
    """Return the share of tokens in rows over the limit; refuse when it is too much.

    A row is left out whole: cut short, it would teach an answer without its end.
    """
    if all(fits):
        return 0.0
    left_out = list(itertools.compress(fresh, map(operator.not_, fits)))
    share = sum(len(e.tokens) for e in left_out) / sum(len(e.tokens) for e in fresh)
    longest = max(left_out, key=lambda example: len(example.tokens))
    what = (
        f"{len(left_out)} of {len(fresh)} rows ({share:.0%} of the tokens) are longer than "
        f"{limit} tokens; the longest, {longest.place}, has {len(longest.tokens)}"
    )
    if not any(fits):
        raise InputError(f"{what}; none is left, so raise --max-length or split the rows")
    if share > _LONG_SHARE and not allowed:
        raise InputError(f"{what}; raise --max-length, or leave them out with --allow-long")
    return share
