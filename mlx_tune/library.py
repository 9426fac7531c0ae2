"""The program as a library: a store of sessions, and what can be done with it.

The command line is a thin shell over this: each command is a method of `Store`. Nothing heavy is
imported before a method needs it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_tune.errors import UsageError

if TYPE_CHECKING:
    from mlx_tune.models.bases import Say
    from mlx_tune.models.load import Quantisation
    from mlx_tune.store.session import Session
    from mlx_tune.store.snapshot import StoreSnapshot
    from mlx_tune.store.verify import Findings
    from mlx_tune.training.loop import Step
    from mlx_tune.workflows.ask import AnswerRecord, Chat
    from mlx_tune.workflows.data_check import DataCheck
    from mlx_tune.workflows.diff import Difference
    from mlx_tune.workflows.export_adapter import ExportedAdapter
    from mlx_tune.workflows.export_model import ExportedModel
    from mlx_tune.workflows.fuse import Fused
    from mlx_tune.workflows.matrix import Evaluation
    from mlx_tune.workflows.observer import TrainingObserver
    from mlx_tune.workflows.plan import TrainingRequest
    from mlx_tune.workflows.run import TrainingOutcome
    from mlx_tune.workflows.store_commands import Collection, Promotion, Rollback
    from mlx_tune.workflows.tracking import Work
    from mlx_tune.workflows.training_plan import TrainingPlan

Data = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Iterable[Mapping[str, Any]]
"""Data files or folders, or rows such as ``{"instruction": "…", "response": "…"}``."""

_log = logging.getLogger("mlx_tune")


class Store:
    """Sessions that a model was taught, in a folder that is made by the first training.

    Args:
        root: The folder.
        base: The base model: a short name, a Hugging Face id or a folder; None for the store's own,
            or for what fits this machine where there is no session yet.
        config: A YAML file of settings for trainings.
        say: Told, in a line, what takes long and what a person should know; None to log it
            (logger ``mlx_tune``, level INFO).
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "adapters",
        *,
        base: str | None = None,
        config: str | os.PathLike[str] | None = None,
        say: Say | None = None,
    ) -> None:
        self.root = Path(root)
        self._base, self._config = base, Path(config) if config is not None else None
        self._say: Say = say or _log.info

    def __repr__(self) -> str:
        """Return how to make this store again."""
        return f"Store({str(self.root)!r})"

    def train(
        self,
        data: Data,
        *,
        progress: Callable[[Step], None] | None = None,
        observer: TrainingObserver | None = None,
        track: Sequence[str] = (),
        **settings: Any,
    ) -> TrainingOutcome:
        """Train one session on top of everything learned so far.

        Args:
            data: Data files or folders, or rows.
            progress: Called after each optimizer step.
            observer: Follows everything, and may answer what is asked; instead of ``progress``.
            track: Names of trackers that record it besides: see :mod:`.workflows.trackers`.
            settings: As in docs/config.md, such as ``epochs=5`` or ``name="dining"``.

        Returns:
            The session as committed, what is known of every session, and the gate's decision.
            ``is_head`` is False where the gate held it back or refused it.

        Raises:
            InputError: The data cannot be used.
            UsageError: A setting cannot, or the training does not fit the machine.
            LockedError: Another training is going on in this store.
            Interrupted: The observer asked to stop; :meth:`resume` goes on.
        """
        from mlx_tune.workflows.run import train

        request = self._request(data, settings)
        return self._followed(lambda follows: train(request, follows), progress, observer, track)

    def plan(self, data: Data, **settings: Any) -> TrainingPlan:
        """Return what :meth:`train` would do, every setting with its reason; nothing is written.

        Raises:
            InputError: The data cannot be used.
            UsageError: A setting cannot, or the training does not fit the machine.
        """
        from mlx_tune.workflows.plan import plan_training

        return plan_training(self._request(data, settings, asks_model=False), say=self._say)

    def check_data(self, *data: str | os.PathLike[str], row: int = 1) -> DataCheck:
        """Return what a training would make of data files or folders; nothing is written.

        Args:
            data: Files or folders.
            row: Which row to show as it is trained, from 1.

        Raises:
            InputError: The data cannot be used.
            UsageError: There is no such row.
        """
        from mlx_tune.workflows.data_check import check_data

        paths = [Path(path) for path in data]
        return check_data(paths, store=self.root, base=self._base, row=row, say=self._say)

    def resume(
        self,
        run: str | None = None,
        *,
        progress: Callable[[Step], None] | None = None,
        observer: TrainingObserver | None = None,
        track: Sequence[str] = (),
    ) -> TrainingOutcome:
        """Finish an interrupted training as if it had never stopped.

        Args:
            run: The name of its folder under ``runs/``; None for the newest unfinished one.
            progress: Called after each optimizer step.
            observer: As for :meth:`train`.
            track: As for :meth:`train`.

        Raises:
            UsageError: There is no such run.
            DamagedStoreError: There is no store.
            IncompatibleError: The base model or the rows are no longer what it began with.
        """
        from mlx_tune.workflows.run import resume

        return self._followed(
            lambda follows: resume(self.root, run, follows), progress, observer, track
        )

    def discard(self, run: str | None) -> str:
        """Delete a run that is not to be finished, and return its folder's name.

        Args:
            run: The name of its folder under ``runs/``; its record may be damaged.

        Raises:
            UsageError: There is no such run, none was named, or it became a session.
            LockedError: A training is going on.
        """
        from mlx_tune.workflows.run import discard

        return discard(self.root, run)

    def consolidate(
        self,
        *,
        without: Sequence[str] = (),
        progress: Callable[[Step], None] | None = None,
        observer: TrainingObserver | None = None,
        track: Sequence[str] = (),
        **settings: Any,
    ) -> TrainingOutcome:
        """Teach the bare base all that the chain was taught, as one new first session.

        Args:
            without: Sessions whose rows are left out.
            progress: Called after each optimizer step.
            observer: As for :meth:`train`.
            track: As for :meth:`train`.
            settings: As for :meth:`train`.

        Raises:
            UsageError: There is no session, or one of them keeps no rows.
            DamagedStoreError: There is no store.
        """
        from mlx_tune.workflows.run import train

        request = replace(self._request((), settings), without=without, consolidates=True)
        return self._followed(lambda follows: train(request, follows), progress, observer, track)

    def chat(
        self, session: str | None = None, *, max_tokens: int = 512, temperature: float = 0.0
    ) -> Chat:
        """Load a model to talk to.

        Args:
            session: Who answers: a session by tag, number, name or id, ``base``, or None for HEAD.
            max_tokens: The longest answer, in tokens.
            temperature: 0 takes the likeliest token each time.

        Raises:
            UsageError: There is no such session.
            DamagedStoreError: A session of its chain is not what was committed.
        """
        from mlx_tune.workflows.ask import Chat

        return Chat(
            self.root,
            self._base,
            session=session,
            max_tokens=max_tokens,
            temperature=temperature,
            say=self._say,
        )

    def ask(
        self,
        questions: Iterable[str] | Iterable[Mapping[str, Any]],
        *,
        session: str | None = None,
        max_tokens: int = 512,
    ) -> list[AnswerRecord]:
        """Ask a list of questions, several at once, each by itself.

        Args:
            questions: Texts, or rows whose answers the model's are compared with.
            session: As for :meth:`chat`.
            max_tokens: The longest answer, in tokens.

        Raises:
            InputError: A question is longer than the model can read.
        """
        from mlx_tune.data import read
        from mlx_tune.data.rows import Message, Row
        from mlx_tune.workflows.ask import ask, load_model

        texts, values = _parted(questions)
        rows = [Row(messages=(Message(role="user", content=str(text)),)) for text in texts]
        rows = rows or read.from_values(values)
        merged = load_model(self.root, session=session, base=self._base, say=self._say)
        return list(ask(merged, rows, max_tokens=max_tokens, say=self._say))

    def evaluate(
        self,
        session: str | None = None,
        *,
        on: str | None = None,
        quick: bool = False,
        fresh: bool = False,
    ) -> Evaluation:
        """Return how well every session is known, after every session: the retention matrix.

        Args:
            session: Whose model answers; None for HEAD.
            on: Whose chain of sessions is asked about; None for the answering one's.
            quick: Measure the answering session alone.
            fresh: Measure every cell, whatever is known of it already.

        Raises:
            UsageError: The store has no sessions, or a name means none.
        """
        from mlx_tune.workflows.evaluate import evaluate

        return evaluate(
            self.root,
            session=session,
            base=self._base,
            on=on,
            say=self._say,
            fresh=fresh,
            quick=quick,
        )

    def diff(self, a: str, b: str, *, ask: bool = True, shown: int | None = None) -> Difference:
        """Compare two sessions, or a session and ``base``: settings, rows, weights and answers.

        Args:
            a: A session, ``HEAD`` or ``base``.
            b: Another.
            ask: Load both models, one after the other, and ask them every question taught.
            shown: How many answers that differ must be there to be read; None for all.

        Raises:
            UsageError: There is no such session.
        """
        from mlx_tune.workflows.diff import diff

        return diff(self.root, a, b, base=self._base, ask=ask, shown=shown, say=self._say)

    def fuse(
        self,
        out: str | os.PathLike[str],
        *,
        session: str | None = None,
        quantise: Quantisation | str | None = None,
        anyway: bool = False,
        confirm: Callable[[str], bool] = lambda _: False,
    ) -> Fused:
        """Write base and sessions as one model that mlx-lm loads.

        Args:
            out: A folder that does not exist yet.
            session: As for :meth:`chat`.
            quantise: Bits, or ``"BITS:GROUP"``; written only if the model still knows enough.
            anyway: Write it whatever it forgot.
            confirm: Asked whether to write a model that forgot a little.

        Raises:
            UsageError: The folder exists, or the base cannot be quantised so.
            HeldBack: Quantised, it forgets some of what it knew, and nobody confirmed.
            Refused: Too much of it.
        """
        from mlx_tune.models.load import Quantisation
        from mlx_tune.workflows.fuse import fuse

        form = Quantisation.parse(quantise) if isinstance(quantise, str) else quantise
        return fuse(
            self.root,
            out=Path(out),
            session=session,
            base=self._base,
            say=self._say,
            quantise=form,
            anyway=anyway,
            ask=confirm,
        )

    def export_peft(
        self,
        out: str | os.PathLike[str],
        *,
        session: str | None = None,
        separate: bool = False,
    ) -> list[ExportedAdapter]:
        """Write a chain as one LoRA adapter that PEFT loads, or each of its sessions as one.

        Args:
            out: A folder that does not exist yet.
            session: As for :meth:`chat`.
            separate: A folder for each session; only together they compute what the chain does.

        Raises:
            UsageError: The folder exists, or the bare base is to be written.
        """
        from mlx_tune.workflows.export_adapter import export_peft

        return export_peft(
            self.root,
            out=Path(out),
            session=session,
            base=self._base,
            separate=separate,
            say=self._say,
        )

    def export_gguf(
        self,
        out: str | os.PathLike[str],
        *,
        session: str | None = None,
        kind: str | None = None,
    ) -> ExportedModel:
        """Write base and sessions as one GGUF file, which llama.cpp loads.

        Args:
            out: A file that does not exist yet.
            session: As for :meth:`chat`.
            kind: What matrices are stored as: ``f32``, ``f16``, ``bf16`` or ``q8_0``; None for
                bf16 where the base has it, else f16.

        Raises:
            UsageError: The file exists, or there is no such type.
            InputError: GGUF has no name for the architecture or the tokenizer.
        """
        from mlx_tune.workflows.export_model import ExportRequest, export_gguf

        request = ExportRequest(
            store=self.root, out=Path(out), session=session, base=self._base, kind=kind
        )
        return export_gguf(request, say=self._say)

    def export_lora_gguf(
        self, out: str | os.PathLike[str], *, session: str | None = None
    ) -> ExportedAdapter:
        """Write a chain as one LoRA adapter, which llama.cpp loads beside the base's GGUF file.

        Args:
            out: A file that does not exist yet.
            session: As for :meth:`chat`.

        Raises:
            UsageError: The file exists, or the bare base is to be written.
            InputError: llama.cpp has no name for the architecture.
        """
        from mlx_tune.workflows.export_adapter import export_lora_gguf

        return export_lora_gguf(
            self.root, out=Path(out), session=session, base=self._base, say=self._say
        )

    def export_ollama(
        self,
        out: str | os.PathLike[str],
        *,
        session: str | None = None,
        kind: str | None = None,
    ) -> ExportedModel:
        """Write the same into a folder, beside a Modelfile for ``ollama create``.

        Args:
            out: A folder that does not exist yet.
            session: As for :meth:`chat`.
            kind: As for :meth:`export_gguf`.

        Raises:
            UsageError: The folder exists, or there is no such type.
            InputError: As for :meth:`export_gguf`.
        """
        from mlx_tune.workflows.export_model import ExportRequest, export_ollama

        request = ExportRequest(
            store=self.root, out=Path(out), session=session, base=self._base, kind=kind
        )
        return export_ollama(request, say=self._say)

    def export_lmstudio(
        self,
        name: str,
        *,
        models: str | os.PathLike[str] = "~/.lmstudio/models",
        session: str | None = None,
        quantise: Quantisation | str | None = None,
        anyway: bool = False,
        confirm: Callable[[str], bool] = lambda _: False,
    ) -> tuple[Path, Fused]:
        """Write base and sessions as one MLX model where LM Studio looks for it.

        Args:
            name: ``publisher/model``, which it shows.
            models: Its folder of models.
            session: As for :meth:`fuse`, and so are the others.
            quantise: Bits, or ``"BITS:GROUP"``.
            anyway: Write it whatever it forgot.
            confirm: Asked whether to write a model that forgot a little.

        Returns:
            The folder, and what was written.

        Raises:
            UsageError: The name is none, LM Studio is not here, or the model exists.
            MlxTuneError: As of :meth:`fuse`.
        """
        from mlx_tune.workflows.fuse import lmstudio_folder

        out = lmstudio_folder(name, Path(models).expanduser())
        written = self.fuse(out, session=session, quantise=quantise, anyway=anyway, confirm=confirm)
        return out, written

    def import_adapter(
        self,
        path: str | os.PathLike[str],
        *,
        data: Iterable[str | os.PathLike[str]] = (),
        name: str | None = None,
        onto: str | None = None,
        observer: TrainingObserver | None = None,
    ) -> TrainingOutcome:
        """Take a LoRA adapter that was trained elsewhere in, as a session like any other.

        Args:
            path: A folder that PEFT or mlx-lm wrote, with ``adapter_config.json`` and
                ``adapter_model.safetensors`` or ``adapters.safetensors``; or a GGUF file that
                llama.cpp loads.
            data: What it was taught, by which it is measured and rehearsed; without it the gate
                is blind to it.
            name: Of the session; None for the folder's or file's.
            onto: A session to put it on top of, as for :meth:`chat`; None for the bare base.
            observer: As for :meth:`train`.

        Raises:
            InputError: It is no plain LoRA of linear layers, or the data cannot be used.
            UsageError: The same adapter is there already, or the name is not allowed.
            IncompatibleError: It does not fit the base.
        """
        from mlx_tune.workflows.import_adapter import ImportRequest, import_adapter

        request = ImportRequest(
            path=Path(path),
            store=self.root,
            data=[Path(path) for path in data],
            base=self._base,
            name=name,
            onto=onto,
        )
        return import_adapter(request, self._observer(None, observer))

    def rollback(self, to: str | None = None) -> Rollback:
        """Move HEAD one step back, or to any session; nothing is deleted.

        Raises:
            UsageError: There is no such session, or HEAD is the base already.
        """
        from mlx_tune.workflows.store_commands import rollback

        return rollback(self.root, to)

    def promote(self, session: str) -> Promotion:
        """Put a session in use that the gate held back or refused, or that HEAD has left.

        Raises:
            UsageError: There is no such session, or HEAD is there already.
        """
        from mlx_tune.workflows.store_commands import promote

        return promote(self.root, session)

    def tag(self, name: str, session: str | None = None) -> Session:
        """Give a session a name; a tag of that name moves.

        Args:
            name: Lower-case letters, digits and hyphens.
            session: As for :meth:`chat`.

        Raises:
            UsageError: The name is not allowed or means a session already, or there is no such
                session.
        """
        from mlx_tune.store.labels import tag
        from mlx_tune.store.store import open_store

        writer = open_store(self.root)
        snapshot = writer.snapshot()
        return tag(writer, name, snapshot.head() if session is None else snapshot.find(session))

    def untag(self, name: str) -> None:
        """Take a tag away; its session stays.

        Raises:
            UsageError: There is no such tag.
        """
        from mlx_tune.store.labels import untag
        from mlx_tune.store.store import open_store

        untag(open_store(self.root), name)

    def remove(self, session: str, *, undo: bool = False) -> Session:
        """Mark a session as removed, for :meth:`gc` to collect, or take the mark back.

        Raises:
            UsageError: There is no such session, or HEAD, a session, a tag or an unfinished run
                stands on it.
        """
        from mlx_tune.store.labels import mark_removed, unmark_removed
        from mlx_tune.store.store import open_store

        writer = open_store(self.root)
        snapshot = writer.snapshot()
        found = snapshot.find(session)
        if found is None:
            raise UsageError("the base model is no session of the store, so it cannot be removed")
        (unmark_removed if undo else mark_removed)(writer, found)
        for note in snapshot.notes:
            self._say(note)
        return found

    def gc(self, *, dry_run: bool = False) -> Collection:
        """Move removed sessions to the trash, and delete trash older than 30 days.

        Raises:
            DamagedStoreError: Something in the store is damaged; nothing was moved.
            LockedError: A training is going on.
        """
        from mlx_tune.workflows.store_commands import collect

        return collect(self.root, dry_run=dry_run)

    def verify(self, *, deep: bool = False) -> Findings:
        """Check every byte of every session, and with ``deep`` of the base model too.

        Raises:
            DamagedStoreError: There is no store.
        """
        from mlx_tune.workflows.store_commands import verify

        return verify(self.root, deep=deep, say=self._say)

    def snapshot(self) -> StoreSnapshot:
        """Return the sessions, HEAD, tags and what is damaged, as they are now."""
        from mlx_tune.store.snapshot import read_snapshot

        return read_snapshot(self.root)

    def _request(
        self,
        data: Data,
        settings: Mapping[str, Any],
        *,
        asks_model: bool = True,
    ) -> TrainingRequest:
        from mlx_tune.data import read
        from mlx_tune.workflows.plan import TrainingRequest

        paths, values = _parted([data] if isinstance(data, (str, os.PathLike)) else data)
        return TrainingRequest(
            data=[Path(path) for path in paths],
            rows=read.from_values(values) if values else (),
            store=self.root,
            flags={"base": self._base, **settings},
            config=self._config,
            asks_model=asks_model,
        )

    def _followed(
        self,
        work: Work,
        progress: Callable[[Step], None] | None,
        observer: TrainingObserver | None,
        track: Sequence[str],
    ) -> TrainingOutcome:
        from mlx_tune.workflows.tracking import tracked

        return tracked(work, self._observer(progress, observer), track)

    def _observer(
        self, progress: Callable[[Step], None] | None, observer: TrainingObserver | None
    ) -> TrainingObserver:
        from mlx_tune.workflows.observer import TrainingObserver

        if observer is not None:
            if progress is not None:
                raise UsageError("progress and observer: an observer sees every step; give one")
            return observer
        say = self._say

        class Following(TrainingObserver):
            def say(self, line: str) -> None:
                say(line)

            def stepped(self, step: Step) -> None:
                if progress is not None:
                    progress(step)

        return Following()


def _parted(values: Iterable[Any]) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Part texts and paths from rows.

    Raises:
        UsageError: There are both.
    """
    found = list(values)
    rows = [value for value in found if isinstance(value, Mapping)]
    others = [value for value in found if not isinstance(value, Mapping)]
    if rows and others:
        raise UsageError(f"{str(others[0])[:40]!r} among rows; give either files or rows")
    return others, rows
