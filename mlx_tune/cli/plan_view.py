"""How a plan looks: the head panel of `train`, and the whole of `plan`."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlx_tune.cli.console import setting_value, size
from mlx_tune.data.rows import Row
from mlx_tune.settings import FIELDS
from mlx_tune.text import one_line
from mlx_tune.training.memory import MemoryPlan
from mlx_tune.workflows.training_plan import TrainingPlan

_LISTED = 5


def show_plan(plan: TrainingPlan, console: Console) -> None:
    """Print what a training would do, every setting with its reason and source."""
    for label, text in _head(plan):
        console.print(f"[bold]{label:<9}[/] {escape(text)}", soft_wrap=True)
    for line in remarks(plan):
        console.print(line, soft_wrap=True, markup=False)
    console.print(_settings(plan))


def remarks(plan: TrainingPlan) -> list[str]:
    """Return the warnings about the data."""
    review = plan.review
    if review is None:  # a run that is resumed, which was shown before
        return []
    found = review.rehearsal
    limit = plan.settings.max_length
    groups = [
        (
            f"{{}} left out, longer than {limit} tokens ({review.long_share:.1%} of the tokens)",
            [row.place for row in review.too_long],
        ),
        ("{} standing more than once in the data", [row.place for row in found.duplicates]),
        (
            "{} contradicting another row of the data",
            [f"{_q(row)} {row.place} and {old.place}" for row, old in found.contradictions],
        ),
        ("{} taught before with the same answer", [row.place for row in found.repeated]),
        (
            "{} replacing an earlier answer",
            [f"{_q(row)} was: {one_line(old.answer)}" for row, old in found.changed],
        ),
    ]
    lines = []
    if plan.unkept and not plan.method.synthesises:
        names = ", ".join(session.name for session in plan.unkept)
        lines.append(
            f"! {names}: rows were not kept, so none is rehearsed; --method synthetic lets the "
            "model write rows instead"
        )
    if plan.settings.general_replay and not plan.mixture.sources[2].size:
        lines.append(
            "! general questions come on top: `train` asks the base for its answers first, once"
        )
    for heading, listed in groups:
        if listed:
            lines.append(f"! {heading.format(_rows(len(listed)))}:")
            lines += _listed(listed)
    return lines


def plan_json(plan: TrainingPlan) -> dict[str, Any]:
    """Return a plan for ``--json``."""
    assert plan.review is not None, "a new plan comes with what a person should know"
    review, found = plan.review, plan.review.rehearsal
    an_epoch = [source.per_epoch for source in plan.mixture.sources]
    return {
        "name": plan.name,
        "base": {"name": plan.info.name, "fingerprint": plan.info.fingerprint},
        "chain": [session.folder_name for session in plan.chain],
        "rows": {
            "new": len(plan.new),
            "wordings": sum(1 + len(row.wordings) for row in plan.new),
            "rehearsed": len(found.old),
            "an_epoch": dict(zip(("new", "old", "general"), an_epoch, strict=True)),
            "held_out": len(plan.held_out),
        },
        "too_long": [row.place for row in review.too_long],
        "repeated": len(found.repeated),
        "changed": [[row.place, old.answer] for row, old in found.changed],
        "contradictions": [[row.place, old.place] for row, old in found.contradictions],
        "duplicates": [row.place for row in found.duplicates],
        "steps": plan.planned_steps,
        "warmup_steps": plan.warmup_steps,
        "tokens_per_epoch": plan.tokens_per_epoch,
        "padding": plan.batches.padding,
        "shapes": plan.shapes,
        "memory": {**dataclasses.asdict(plan.memory), "peak_bytes": plan.memory.peak_bytes},
        "disk": dataclasses.asdict(review.disk),
        "settings": plan.settings.to_json(),
        "remarks": remarks(plan),
    }


def _head(plan: TrainingPlan) -> list[tuple[str, str]]:
    names = " → ".join(session.name for session in plan.chain)
    effective = plan.config.effective_batch
    most = "at most " if plan.settings.until_learned else ""
    new, *others = plan.tokens_by_kind
    added = f", +{sum(others) / new:.0%} to remember" if new and sum(others) else ""
    base, disk = plan.info, plan.review and plan.review.disk
    room = [("disk", f"{size(disk.needed_bytes)} of {size(disk.free_bytes)} free")] if disk else []
    return [
        ("session", f"{len(plan.chain) + 1} · {plan.name}"),
        ("base", f"{base.name} · {base.fingerprint[:12]} · {size(base.weights_bytes)}"),
        ("chain", names or "none yet: a first session"),
        ("rows", _mixture(plan)),
        (
            "steps",
            f"{most}{plan.planned_steps}, {plan.warmup_steps} of them warm-up "
            f"({_rows(plan.mixture.rows_per_epoch)} ÷ {effective} a step, epochs: {most}"
            f"{plan.config.epochs})",
        ),
        (
            "work",
            f"{plan.tokens_per_epoch:,} tokens an epoch{added}; "
            f"{plan.batches.padding:.1%} padding in {plan.shapes} shape{'s' * (plan.shapes != 1)}",
        ),
        ("memory", _memory(plan.memory)),
        *room,
    ]


def _mixture(plan: TrainingPlan) -> str:
    """Return the rows of an epoch, by kind."""
    new, old, general = plan.mixture.sources
    wordings = sum(len(new.wordings_of(row)) for row in range(new.size))
    rows = f"{new.size} new" + f" in {wordings} wordings" * (wordings > new.size)
    if old.size:
        some = f" of {old.size}" * (old.per_epoch < old.size)
        rows += f" + {old.per_epoch}{some} of earlier sessions"
    if general.per_epoch:
        rows += f" + {general.per_epoch} general"
    return rows + (f"; {len(plan.held_out)} held out" if plan.held_out else "")


def _memory(plan: MemoryPlan) -> str:
    """Return the memory plan in one line."""
    parts = {
        "weights": plan.weights_bytes,
        "adapter": plan.adapter_bytes,
        "layers": plan.activations_bytes,
        "logits": plan.loss_bytes,
    }
    shares = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in parts.items() if count)
    return f"{plan.peak_bytes / 1e9:.1f} GB of {plan.limit_bytes / 1e9:.1f}: {shares}"


def _settings(plan: TrainingPlan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("setting", "value", "why", "from"):
        table.add_column(heading, header_style="dim", no_wrap=heading in ("setting", "value"))
    for name, chosen in plan.settings.items():
        if FIELDS[name].metadata["optional"] and chosen.source == "default":
            continue
        words = (name.replace("_", " "), setting_value(chosen.value), chosen.reason, chosen.source)
        table.add_row(*map(escape, words))
    return table


def _rows(count: int) -> str:
    return f"{count} row" + "s" * (count != 1)


def _q(row: Row) -> str:
    return f"“{one_line(row.question or row.text)}”"


def _listed(lines: list[str]) -> list[str]:
    shown = [f"    {line}" for line in lines[:_LISTED]]
    return shown + ([f"    … and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else [])
