"""Lets a model write other wordings of a file's questions into a new file, for a person to review.

Three files lie beside each other: the new data, a review that says what was thrown away and why,
and while it runs a ``.partial`` with a line for each finished row, from which the same command goes
on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.reword import PROMPTS, RULES, Candidate, reword
from mlx_tune.continual.wording_rules import REASONS, Reason, WordingRules
from mlx_tune.data import read
from mlx_tune.data.fields import stripped
from mlx_tune.data.folders import READ_SUFFIXES, SUFFIXES
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.errors import IncompatibleError, InputError, UsageError
from mlx_tune.files import strict_json
from mlx_tune.files.durable import append_line, create_file, disk_errors, replace_file
from mlx_tune.files.strict_json import Item, JsonObject
from mlx_tune.inference import BATCH_SIZE
from mlx_tune.models import bases, runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.text import one_line
from mlx_tune.workflows.rewriter import ModelRewriter
from mlx_tune.workflows.workspace import load_folded

_SAFE = "the rows that are done are kept"


@dataclass(frozen=True, kw_only=True)
class Reworded:
    """A row that was reworded.

    Attributes:
        place: Its file and line.
        question: Its question.
        candidates: All that the model wrote, in order, each kept or with a reason.
    """

    place: str
    question: str
    candidates: tuple[Candidate, ...]

    @property
    def kept(self) -> list[str]:
        """The new wordings."""
        return [one.text for one in self.candidates if one.reason is None]

    @property
    def rejected(self) -> list[Candidate]:
        """What was thrown away."""
        return [one for one in self.candidates if one.reason is not None]


@dataclass(frozen=True, kw_only=True)
class RewordedFile:
    """What became of a file.

    Attributes:
        source: The file that was read.
        out: The new one.
        review: What was kept, and what was thrown away and why, to be read.
        model: The name of the model.
        wanted: How many wordings a row was to have.
        rows: How many rows the file has.
        without_question: How many of them ask nothing.
        complete: How many had enough wordings already.
        reworded: The others.
    """

    source: Path
    out: Path
    review: Path
    model: str
    wanted: int
    rows: int
    without_question: int
    complete: int
    reworded: tuple[Reworded, ...]

    @property
    def kept(self) -> int:
        """How many candidates were kept."""
        return sum(len(row.kept) for row in self.reworded)

    @property
    def written(self) -> int:
        """How many candidates the model wrote."""
        return sum(len(row.candidates) for row in self.reworded)

    @property
    def rejected(self) -> dict[Reason, int]:
        """How many were thrown away for each reason, most first."""
        counts = Counter(one.reason for row in self.reworded for one in row.rejected)
        return {reason: n for reason, n in counts.most_common() if reason is not None}

    @property
    def summary(self) -> str:
        """What was kept and what was thrown away, in a line."""
        parts = [f"{count:,} {REASONS[reason]}" for reason, count in self.rejected.items()]
        kept = f"kept {self.kept:,} of {self.written:,}"
        return f"{kept}; {', '.join(parts)}" if parts else kept

    def to_json(self) -> dict[str, Any]:
        """Return everything, with each candidate."""
        return {
            "source": str(self.source),
            "out": str(self.out),
            "review": str(self.review),
            "model": self.model,
            "wanted": self.wanted,
            "rows": self.rows,
            "without_question": self.without_question,
            "complete": self.complete,
            "kept": self.kept,
            "written": self.written,
            "rejected": self.rejected,
            "reworded": [
                {
                    "place": row.place,
                    "question": row.question,
                    "candidates": [one.to_json() for one in row.candidates],
                }
                for row in self.reworded
            ],
        }


def reword_file(
    path: Path,
    *,
    model: str | None = None,
    out: Path | None = None,
    wanted: int = 4,
    seed: int = 0,
    say: Say,
) -> RewordedFile:
    """Write a file's rows to a new one, with other wordings of their questions.

    Interrupted, it goes on where it stopped when it is called the same way again.

    Args:
        path: A data file.
        model: The name of the model that writes, or its folder; None for the default base.
        out: The new file, JSON or JSON Lines; None for one beside the other, JSON Lines where that
            is a table. Nothing is overwritten.
        wanted: How many wordings each row is to have, those that it has already included.
        seed: Of the sampling.
        say: Told, in a line, what takes long and how far it is.

    Raises:
        UsageError: The new file exists, has no folder, or is no data file by its name.
        InputError: The file is no data, or asks nothing.
        IncompatibleError: What an interrupted call left behind is of other rows, of another model
            or of other options.
        DiskError: The disk is full, read-only or failing; finished rows are kept.
        MlxTuneError: As for :func:`mlx_tune.models.bases.locate`.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; name one file, {', '.join(READ_SUFFIXES)}")
    if out is None:
        suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".jsonl"
        out = path.with_name(f"{path.stem}.reworded{suffix}")
    partial, review = (out.with_name(out.name + end) for end in (".partial", ".review.txt"))
    _check_new(out, review, partial)
    items, rows = _read(path)
    info = bases.locate(model or runtime.default_base(), say=say)
    wordings = [list(row.wordings) for row in rows]
    asked = [i for i, row in enumerate(rows) if row.question is not None]
    short = [i for i in asked if len(wordings[i]) < wanted]
    progress = _Progress(partial, _key(items, info, wanted=wanted, seed=seed), len(short), say)
    if left := [i for i in short if i not in progress.done]:
        folded = load_folded(info, [])
        rules = WordingRules(rows, wordings, folded.tokenizer.special_texts)
        for i, candidates in progress.done.items():
            for one in candidates:
                if one.reason is None:
                    rules.add(i, one.text)
        rewriter = ModelRewriter(folded)
        with progress:
            for part in _parts(left, max(1, BATCH_SIZE // len(PROMPTS))):
                found = reword(rules, part, rewriter, wanted=wanted, seed=seed)
                progress.add(dict(zip(part, found, strict=True)))
    made = RewordedFile(
        source=path,
        out=out,
        review=review,
        model=info.name,
        wanted=wanted,
        rows=len(rows),
        without_question=len(rows) - len(asked),
        complete=len(asked) - len(short),
        reworded=tuple(
            Reworded(
                place=rows[i].place,
                question=str(rows[i].question),
                candidates=tuple(progress.done[i]),
            )
            for i in short
        ),
    )
    new = {i: row.kept for i, row in zip(short, made.reworded, strict=True)}
    _write(made, _encode(items, wordings, new, out))
    progress.forget()
    return made


def _check_new(out: Path, review: Path, partial: Path) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: not a data file; name it {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: {out.parent} is no folder; make it first")
    for path in (out, review):
        # A review beside a partial is ours: the last call ended between the two files.
        if path.exists() and not (path is review and partial.exists()):
            raise UsageError(f"{path}: exists, and nothing is overwritten; name another --out")


def _read(path: Path) -> tuple[list[Item], list[Row]]:
    rows = read.read([path])
    if all(row.question is None for row in rows):
        raise InputError(f"{path}: no row asks a question, so there is nothing to reword")
    return read.read_items(path), rows


def _key(items: Sequence[Item], info: BaseInfo, *, wanted: int, seed: int) -> dict[str, Any]:
    """Return all that decides what is written, but for how a device rounds."""
    rows = canonical_json([item.value for item in items])
    return {
        "reword": RULES,
        "rows": hashlib.sha256(rows.encode()).hexdigest(),
        "model": info.fingerprint,
        "wordings": wanted,
        "seed": seed,
        "computed_in": str(runtime.compute_dtype() or "as stored"),
    }


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[at : at + size] for at in range(0, len(numbers), size))


def _encode(
    items: Sequence[Item], known: Sequence[list[str]], new: Mapping[int, list[str]], out: Path
) -> bytes:
    """Return the rows as they were, in their order, with what is new among their wordings."""
    rows: list[Any] = []
    for i, item in enumerate(items):
        assert isinstance(item.value, JsonObject)
        wordings = [*known[i], *new.get(i, ())]
        # Its own "wordings " would stand beside the new ones.
        rows.append({**stripped(item.value), **({"wordings": wordings} if wordings else {})})
    if out.suffix.lower() == ".json":
        return (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _write(made: RewordedFile, data: bytes) -> None:
    replace_file(made.review, _review(made).encode(), safe=_SAFE)
    create_file(made.out, data)
    with disk_errors("read", made.out, _SAFE):
        if made.out.read_bytes() != data:
            raise UsageError(f"{made.out}: appeared meanwhile and is kept; name another --out")


def _review(made: RewordedFile) -> str:
    lines = [
        f"Wordings of {made.source}, written by {made.model}",
        f"kept {made.kept:,} of {made.written:,}",
        *(f"  {count:>6,}  {REASONS[reason]}" for reason, count in made.rejected.items()),
        "",
        f"+ is in {made.out}, - is not. Take out of it what does not ask the same.",
    ]
    for row in made.reworded:
        lines += ["", f"{row.place}  {one_line(row.question)}"]
        lines += [f"  + {one_line(text)}" for text in row.kept]
        lines += [f"  - {one_line(one.text, 160)}  [{one_line(one.why)}]" for one in row.rejected]
    return "\n".join(lines) + "\n"


class _Progress:
    """The rows that are done, on the disk; a context that says what is kept when it is left early.

    Args:
        path: The file; its first line says what it belongs to, each other one has a row.
        key: What the first line has to say.
        total: How many rows there are.
        say: Told how far it is.

    Raises:
        IncompatibleError: The file belongs to something else.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], total: int, say: Say) -> None:
        self._path, self._key, self._total, self._say = path, key, total, say
        self.done: dict[int, list[Candidate]] = {}
        if path.exists():
            self._resume()
        self._said = len(self.done)

    def __enter__(self) -> None:
        if not self._path.exists():
            append_line(self._path, canonical_json(self._key), safe="nothing was written")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            done = f"{len(self.done)} of {self._total} rows are kept in {self._path}"
            self._say(f"{done}; the same command goes on from there")

    def add(self, found: Mapping[int, list[Candidate]]) -> None:
        """Keep the candidates of some rows."""
        for i, candidates in found.items():
            entry = {"row": i, "candidates": [one.to_json() for one in candidates]}
            append_line(self._path, canonical_json(entry), safe=_SAFE)
            self.done[i] = candidates
        if len(self.done) - self._said >= self._total / 10 or len(self.done) == self._total:
            self._said = len(self.done)
            everything = [one for candidates in self.done.values() for one in candidates]
            kept = sum(one.reason is None for one in everything)
            rows = f"{len(self.done)} of {self._total} rows"
            self._say(f"{rows}: kept {kept:,} of {len(everything):,} wordings")

    def forget(self) -> None:
        """Delete the file, now that all of it is in others."""
        with disk_errors("delete", self._path, "the new file is written"):
            self._path.unlink(missing_ok=True)

    def _resume(self) -> None:
        with disk_errors("read", self._path, _SAFE):
            first, *lines = self._path.read_bytes().split(b"\n")
        begun = _parsed(first)
        if begun != self._key:
            wrong = [name for name in self._key if (begun or {}).get(name) != self._key[name]]
            raise IncompatibleError(
                f"{self._path}: what an interrupted run left is of other {', '.join(wrong)}; "
                "delete it to begin again, or name another --out"
            )
        for line in lines:
            if entry := _parsed(line):  # a power cut may have torn one
                self.done[entry["row"]] = [Candidate.from_json(c) for c in entry["candidates"]]
        self._say(f"going on from {self._path}: {len(self.done)} of {self._total} rows are done")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = strict_json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
