"""Writes the merged model to a folder that mlx-lm can load, quantised if it still knows enough."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.answers import AnswerKey
from mlx_tune.continual.fidelity import Fidelity, FidelityMeter
from mlx_tune.continual.gate import Decision, Thresholds, decide
from mlx_tune.continual.in_force import current_rows
from mlx_tune.continual.recall import GeneralChange, Recall
from mlx_tune.continual.retained import Retained, SessionOutcomes, label
from mlx_tune.continual.retention import questions
from mlx_tune.errors import HeldBack, Refused, UsageError
from mlx_tune.files.durable import check_new, new_folder
from mlx_tune.models import runtime
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import Base, Quantisation, dequantise, save
from mlx_tune.store.session import ASK, PROMOTE, Session
from mlx_tune.text import quoted
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.model_card import CARD, model_card
from mlx_tune.workflows.scoring import (
    SessionRecall,
    ask_questions,
    grade_answers,
    prepare_questions,
    sample_size,
)
from mlx_tune.workflows.workspace import (
    FoldedModel,
    fold_to_write,
    free_memory,
    open_workspace,
    read_history,
    widen,
)

Confirm = Callable[[str], bool]
"""Puts a question to a person; False where nobody is there, or the answer is no."""


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """How a model scores.

    Attributes:
        recall: Of each session of a chain, root first.
        general: ΔG against the bare base.
    """

    recall: tuple[SessionRecall, ...]
    general: GeneralChange


@dataclass(frozen=True, kw_only=True)
class QuantisationResult:
    """What quantising a folded model did to it.

    Attributes:
        form: Bits and groups.
        before: The scores of the model before.
        after: Those of the quantised one.
        decision: The gate's on the two.
    """

    form: Quantisation
    before: ModelScores
    after: ModelScores
    decision: Decision

    @property
    def words(self) -> str:
        """What each session knows and what general answers cost, before and after."""
        parts = []
        for session, now, before, after in _measured(self.before, self.after):
            counts = f"{after.right} of {after.asked} right ({before.right} before)"
            if session.other_words and now.other_words:
                reworded = f"{now.other_words.right} of {now.other_words.asked}"
                counts += f" and {reworded} in other words ({session.other_words.right})"
            parts.append(f"{session.name} {counts}")
        if self.after.general.asked:
            had, has = self.before.general.nats_per_token, self.after.general.nats_per_token
            parts.append(f"general answers {has:+.2f} nats a token ({had:+.2f} before)")
        return ", ".join(parts) or "no questions to ask"

    def to_json(self) -> dict[str, Any]:
        """Return what a record keeps: counts, no outcomes."""
        return {
            "bits": self.form.bits,
            "group_size": self.form.group_size,
            "verdict": self.decision.verdict,
            "general_before": self.before.general.to_json(),
            "general": self.after.general.to_json(),
            "recall": [
                {
                    "number": session.number,
                    "name": session.name,
                    "asked": before.asked,
                    "right_before": before.right,
                    "right": after.right,
                    "other_words_before": session.other_words and session.other_words.right,
                    "other_words": now.other_words and now.other_words.right,
                }
                for session, now, before, after in _measured(self.before, self.after)
            ],
        }


def score_model(loaded: Base, chain: Sequence[Session], general: GeneralSet) -> ModelScores:
    """Ask a model the questions of a chain and the general ones.

    Args:
        loaded: The folded model. Not to be written any more: it is widened, and on a CPU its
            quantised layers become float32 ones of the same values, which compute faster there.
        chain: Whose questions.
        general: With the base's own answers.
    """
    widen(loaded.model)
    if runtime.compute_dtype() is not None:
        dequantise(loaded.model, {})
    loaded.model.eval()
    folded = FoldedModel(
        info=loaded.info, chain=tuple(chain), model=loaded.model, tokenizer=loaded.tokenizer
    )
    labels = [(session.number, session.name) for session in chain]
    rows = [questions(kept) for kept in current_rows(read_history(chain))]
    prepared = prepare_questions(labels, rows, folded.tokenizer)
    recall = [ask_questions(folded, each) for each in prepared]
    key = AnswerKey([row for several in rows for row in several])
    most = sample_size(len(prepared))
    return ModelScores(
        recall=tuple(grade_answers(folded, prepared, recall, key, most=most)),
        general=general.change(loaded.model),
    )


def gate_quantised(
    form: Quantisation, before: ModelScores, after: ModelScores, limits: Thresholds
) -> QuantisationResult:
    """Apply the gate's thresholds to what quantising cost.

    Args:
        form: Bits and groups.
        before: The scores of the model before.
        after: Those of the quantised one, the same sessions in the same order.
        limits: The gate's.
    """
    measured = [
        SessionOutcomes(number=s.number, name=s.name, before=had.verbatim, after=has.verbatim)
        for s, _, had, has in _measured(before, after)
    ]
    reworded = [
        SessionOutcomes(
            number=had.number,
            name=had.name,
            before=had.other_words.outcomes,
            after=has.other_words.outcomes,
        )
        for had, has in zip(before.recall, after.recall, strict=True)
        if had.other_words and has.other_words
    ]
    silent = [one for one in before.recall if not one.verbatim]
    skipped = {label(one.number, one.name): "no questions" for one in silent}
    decision = decide(
        Retained.of(measured, skipped),
        other_words=Retained.of(reworded, {}),
        general=after.general if after.general.asked else None,
        thresholds=limits,
    )
    return QuantisationResult(form=form, before=before, after=after, decision=decision)


def _measured(
    before: ModelScores, after: ModelScores
) -> list[tuple[SessionRecall, SessionRecall, Recall, Recall]]:
    """Return each session that has questions, before and after, and what it recites of them."""
    pairs = zip(before.recall, after.recall, strict=True)
    return [
        (had, has, had.verbatim, has.verbatim)
        for had, has in pairs
        if had.verbatim and has.verbatim
    ]


def limits_of(session: Session) -> Thresholds:
    """Return the thresholds of a session's gate; a session older than the gate has the defaults."""
    return Thresholds(**(session.record.get("gate") or {}).get("thresholds", {}))


def allow(found: QuantisationResult, *, anyway: bool, ask: Confirm) -> None:
    """Let a quantised model pass, or not.

    Raises:
        HeldBack: It lost something, and nobody said that it should be written all the same.
        Refused: It lost too much.
    """
    verdict = found.decision.verdict
    if anyway or verdict == PROMOTE:
        return
    lost = f"{found.form.bits}-bit weights forget: {found.words}"
    if verdict == ASK and ask(f"{lost}.\nWrite them all the same?"):
        return
    advice = "take more bits, or none, or write it all the same with --anyway"
    raise (HeldBack if verdict == ASK else Refused)(f"{lost}; nothing was written; {advice}")


RECORD = "mlx-tune.json"
"""What was fused, beside the weights."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A folded model that was written.

    Attributes:
        base: What it was folded from.
        chain: The sessions folded into it, root first; none for the bare base.
        fidelity: What the written weights kept of the chain's change.
        requantised: What quantising cost, where that was asked for.
    """

    base: BaseInfo
    chain: tuple[Session, ...]
    fidelity: Fidelity
    requantised: QuantisationResult | None

    @property
    def session(self) -> Session | None:
        """The session that was written, None for the bare base."""
        return self.chain[-1] if self.chain else None

    def to_json(self) -> dict[str, Any]:
        """Return what the folder's record keeps."""
        return {
            "base": self.base.source,
            "fingerprint": self.base.fingerprint,
            "session": self.session.folder_name if self.session else "base",
            "sessions": [session.id for session in self.chain],
            "fidelity": self.fidelity.to_json() if self.chain else None,
            "quantised": self.requantised.to_json() if self.requantised else None,
        }


def lmstudio_folder(name: str, models: Path) -> Path:
    """Return where LM Studio looks for a model.

    Args:
        name: ``publisher/model``.
        models: Its folder of models.

    Raises:
        UsageError: The name is none, or there is no such folder.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        raise UsageError(f"{quoted(name)}: expected publisher/model, as in me/notes")
    if not models.is_dir():
        raise UsageError(
            f"{models}: LM Studio has no models there; start it once, or name its folder of models "
            "with --models"
        )
    return models / name


def fuse(
    store_root: Path,
    *,
    out: Path,
    session: str | None,
    base: str | None,
    say: Say,
    quantise: Quantisation | None = None,
    anyway: bool = False,
    ask: Confirm = lambda _: False,
) -> Fused:
    """Fold a session's chain into its base and write the model.

    The weights are those that `chat` and `serve` use, in the base's stored type; a quantised base
    is written in 16 bits, since re-quantising would lose most of what was learned. Where it is
    asked for, that loss is measured, and the gate says whether it may be.

    Args:
        store_root: The store's folder.
        out: A folder that does not exist yet.
        session: A session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        say: Called, in a line, with what takes long.
        quantise: Quantise the folded model to this.
        anyway: Write it whatever it forgot.
        ask: Asked whether to write it where it forgot a little.

    Raises:
        UsageError: The folder exists, or the base cannot be quantised so.
        HeldBack: Quantised, it forgets some of what it knew.
        Refused: Too much of it.
    """
    check_new(out)
    needs = session is None  # a mistyped store must not pass for a trained one
    opened = open_workspace(store_root, session=session, base=base, say=say, needs_sessions=needs)
    info, chain = opened.info, opened.chain
    baseline = None
    if quantise is not None and chain:
        general = general_set(info, say=say)
        say("asking what it knows before…")
        baseline = general, score_model(fold_to_write(info, chain)[0], chain, general)
        free_memory()
    meter = FidelityMeter()
    if quantise is not None:
        meter = FidelityMeter(quantise.store, stored_as=f"{quantise.bits} bits")
    elif "quantization" in info.config:
        say("the base is quantised: writing 16-bit weights")
    say("folding and writing…")
    loaded, config = fold_to_write(info, chain, meter)
    if quantise is not None:
        quantise.apply(loaded.model, config)
    with new_folder(out) as scratch:
        save(scratch, loaded, config)
        requantised = None
        if quantise is not None and baseline is not None:
            say(f"asking the {quantise.bits}-bit model the same…")
            general, before = baseline
            after = score_model(loaded, chain, general)
            requantised = gate_quantised(quantise, before, after, limits_of(chain[-1]))
            allow(requantised, anyway=anyway, ask=ask)
        fused = Fused(base=info, chain=chain, fidelity=meter.fidelity(), requantised=requantised)
        (scratch / RECORD).write_text(json.dumps(fused.to_json(), indent=2) + "\n")
        card = model_card(info, chain, library="mlx", title=out.name)
        (scratch / CARD).write_text(card, encoding="utf-8")
    return fused
