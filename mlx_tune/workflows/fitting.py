"""Makes a training fit the machine's memory and disk before it starts, or says what would."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mlx_tune.continual.methods import Method
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import DiskError, UsageError
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo
from mlx_tune.settings import TrainingSettings, typed
from mlx_tune.store.runs import KEPT_CHECKPOINTS
from mlx_tune.store.session import Session
from mlx_tune.training import memory
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.training.batches import Batches
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.memory import Dimensions, MemoryPlan
from mlx_tune.training.mixture import BASE, Mixture
from mlx_tune.training.shapes import Shape

_SLACK_BYTES = 32 << 20  # metrics, records, what the file system adds
_FACTORS_AND_MOMENTS = 3


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """What a run writes at most, and what there is.

    Attributes:
        needed_bytes: Of the checkpoints kept at once, the one being written, and the session.
        free_bytes: Where the store is.
    """

    needed_bytes: int
    free_bytes: int


def plan_disk(store_root: Path, *, adapter_bytes: int, rows_bytes: int) -> DiskPlan:
    """Return what a run needs on the disk, and what is free there.

    Args:
        store_root: The store's folder, which may be missing.
        adapter_bytes: Of the adapter's factors.
        rows_bytes: Of the rows that the run and its session keep.
    """
    # The two newest whole ones, the best, and the one being written.
    checkpoints = (KEPT_CHECKPOINTS + 2) * _FACTORS_AND_MOMENTS * adapter_bytes
    return DiskPlan(
        needed_bytes=checkpoints + adapter_bytes + 2 * rows_bytes + _SLACK_BYTES,
        free_bytes=free_bytes(store_root),
    )


def check_disk(disk: DiskPlan, store_root: Path) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        DiskError: What it needs, what there is, and what to do.
    """
    if disk.needed_bytes > disk.free_bytes:
        raise DiskError(
            f"{store_root}: a run needs up to {disk.needed_bytes / 1e9:.2f} GB on the disk and "
            f"{disk.free_bytes / 1e9:.2f} GB are free; free some "
            f"(`{typed('gc', store_root)}` deletes what old runs left), lower --rank, or name "
            "another store with --store"
        )


def free_bytes(store_root: Path) -> int:
    """Return the free space where a store is, or will be."""
    return shutil.disk_usage(nearest_folder(store_root)).free


def nearest_folder(path: Path) -> Path:
    """Return a path's nearest folder that exists."""
    whole = path.resolve()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


_LEAST_LENGTH = 8  # that --max-length takes
_USEFUL_TOKENS = 64  # shorter rows teach little
_FOUR_BIT_SHARE = 0.3  # of 16-bit weights: 4.5 bits a number, and what is not quantised


class Foundation(Protocol):
    """What a training stands on: a base, the sessions folded into it, and a method."""

    @property
    def info(self) -> BaseInfo:
        """The base model."""

    @property
    def method(self) -> Method:
        """How earlier sessions are remembered."""

    @property
    def stands_on(self) -> tuple[Session, ...]:
        """The sessions that are folded underneath it, root first."""


def dimensions(under: Foundation, mixture: Mixture) -> Dimensions:
    """Return the sizes of a model as this machine holds it while it is trained.

    Args:
        under: Its base, its chain and the method.
        mixture: The rows; some may need the base without the chain for their teacher.
    """
    info, dtype = under.info, runtime.compute_dtype()
    number = dtype.size if dtype else None
    found = Dimensions.of(
        {**info.config, "hidden_size": info.hidden_size},
        weights_bytes=info.held_bytes(number),
        activation_bytes=number or info.float_bytes,
    )
    stored = sum((session.path / WEIGHTS_FILE).stat().st_size for session in under.stands_on)
    computed = stored * found.activation_bytes // 4
    kept = (
        computed * ("quantization" in info.config),  # which nothing can be folded into
        computed * (BASE in mixture.teachers),
        stored * bool(under.method.penalty_weight),
    )
    return replace(found, chain_bytes=sum(kept))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Settings that fit the machine, and what follows from them.

    Attributes:
        settings: As wanted, but for those that memory changed, each with its reason.
        config: The same, for the loop.
        batches: The micro-batches they make of the rows.
        memory: Where the bytes will go.
        adapter_bytes: Of the adapter's factors, float32.
    """

    settings: TrainingSettings
    config: TrainingConfig
    batches: Batches
    memory: MemoryPlan
    adapter_bytes: int


def fit(
    under: Foundation,
    settings: TrainingSettings,
    mixture: Mixture,
    examples: Sequence[Example],
    fixed: frozenset[str],
) -> Fitted:
    """Change settings until the training fits the machine.

    Args:
        under: What it stands on.
        settings: As wanted.
        mixture: Which rows come in which epoch.
        examples: The rows, new ones first.
        fixed: Names of settings that a person gave, by flag or in a file; they stay.

    Raises:
        UsageError: None do; the message says what needs how much, and what would fit.
    """
    model, limit = dimensions(under, mixture), memory.limit_bytes()
    wanted = TrainingConfig.of(settings, mixture)
    config, plan, batches = memory.fit(model, wanted, examples, limit, fixed=fixed)
    if not plan.fits:
        old = examples[mixture.sources[0].num_examples :]
        raise UsageError(_too_large(model, config, plan, fixed, examples, old))
    needs = f"{gigabytes(plan.peak_bytes)} of {gigabytes(limit)}"
    names = ("batch_size", "grad_accumulation", "checkpoint_layers")
    changed = {n: getattr(config, n) for n in names if getattr(config, n) != getattr(wanted, n)}
    settings = settings.changed(changed, reason=f"so that it fits: {needs}", source="memory")
    if not {"checkpoint_layers"} & {*fixed, *changed}:
        same = {"checkpoint_layers": settings.checkpoint_layers}
        settings = settings.changed(same, reason=f"everything fits: {needs}", source="memory")
    return Fitted(
        settings=settings,
        config=replace(config, cache_bytes=plan.cache_bytes),
        batches=batches,
        memory=plan,
        adapter_bytes=4 * model.adapter_numbers(config.rank),
    )


def predict(
    under: Foundation, settings: TrainingSettings, mixture: Mixture, examples: Sequence[Example]
) -> Fitted:
    """Return what follows from settings that stay as they are, as of a run that is resumed."""
    model = dimensions(under, mixture)
    config = TrainingConfig.of(settings, mixture)
    batches = config.batches(examples, share_prefix=model.is_packed)
    plan = memory.predict(model, config, {*batches.shapes.values()}, memory.limit_bytes())
    return Fitted(
        settings=settings,
        config=replace(config, cache_bytes=plan.cache_bytes),
        batches=batches,
        memory=plan,
        adapter_bytes=4 * model.adapter_numbers(config.rank),
    )


def gigabytes(count: int) -> str:
    """Return bytes for a person, in gigabytes."""
    return f"{count / 1e9:.1f} GB"


def _too_large(
    model: Dimensions,
    config: TrainingConfig,
    plan: MemoryPlan,
    fixed: frozenset[str],
    examples: Sequence[Example],
    old: Sequence[Example],
) -> str:
    """Say what needs how much, and what fits: single rows, shorter ones, or 4-bit weights."""
    smallest = replace(
        config, batch_size=1, grad_accumulation=8, checkpoint_layers=model.layers * model.is_packed
    )
    parts = (
        f"weights {gigabytes(plan.weights_bytes)}",
        *([f"earlier adapters {gigabytes(plan.chain_bytes)}"] if plan.chain_bytes else []),
        f"adapter and optimizer {gigabytes(plan.adapter_bytes)}",
        f"activations {gigabytes(plan.activations_bytes)}",
        f"logits {gigabytes(plan.loss_bytes)}",
    )
    ways = []
    length = _longest(model, smallest, plan.limit_bytes)
    # Rehearsed rows come along whole, whatever the limit on new ones.
    least = max((len(example.tokens) for example in old), default=0)
    if length >= max(least, _LEAST_LENGTH):
        flags = []
        if {"batch_size", "grad_accumulation"} & fixed:
            flags.append("--batch-size 1 --grad-accumulation 8")
        if "checkpoint_layers" in fixed:
            flags.append(f"--checkpoint-layers {model.layers}")
        if length < max(len(example.tokens) for example in examples):
            flags.append(f"--max-length {length} --allow-long")
        ways.append(" ".join(flags))
    share = _FOUR_BIT_SHARE * 2 / model.activation_bytes
    quantised = replace(model, weights_bytes=int(model.weights_bytes * share))
    if length < _USEFUL_TOKENS <= _longest(quantised, smallest, plan.limit_bytes):
        ways.append("a base model with 4-bit weights, see `mlx-tune base list`")
    fix = " or ".join(ways) or "a smaller base model, see `mlx-tune base list`"
    return (
        f"this training needs {gigabytes(plan.peak_bytes)} of memory and the machine gives "
        f"{gigabytes(plan.limit_bytes)} ({', '.join(parts)}); what fits: {fix}"
    )


def _longest(model: Dimensions, config: TrainingConfig, limit: int) -> int:
    """Return how long a row may be for a micro-batch of one to fit; 0 if none may."""

    def fits(length: int) -> bool:
        shape = Shape(rows=1, prefix=0, flat=length, width=length, supervised=length)
        return memory.predict(model, config, [shape], limit).fits

    low, high = 0, 1 << 17
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
