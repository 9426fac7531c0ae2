"""Scores what was just trained, on the model every command will use, and asks the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_tune.continual import gate
from mlx_tune.continual.fidelity import Fidelity
from mlx_tune.continual.gate import Decision, SessionOutcomes, Thresholds
from mlx_tune.continual.methods import BETAS, scaled, search_beta
from mlx_tune.continual.recall import GeneralChange, general_change, score
from mlx_tune.continual.rehearse import current_rows
from mlx_tune.continual.retention import diagonal_outcomes, questions
from mlx_tune.data.rows import Row
from mlx_tune.store.runs import GATE, Run
from mlx_tune.store.session import ASK, PROMOTE, Session
from mlx_tune.training.adapter import Adapter
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.plan import TrainingPlan
from mlx_tune.workflows.scoring import Questions, SessionRecall, ask_questions, prepare_questions
from mlx_tune.workflows.workspace import (
    DATA_FILE,
    FoldedModel,
    free_memory,
    load_folded,
    read_history,
)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """An adapter, and what was decided about it.

    Attributes:
        adapter: As it will be committed.
        beta: What its change was multiplied by.
        recall: Of every session of its chain, itself last.
        decision: The gate's.
        verdict: The gate's, or a person's where it asked.
        general: ΔG.
        fidelity: What the stored weights keep of the chain's change.
        questions: By an earlier session's number, what the decision's indices are of.
    """

    adapter: Adapter
    beta: float
    questions: Mapping[int, Sequence[str]]
    recall: tuple[SessionRecall, ...]
    decision: Decision
    verdict: str
    general: GeneralChange
    fidelity: Fidelity | None

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps of the decision."""
        return {**self.decision.to_json(), "beta": self.beta}


def run_gate(
    plan: TrainingPlan, run: Run, adapter: Adapter, observer: TrainingObserver
) -> GateResult:
    """Score, decide, and ask a person where the gate would rather not decide alone."""
    bench = _Evaluator.of(plan, plan.general or general_set(plan.info, say=observer.say), adapter)
    observer.say("asking what was learned, and what was there before…")
    if plan.method.searches_scale:
        return bench.best(BETAS)
    found = bench.judged(1.0)
    if found.verdict != ASK:
        return found
    run.set(phase=GATE)
    answer = observer.asked(found.decision, bench.questions)
    if answer == "scale":
        smaller = bench.best(BETAS[1:])
        return smaller if smaller.verdict == PROMOTE else found
    return replace(found, verdict=PROMOTE) if answer == "promote" else found


@dataclass(frozen=True, kw_only=True)
class _Evaluator:
    """What every size of a change is measured by.

    Attributes:
        plan: Of the training.
        adapter: As trained.
        general: The general questions.
        rows: The questions that are still each earlier session's, in order.
        exams: The same in tokens, and the new ones last: whatever the size, they are asked alike.
        learned: How they came out when they were learned; None where no record tells.
    """

    plan: TrainingPlan
    adapter: Adapter
    general: GeneralSet
    rows: tuple[tuple[Row, ...], ...]
    exams: tuple[Questions, ...]
    learned: tuple[tuple[bool, ...] | None, ...]

    @staticmethod
    def of(plan: TrainingPlan, general: GeneralSet, adapter: Adapter) -> "_Evaluator":
        # A session that takes the place of others teaches their questions; they stay theirs here.
        history = [*read_history(plan.before), *([] if plan.replaced else [plan.new])]
        kept = current_rows(history)
        rows = [questions(kept[i]) for i in range(len(plan.before))]
        labels = [(session.number, session.name) for session in plan.before]
        exams = prepare_questions(
            [*labels, (len(plan.chain) + 1, plan.name)],
            [*rows, questions(plan.new)],
            plan.tokenizer,
        )
        records = [session.record for session in plan.before]
        return _Evaluator(
            plan=plan,
            adapter=adapter,
            general=general,
            rows=tuple(map(tuple, rows)),
            exams=tuple(exams),
            learned=tuple(diagonal_outcomes(records, history)),
        )

    @property
    def questions(self) -> dict[int, list[str]]:
        """What the decision's indices are of."""
        return {
            session.number: [str(row.question) for row in rows]
            for session, rows in zip(self.plan.before, self.rows, strict=True)
        }

    def best(self, betas: Sequence[float]) -> GateResult:
        """Return the largest part of the change that passes, else the best one."""
        judged: dict[float, GateResult] = {}

        def decide(beta: float) -> Decision:
            judged[beta] = self.judged(beta)
            return judged[beta].decision

        beta, _ = search_beta(decide, betas=betas)
        return judged[beta]

    def judged(self, beta: float) -> GateResult:
        """Score a part of the change, and decide."""
        adapter = scaled(self.adapter, beta) if beta != 1 else self.adapter
        folded = load_folded(self.plan.info, self.plan.stands_on, [adapter], measured=True)
        recall, before, general = self._scored(folded)
        fidelity = folded.fidelity
        del folded
        free_memory()
        decision = self._decision(before, general)
        return GateResult(
            adapter=adapter,
            beta=beta,
            questions=self.questions,
            recall=tuple(recall),
            decision=decision,
            verdict=decision.verdict,
            general=general,
            fidelity=fidelity,
        )

    def _scored(
        self, folded: FoldedModel
    ) -> tuple[list[SessionRecall], list[SessionRecall], GeneralChange]:
        """Return the recall of the chain and itself, that of the sessions before, and ΔG."""
        *before, own = (ask_questions(folded, exam) for exam in self.exams)
        losses = score(folded.model, self.general.probes).losses
        general = general_change(self.general.base_losses, losses, self.general.tokens)
        return ([own] if self.plan.replaced else [*before, own]), before, general

    def _decision(self, before: Sequence[SessionRecall], general: GeneralChange) -> Decision:
        measured, skipped = [], {}
        for session, entry, learned in zip(self.plan.before, before, self.learned, strict=True):
            label = f"{session.number} {session.name}"
            if session in self.plan.without:
                skipped[label] = "it was left out on purpose"
                continue
            if entry.verbatim is None or learned is None:
                skipped[label] = _why_not(session)
                continue
            measured.append(
                SessionOutcomes(
                    number=session.number,
                    name=session.name,
                    before=learned,
                    after=entry.verbatim.verbatim,
                )
            )
        return gate.decide(
            measured,
            skipped=skipped,
            general=general if general.asked else None,
            thresholds=Thresholds.of(self.plan.settings),
        )


def _why_not(session: Session) -> str:
    if DATA_FILE not in session.hashes:
        return "its rows were not kept, so nothing can be asked"
    return "it has no questions of its own"
