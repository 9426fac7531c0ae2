"""What a training prints: the plan, the merge, the steps, the verdict and the next commands."""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from mlx_tune.cli.console import (
    TABLE_COLUMNS,
    Signals,
    Waiting,
    can_ask,
    clock,
    console,
    duration,
    percent,
    print_json,
    say,
    setting_value,
    size,
    told_apart,
    warn_of_slow_blas,
)
from mlx_tune.cli.gate_view import show_decision, show_ways
from mlx_tune.cli.options import STORE
from mlx_tune.cli.plan_view import show_plan
from mlx_tune.continual.answers import AnswerScore
from mlx_tune.continual.gate import Decision
from mlx_tune.errors import HeldBack, Interrupted, Refused
from mlx_tune.settings import MAX_GENERAL_REPLAY, default, recorded_settings, typed
from mlx_tune.store.runs import Run
from mlx_tune.store.session import ASK, PROMOTE, Session
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows.observer import GateAnswer, TrainingObserver
from mlx_tune.workflows.run import TrainingOutcome
from mlx_tune.workflows.scoring import SessionRecall
from mlx_tune.workflows.training_plan import TrainingPlan

_WELL_LEARNED = 0.9
_MORE = 1.5  # times the general questions
_LONGER = 1.25  # times the epochs: 60 rows missed 4 with 27 and none with 34 (docs/LOG.md)
_RECENT_STEPS = 20  # which the rate and the time left are taken from
_PLAIN_SECONDS = 30.0  # between lines within an epoch, where there is no terminal


class TrainingView(TrainingObserver):
    """Prints a training as it runs."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._console = Console(stderr=True, highlight=False) if as_json else console()
        self._progress: RunProgress | None = None
        self._run: Run | None = None
        self._signals = Signals()
        self._waiting = Waiting()

    def __enter__(self) -> Self:
        warn_of_slow_blas()
        self._signals.listen()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ended()
        self._signals.restore()
        run = self._run
        if error is not None and run is not None and run.is_unfinished and run.path.exists():
            why = str(error) if isinstance(error, Interrupted) else "the run is kept"
            say(f"{why}; go on with: {typed(f'resume {run.path.name}', self._store())}")

    def say(self, line: str) -> None:
        """Print one line of progress."""
        self._waiting.say(line)

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        """Ask whether to resume an unfinished run; without a terminal, only mention it."""
        self._waiting.stop()
        found = f"{run.path.name} is an unfinished run of the same data"
        if other_settings:
            others = other_settings.items()
            listed = (f"{name.replace('_', ' ')} {setting_value(v)}" for name, v in others)
            found += f", but with {', '.join(listed)}"
        if not can_ask():
            again = typed(f"resume {run.path.name}", run.path.parents[1])
            say(f"note: {found}; go on with it: {again}")
            return False
        return typer.confirm(f"{found}.\nGo on with it?", default=not other_settings, err=True)

    def planned(self, plan: TrainingPlan) -> None:
        """Print the plan."""
        self._waiting.stop()
        show_plan(plan, self._console)
        self._signals.wait = True  # one that comes while the run is written waits for its name

    def opened(self, run: Run) -> None:
        """Remember the run, for the command that resumes it."""
        self._run = run
        self._signals.wait = False
        if self._signals.received:
            raise Interrupted("stopped before the first step", signal=self._signals.received)

    def merged(self, chain: Sequence[Session]) -> None:
        """Print the sessions that were folded into the base."""
        self._waiting.stop()
        if chain:
            names = ", ".join(told_apart([(one.number, one.name) for one in chain]))
            self._console.print("[green]✓ Previous knowledge successfully merged![/]", end=" ")
            self._console.print(f"({names})", markup=False)
        else:
            self._console.print("First session: there is nothing to merge yet, which is fine.")

    def began(self, trainer: Trainer) -> None:
        """Start the progress display."""
        self._waiting.stop()
        self._signals.wait = True
        self._progress = RunProgress(
            self._console,
            planned_steps=trainer.planned_steps,
            steps_done=trainer.steps_done,
            epochs=trainer.config.epochs,
            decay_epochs=trainer.config.decay_epochs,
        )

    def stepped(self, step: Step) -> None:
        """Show one step."""
        assert self._progress is not None, "began comes first"
        self._progress.step(step)

    def stop(self) -> int:
        """Return the signal that asked to stop, 0 for none."""
        return self._signals.received

    def asked(self, decision: Decision, questions: Mapping[int, Sequence[str]]) -> GateAnswer:
        """Show what was lost and ask what to do; without a terminal the session is held back."""
        self._waiting.stop()
        if not can_ask():
            return "hold"
        show_decision(decision, questions, self._console)
        say("  p  promote it all the same")
        say("  s  look for a smaller part of the change that passes")
        say("  h  hold it back: it is saved, and the model stays as it was")
        chosen = str(typer.prompt("What shall be done?", default="h", err=True))
        answers: Mapping[str, GateAnswer] = {"p": "promote", "s": "scale"}
        return answers.get(chosen.strip().casefold()[:1], "hold")

    def ended(self) -> None:
        """End the progress display."""
        self._waiting.stop()
        self._signals.wait = False
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def show_outcome(self, outcome: TrainingOutcome) -> None:
        """Print the verdict in words and the next commands."""
        if self._json:
            _print_outcome_json(outcome)
            return
        session, training = outcome.session, outcome.session.record.get("training")
        store = session.path.parents[1]
        self._console.print()
        names = told_apart([(entry.number, entry.name) for entry in outcome.recall])
        for entry, name in zip(outcome.recall, names, strict=True):
            is_new = entry is outcome.recall[-1]
            own = training if is_new else None
            named = replace(entry, name=name)
            show_verdict(named, own, self._console, is_new=is_new, store=store)
        if outcome.gate is not None:
            show_decision(outcome.gate.decision, outcome.gate.questions, self._console)
            if outcome.gate.beta < 1:
                self._console.print(f"only {outcome.gate.beta:g} of the change is kept")
        if training:
            took, peak = duration(training["seconds"]), size(training["peak_memory_bytes"])
            self._console.print(f"trained for {took}, peak memory {peak}")
        # A path may hold what rich takes for markup.
        self._console.print(f"[green]✓ saved[/] {escape(str(session.path))}", soft_wrap=True)
        if session.record["verdict"] != PROMOTE:
            if outcome.gate is not None:
                decision, name = outcome.gate.decision, session.id[:8]
                more = _more_general(self._run.record) if self._run else None
                show_ways(decision, self._console, session=name, general_replay=more, store=store)
            return
        self._console.print("next:")
        width = len(typed("train MORE.json", store))
        for words, purpose in (
            ("chat", "talk to it"),
            ("train MORE.json", "teach another subject"),
            ("rollback", "one step back"),
        ):
            line = f"  {typed(words, store):<{width}}   {purpose}"
            self._console.print(line, soft_wrap=True, markup=False)

    def _store(self) -> Path:
        return self._run.path.parents[1] if self._run else STORE


def show_verdict(
    entry: SessionRecall,
    training: Mapping[str, Any] | None,
    printer: Console,
    *,
    is_new: bool = False,
    store: Path = STORE,
) -> None:
    """Print how well one session is known: however it is asked first, then word for word.

    Args:
        entry: The session's scores.
        training: The numbers of its training, for a new one that was trained here.
        printer: Where to print.
        is_new: Whether it is new, trained here or elsewhere.
        store: Where the session is, for the command that says more.
    """
    known = entry.verbatim
    if known is None:
        done = "trained" if training else "imported" if is_new else "kept"
        printer.print(f"[green]✓[/] {escape(entry.name)}: {done}; it has no questions to score")
        return
    taught, reworded = entry.as_taught, entry.other_words
    good = (taught or known).rate >= _WELL_LEARNED
    words = ("learned", "only partly learned") if training or is_new else ("kept", "faded")
    word = words[0] if good else words[1]
    line = Text.assemble(("✓", "green") if good else ("!", "yellow"), f" {entry.name} {word}: ")
    recited = f"{percent(known.right, known.asked)} word for word"
    if taught is None:  # read from the record of an earlier version
        printer.print(line.append(recited), soft_wrap=True)
        return
    line.append(f"right {_of(taught)} as taught")
    if reworded is not None:
        line.append(f", {_of(reworded)} in other words")
    if confused := taught.confused + (reworded.confused if reworded else 0):
        line.append(f", confused {confused}")
    printer.print(line)
    more = [recited]
    if reworded is not None and reworded.facts_asked and reworded.facts_found is not None:
        facts = f"{reworded.facts_found} of {reworded.facts_asked}"
        more.append(f"{facts} key facts in other words")
    cut_short = training and training["is_learned"] is False and known.right < known.asked
    fell_short = training and (cut_short or not good)
    if training and fell_short and training["last_loss"] > training.get("first_loss", math.inf):
        rose = f"the loss rose from {training['first_loss']:.2f} to {training['last_loss']:.2f}"
        more.append(f"{rose}, so the rate is too high; try a quarter of --learning-rate")
    elif training and fell_short:
        longer = math.ceil(training["epochs"] * _LONGER)
        more.append(f"{training['epochs']} epochs were too few, try --epochs {longer}")
    elif not good:
        more.append(f"see `{typed('eval', store)}`")
    printer.print(Padding(Text("; ".join(more)), (0, 0, 0, 2), expand=False))


def _of(score: AnswerScore) -> str:
    return f"{score.right} of {score.asked}"


def _more_general(run: Mapping[str, Any]) -> float | None:
    """Return a larger share of general questions than a run had; None where it had them all."""
    general = run["mixture"][-1]
    share = recorded_settings(run["sizing"])["general_replay"]["value"]
    if general["places"] == general["rows"] > 0:
        return None
    more = round(share * _MORE, 2) if share else float(default("general_replay"))
    return more if more <= MAX_GENERAL_REPLAY else None


def check_promoted(outcome: TrainingOutcome) -> None:
    """End a command with the gate's exit code where a session was not promoted.

    Raises:
        HeldBack: The gate asks for a decision, and nobody promoted the session.
        Refused: The gate refuses it.
    """
    session, verdict = outcome.session, outcome.session.record["verdict"]
    if verdict == PROMOTE:
        return
    reasons = session.record["gate"]["reasons"]
    words = "; ".join(reasons[:1]) + (f" (and {len(reasons) - 1} more)" if reasons[1:] else "")
    take = typed(f"promote {session.id[:8]}", session.path.parents[1])
    fix = f"HEAD is where it was; `{take}` takes it all the same"
    if verdict == ASK:
        raise HeldBack(f"{session.folder_name} is saved and held back: {words}; {fix}")
    raise Refused(f"{session.folder_name} is saved and refused: {words}; {fix}")


def _print_outcome_json(outcome: TrainingOutcome) -> None:
    session, record = outcome.session, outcome.session.record
    named = {"session": session.folder_name, "id": session.id, "path": str(session.path)}
    judged = {"is_head": outcome.is_head, "verdict": record["verdict"], "gate": record["gate"]}
    recall = [entry.to_json() for entry in outcome.recall]
    print_json({**named, **judged, "recall": recall, "training": record.get("training")})


class RunProgress:
    """The progress of a run: a live line on a terminal, one plain line an epoch elsewhere.

    ``steps_done`` of the ``planned_steps`` were done before the run was resumed. One that ends once
    all is learned is expected to end after ``decay_epochs``; only from there on the most count.
    """

    def __init__(
        self,
        console: Console,
        *,
        planned_steps: int,
        steps_done: int,
        epochs: int,
        decay_epochs: int = 0,
    ) -> None:
        self._console, self._epochs = console, epochs
        self._expected_epochs = min(decay_epochs, epochs)
        self._steps_per_epoch = planned_steps // epochs
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT_STEPS)
        self._epoch_losses: list[float] = []
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            bar = [BarColumn(bar_width=16)] if console.width >= TABLE_COLUMNS else []
            self._bar = Progress(*bar, TextColumn("{task.description}"), console=console)
            self._task = self._bar.add_task("", total=planned_steps, completed=steps_done)
            self._bar.start()

    def step(self, step: Step) -> None:
        """Show one step."""
        self._recent.append((step.tokens, step.seconds))
        self._epoch_losses.append(step.loss)
        took = sum(seconds for _, seconds in self._recent)
        rate = sum(tokens for tokens, _ in self._recent) / took
        epochs = self._expected_epochs if step.epoch <= self._expected_epochs else self._epochs
        planned = epochs * self._steps_per_epoch
        left = (planned - step.number) * took / len(self._recent)
        line = (
            f"step {step.number}/{planned}  epoch {step.epoch}/{epochs}  "
            f"loss {step.loss:.3f}  lr {step.learning_rate:.1e}\n"
            f"{rate:.0f} tok/s  peak {step.peak_memory_bytes / 1e9:.1f} GB  {clock(left)} left"
        )
        if self._bar is not None:
            self._bar.update(self._task, total=planned, completed=step.number, description=line)
        elif not step.ends_epoch and time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._plain(line.replace("\n", "  "))
        if step.ends_epoch:
            mean = sum(self._epoch_losses) / len(self._epoch_losses)
            self._epoch_losses.clear()
            self._plain(
                f"epoch {step.epoch:>2}/{epochs}  mean loss {mean:.4f}  checkpoint saved  "
                f"{clock(left)} left"
            )

    def close(self) -> None:
        """Stop the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _plain(self, line: str) -> None:
        self._printed = time.monotonic()
        self._console.print(line, soft_wrap=True, markup=False)
