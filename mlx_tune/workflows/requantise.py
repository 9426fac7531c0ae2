"""Whether few bits still know what the full weights knew: both are asked, and the gate decides."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_tune.continual.gate import ASK, PROMOTE, Decision, Measured, Thresholds, decide
from mlx_tune.continual.general import Rise, rise
from mlx_tune.continual.recall import score
from mlx_tune.errors import HeldBack, Refused
from mlx_tune.lineage.session import Session
from mlx_tune.models import runtime
from mlx_tune.models.load import Base
from mlx_tune.models.quantise import Quantisation
from mlx_tune.models.save import dequantise
from mlx_tune.workflows.evaluate import SessionRecall, score_sessions
from mlx_tune.workflows.folded import FoldedModel, read_history, widen
from mlx_tune.workflows.general import General

Ask = Callable[[str], bool]
"""Puts a question to a person; False where nobody is there, or the answer is no."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a model knows.

    Attributes:
        recall: Of each session of a chain, root first.
        general: ΔG against the bare base.
    """

    recall: tuple[SessionRecall, ...]
    general: Rise


@dataclass(frozen=True, kw_only=True)
class Requantised:
    """What quantising a folded model did to it.

    Attributes:
        form: Bits and groups.
        before: What the model knew before.
        after: What the quantised one knows.
        decision: The gate's, with the model before as what was known.
    """

    form: Quantisation
    before: Known
    after: Known
    decision: Decision

    @property
    def words(self) -> str:
        """What each session knows word for word and what general answers cost, before and after."""
        told = [
            f"{before.name} {after.verbatim.right} of {after.verbatim.asked} right"
            f" ({before.verbatim.right} before)"
            for before, after in zip(self.before.recall, self.after.recall, strict=True)
            if before.verbatim and after.verbatim
        ]
        if self.after.general.asked:
            had, has = (known.general.nats_per_token for known in (self.before, self.after))
            told.append(f"general answers {has:+.2f} nats a token ({had:+.2f} before)")
        return ", ".join(told) or "no questions to ask"

    def to_json(self) -> dict[str, Any]:
        """Return what a record keeps: counts, no outcomes."""
        return {
            "bits": self.form.bits,
            "group_size": self.form.group_size,
            "verdict": self.decision.verdict,
            "general_before": asdict(self.before.general),
            "general": asdict(self.after.general),
            "recall": [
                {
                    "number": before.number,
                    "name": before.name,
                    "asked": before.verbatim.asked,
                    "right_before": before.verbatim.right,
                    "right": after.verbatim.right,
                }
                for before, after in zip(self.before.recall, self.after.recall, strict=True)
                if before.verbatim and after.verbatim
            ],
        }


def known_by(loaded: Base, chain: Sequence[Session], general: General) -> Known:
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
    losses = score(loaded.model, general.probes).losses
    return Known(
        recall=tuple(score_sessions(folded, labels, read_history(chain))),
        general=rise(general.base_losses, losses, general.tokens),
    )


def judge(form: Quantisation, before: Known, after: Known, limits: Thresholds) -> Requantised:
    """Apply the gate's thresholds to what quantising cost.

    Args:
        form: Bits and groups.
        before: What the model knew before.
        after: What the quantised one knows, the same sessions in the same order.
        limits: The gate's.
    """
    recalls = zip(before.recall, after.recall, strict=True)
    pairs = [(b, b.verbatim, a.verbatim) for b, a in recalls]
    measured = [
        Measured(number=b.number, name=b.name, learned=had.verbatim, now=has.verbatim)
        for b, had, has in pairs
        if had and has
    ]
    skipped = {f"{b.number} {b.name}": "no questions" for b, had, _ in pairs if not had}
    general = after.general if after.general.asked else None
    decision = decide(measured, skipped=skipped, general=general, thresholds=limits)
    return Requantised(form=form, before=before, after=after, decision=decision)


def limits_of(session: Session) -> Thresholds:
    """Return the gate's limits that a session was judged by; they hold for its model ever after.

    A session that is older than the gate is held to the gate's own.
    """
    return Thresholds(**(session.record.get("gate") or {}).get("thresholds", {}))


def allow(found: Requantised, *, anyway: bool, ask: Ask) -> None:
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
