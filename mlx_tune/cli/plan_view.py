"""How a plan looks: the head panel of `train`, and the whole of `plan`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlx_tune.cli.console import (
    TABLE_COLUMNS,
    counted,
    print_labelled,
    print_wrapped,
    setting_value,
    size,
    told_apart,
)
from mlx_tune.data.folders import READ_SUFFIXES, said_uses
from mlx_tune.data.read import DataFile
from mlx_tune.data.rows import Row
from mlx_tune.settings import FIELDS
from mlx_tune.text import one_line
from mlx_tune.training.memory import MemoryPlan
from mlx_tune.workflows.training_plan import TrainingPlan

_LISTED = 5


def show_plan(plan: TrainingPlan, console: Console) -> None:
    """Print what a training would do, every setting with its reason and source."""
    print_labelled(console, _head(plan), width=10)
    for line in [*_unasked(plan), *remarks(plan)]:
        print_wrapped(console, line)
    if console.width >= TABLE_COLUMNS:
        console.print(_settings(plan))
        return
    for name, value, reason, source in _setting_words(plan):
        print_wrapped(console, f"{name} {value}")
        print_wrapped(console, f"  {reason} ({source})")


def _unasked(plan: TrainingPlan) -> list[str]:
    """Return what is not known before the base was asked."""
    if plan.general is not None or not plan.mixture.sources[2].per_epoch:
        return []
    return [
        "! the base was asked no general questions yet, so each is counted with the longest "
        "answer; `train` asks them first, once"
    ]


def remarks(plan: TrainingPlan) -> list[str]:
    """Return the warnings about the data."""
    review = plan.review
    if review is None:  # a run that is resumed, which was shown before
        return []
    found = review.rehearsal
    limit = plan.settings.max_length
    groups = [
        (
            "row",
            f"left out, longer than {limit} tokens ({review.long_share:.1%} of the tokens)",
            [row.place for row in review.too_long],
        ),
        (
            "wording",
            f"left out, longer than {limit} tokens, of rows that stay",
            [f"{_q(row)} {row.place}" for row in review.long_wordings],
        ),
        (
            "row",
            f"left out, longer than {limit} tokens, of those to hold out",
            [row.place for row in review.long_held_out],
        ),
        ("row", "standing more than once in the data", [row.place for row in found.duplicates]),
        (
            "row",
            "contradicting another row of the data",
            [f"{_q(row)} {row.place} and {old.place}" for row, old in found.contradictions],
        ),
        ("row", "taught before with the same answer", [row.place for row in found.repeated]),
        (
            "row",
            "replacing an earlier answer",
            [f"{_q(row)} was: {one_line(old.answer)}" for row, old in found.changed],
        ),
        (
            "wording",
            "of earlier rows answered otherwise now; the rows go on without",
            [f"{_q(old)} was: {one_line(old.answer)}" for _, old in found.reworded],
        ),
        (
            "row",
            "asking nearly what another does, with another answer; both are taught "
            "(--replace lets new ones replace old ones)",
            [f"{_q(row)} {row.place} and {_q(old)} {old.place}" for row, old in found.alike],
        ),
        (
            "paraphrase",
            "of earlier rows trained on now; the rows are measured without",
            [f"{_q(old)} {old.place}, now at {row.place}" for row, old in found.unmeasured],
        ),
        (
            "turn",
            "of a conversation with another answer elsewhere; only what is asked last is replaced",
            [
                f"{_q(row)} {row.place}: {one_line(row.answer)} and {old.place}: "
                f"{one_line(old.answer)}"
                for row, old in found.turns
            ],
        ),
    ]
    lines = []
    if plan.unkept and not plan.method.synthesises:
        names = ", ".join(session.name for session in plan.unkept)
        lines.append(
            f"! {names}: rows were not kept, so none is rehearsed; --method synthetic lets the "
            "model write rows instead"
        )
    if twins := [session for session in plan.before if session.name == plan.name]:
        folders = ", ".join(session.folder_name for session in twins)
        lines.append(f"! {folders} has this name too; --name gives the new session another")
    if plan.held_out and plan.settings.until_learned:
        lines.append(
            "! the held-out rows are scored and choose no checkpoint, for training goes on until "
            "all is learned; --no-until-learned lets them choose"
        )
    if review.passed_over:
        fields = [
            f"{one_line(name, 40) or '(no name)'} ({counted(rows, 'row')})"
            for name, rows in review.passed_over.items()
        ]
        lines.append(f"! fields that teach nothing were passed over: {', '.join(fields)}")
    if review.not_read:
        lines.append(
            f"! not read: {_first(review.not_read)}; accepted are {', '.join(READ_SUFFIXES)}"
        )
    if named := [str(one.path) for one in review.files if _is_not_what_it_says(one)]:
        lines.append(f"! trained on, as named, though the name says valid or test: {_first(named)}")
    for noun, heading, listed in groups:
        if listed:
            lines.append(f"! {counted(len(listed), noun)} {heading}:")
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
            "rehearsed": len(found.old),
            "an_epoch": dict(zip(("new", "old", "general"), an_epoch, strict=True)),
            "held_out": len(plan.held_out),
        },
        "files": [{**vars(file), "path": str(file.path)} for file in review.files],
        "not_read": list(review.not_read),
        "passed_over": dict(review.passed_over),
        "too_long": [row.place for row in review.too_long],
        "held_out_too_long": [row.place for row in review.long_held_out],
        "repeated": len(found.repeated),
        "changed": [[row.place, old.answer] for row, old in found.changed],
        "contradictions": [[row.place, old.place] for row, old in found.contradictions],
        "duplicates": [row.place for row in found.duplicates],
        "alike": [[row.place, row.question, old.question] for row, old in found.alike],
        "unmeasured": [[row.place, old.question] for row, old in found.unmeasured],
        "turns": [[row.place, row.question, old.place] for row, old in found.turns],
        **_wordings_json(plan),
        "steps": plan.planned_steps,
        "steps_for_new_rows": plan.steps_for_new_rows,
        "least_epochs": plan.least_epochs,
        "warmup_steps": plan.warmup_steps,
        "tokens_per_epoch": plan.tokens_per_epoch,
        "padding": plan.batches.padding,
        "shapes": plan.shapes,
        "memory": {**dataclasses.asdict(plan.memory), "peak_bytes": plan.memory.peak_bytes},
        "disk": dataclasses.asdict(review.disk),
        "settings": plan.settings.to_json(),
        "remarks": [*_unasked(plan), *remarks(plan)],
    }


def _wordings_json(plan: TrainingPlan) -> dict[str, Any]:
    """Return what is to be told of wordings; nothing where no row has any."""
    assert plan.review is not None, "as in plan_json"
    review, found = plan.review, plan.review.rehearsal
    counts = {kind: sum(len(row.wordings) for row in rows) for kind, rows in _taught(plan)}
    if not (sum(counts.values()) or review.long_wordings or found.reworded):
        return {}
    return {
        "wordings": {
            **counts,
            "too_long": [[row.place, row.question] for row in review.long_wordings],
            "changed": [[row.place, old.question, old.answer] for row, old in found.reworded],
        }
    }


def _head(plan: TrainingPlan) -> list[tuple[str, str]]:
    names = " → ".join(told_apart([(session.number, session.name) for session in plan.chain]))
    new, *others = plan.tokens_by_kind
    added = f", +{sum(others) / new:.0%} to remember" if new and sum(others) else ""
    base, disk = plan.info, plan.review and plan.review.disk
    room = [("disk", f"{size(disk.needed_bytes)} of {size(disk.free_bytes)} free")] if disk else []
    return [
        ("session", f"{len(plan.chain) + 1} · {plan.name}"),
        ("base", f"{base.name} · {base.fingerprint[:12]} · {size(base.weights_bytes)}"),
        ("chain", names or "none yet: a first session"),
        *([("data", files)] if (files := _files(plan)) else []),
        ("rows", _mixture(plan)),
        *([("wordings", wordings)] if (wordings := _wordings(plan)) else []),
        ("epochs", _epochs(plan)),
        ("steps", _steps(plan)),
        (
            "work",
            f"{plan.tokens_per_epoch:,} tokens an epoch{added}; "
            f"{plan.batches.padding:.1%} padding in {plan.shapes} shape{'s' * (plan.shapes != 1)}",
        ),
        ("memory", _memory(plan.memory)),
        *room,
    ]


def _epochs(plan: TrainingPlan) -> str:
    """Return how many epochs there are, from the least to the most, and what each has."""
    rows, batch = counted(plan.mixture.rows_per_epoch, "row"), plan.config.effective_batch
    is_open = 0 < plan.least_epochs < plan.config.epochs
    least = f"{plan.least_epochs} to " if is_open else _at_most(plan)
    return f"{least}{plan.config.epochs}, each of {rows} in steps of {batch}"


def _steps(plan: TrainingPlan) -> str:
    """Return the steps, those of the new rows apart from those that remembering adds."""
    planned, own = plan.planned_steps, plan.steps_for_new_rows
    added = f": {own} for the new rows, {planned - own} to remember" if planned > own else ""
    return f"{_at_most(plan)}{planned}{added}; {plan.warmup_steps} of them warm-up"


def _at_most(plan: TrainingPlan) -> str:
    return "at most " if plan.settings.until_learned else ""


def _mixture(plan: TrainingPlan) -> str:
    """Return the rows of an epoch, by kind."""
    new, old, general = plan.mixture.sources
    rows = f"{new.size} new"
    if old.size:
        some = f" of {old.size}" * (old.per_epoch < old.size)
        rows += f" + {old.per_epoch}{some} of earlier sessions"
    if general.per_epoch:
        rows += f" + {general.per_epoch} general"
    return rows + (f"; {len(plan.held_out)} held out" if plan.held_out else "")


def _wordings(plan: TrainingPlan) -> str:
    """Return how many wordings the rows have, their questions included; nothing for one each."""
    found = [
        f"{counted(source.size, f'{kind} row')} in {source.num_wordings}"
        for (kind, _), source in zip(_taught(plan), plan.mixture.sources[:2], strict=True)
        if source.variants
    ]
    return f"{', '.join(found)}; an epoch has each row in one" if found else ""


def _taught(plan: TrainingPlan) -> tuple[tuple[str, Sequence[Row]], ...]:
    return ("new", plan.new), ("old", plan.old)


def _memory(plan: MemoryPlan) -> str:
    """Return the memory plan in one line."""
    parts = {
        "weights": plan.weights_bytes,
        "chain": plan.chain_bytes,
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
    for words in _setting_words(plan):
        table.add_row(*map(escape, words))
    return table


def _setting_words(plan: TrainingPlan) -> list[tuple[str, str, str, str]]:
    """Return name, value, reason and source of each setting that is worth a line."""
    return [
        (name.replace("_", " "), setting_value(chosen.value), chosen.reason, chosen.source)
        for name, chosen in plan.settings.items()
        if not FIELDS[name].metadata["optional"] or chosen.source != "default"
    ]


def _files(plan: TrainingPlan) -> str:
    """Return what each file is for; nothing where every one was named and is trained on."""
    files = plan.review.files if plan.review else ()
    if [str(file.path) for file in files if file.use == "train"] == list(plan.sources):
        return ""
    uses = {"train": "", "hold out": " held out", "leave": " left alone"}
    return ", ".join(f"{one.path}: {counted(one.rows, 'row')}{uses[one.use]}" for one in files)


def _is_not_what_it_says(file: DataFile) -> bool:
    said = said_uses(file.path)
    return file.use == "train" and bool(said) and "train" not in said


def _q(row: Row) -> str:
    # Of a conversation that asks nothing, its end.
    return f"“{one_line(row.question or row.text or row.messages[-1].text)}”"


def _first(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(map(one_line, names[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")


def _listed(lines: list[str]) -> list[str]:
    shown = [f"    {line}" for line in lines[:_LISTED]]
    return shown + ([f"    … and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else [])
