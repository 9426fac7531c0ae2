"""Scores a new adapter, on the model every command will use, and applies the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_tune.continual import gate, retained
from mlx_tune.continual.answers import AnswerKey
from mlx_tune.continual.fidelity import Fidelity
from mlx_tune.continual.gate import Decision
from mlx_tune.continual.methods import BETAS, scaled, search_beta
from mlx_tune.continual.recall import GeneralChange, general_change
from mlx_tune.continual.retained import Retained, SessionOutcomes
from mlx_tune.continual.retention import (
    QuestionHistory,
    best_outcomes,
    lowest_losses,
    questions,
)
from mlx_tune.data.rows import Row
from mlx_tune.store.runs import GATE, Run
from mlx_tune.store.session import ASK, PROMOTE, Session
from mlx_tune.training.adapter import Adapter
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.scoring import (
    Questions,
    SessionRecall,
    ask_questions,
    grade_answers,
    prepare_questions,
    sample,
    sample_size,
)
from mlx_tune.workflows.training_plan import Candidate
from mlx_tune.workflows.workspace import DATA_FILE, free_memory, load_folded, read_history


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """An adapter, and what was decided about it.

    Attributes:
        adapter: As it will be committed.
        beta: What its change was multiplied by.
        questions: By an earlier session's number, what the decision's indices are of.
        recall: Of every session of its chain, itself last.
        decision: The gate's.
        verdict: The gate's, or a person's where the gate asked.
        general: ΔG.
        fidelity: What the stored weights keep of the chain's change.
        is_whole: Whether answers were generated too.
    """

    adapter: Adapter
    beta: float
    questions: Mapping[int, Sequence[str]]
    recall: tuple[SessionRecall, ...]
    decision: Decision
    verdict: str
    general: GeneralChange
    fidelity: Fidelity | None
    is_whole: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return what a session's record keeps of the decision."""
        return {**self.decision.to_json(), "beta": self.beta}


def run_gate(
    plan: Candidate, run: Run | None, adapter: Adapter, observer: TrainingObserver
) -> GateResult:
    """Score, decide, and ask a person where the gate would rather not decide alone.

    Args:
        plan: What is judged.
        run: The training that made it; None for an adapter that was trained elsewhere.
        adapter: Its change.
        observer: Who follows, and answers.
    """
    general = plan.general or general_set(plan.info, say=observer.say)
    evaluator = _Evaluator.of(plan, general, adapter)
    observer.say("asking what was learned, and what was there before…")
    if plan.method.searches_scale:
        return evaluator.best(BETAS)
    result = evaluator.evaluate(1.0)
    if result.verdict != ASK:
        return result
    if run is not None:
        run.set(phase=GATE)
    answer = observer.asked(result.decision, result.questions)
    if answer == "scale":
        smaller = evaluator.best(BETAS[1:])
        return smaller if smaller.verdict == PROMOTE else result
    return replace(result, verdict=PROMOTE) if answer == "promote" else result


_Outcomes = tuple[bool | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Evaluator:
    """What every size of a change is measured by.

    Attributes:
        rows: The questions that are still each earlier session's, in order.
        questions: The same in tokens, and the new ones last.
        key: All their answers.
        verbatim: How the earlier ones came out, word for word, at their best; None where no record
            tells.
        other_words: How they came out in other words.
        losses: The losses of their taught answers when they were lowest; likewise.
    """

    plan: Candidate
    adapter: Adapter
    general: GeneralSet
    rows: tuple[list[Row], ...]
    questions: tuple[Questions, ...]
    key: AnswerKey
    verbatim: tuple[_Outcomes, ...]
    other_words: tuple[_Outcomes, ...]
    losses: tuple[tuple[float | None, ...] | None, ...]

    @staticmethod
    def of(plan: Candidate, general: GeneralSet, adapter: Adapter) -> "_Evaluator":
        # A session that takes the place of others teaches their questions; they stay theirs here.
        newest = [] if plan.replaced else [plan.new]
        history = QuestionHistory([*read_history(plan.before), *newest])
        rows = history.own[: len(plan.before)]
        every = [*rows, questions(plan.new)]
        labels = [(session.number, session.name) for session in plan.before]
        labels.append((len(plan.chain) + 1, plan.name))
        prepared = prepare_questions(labels, every, plan.tokenizer)
        records = [session.record for session in plan.before]
        most = sample_size(len(prepared))
        reworded = [[text for _, text in each.other_wordings] for each in prepared]
        asked = [sample(texts, most) for texts in reworded]
        return _Evaluator(
            plan=plan,
            adapter=adapter,
            general=general,
            rows=tuple(rows),
            questions=tuple(prepared),
            key=AnswerKey([row for several in every for row in several]),
            verbatim=tuple(best_outcomes(records, history, "verbatim")),
            other_words=tuple(best_outcomes(records, history, "other_words", asked=asked)),
            losses=tuple(lowest_losses(records, history)),
        )

    def best(self, betas: Sequence[float]) -> GateResult:
        """Return the largest part of the change that passes, else the best one."""
        results: dict[float, GateResult] = {}

        def decide(beta: float) -> Decision:
            results[beta] = self.evaluate(beta, may_skip=True)
            return results[beta].decision

        beta, _ = search_beta(decide, betas=betas)
        return results[beta] if results[beta].is_whole else self.evaluate(beta)

    def evaluate(self, beta: float, *, may_skip: bool = False) -> GateResult:
        """Score a part of the change, and decide.

        Args:
            beta: What the change is multiplied by.
            may_skip: Generate no answers where the rest keeps the session from being promoted.
        """
        plan = self.plan
        adapter = scaled(self.adapter, beta) if beta != 1 else self.adapter
        folded = load_folded(plan.info, plan.stands_on, [adapter], measured=True)
        recall = [ask_questions(folded, each) for each in self.questions]
        general, fidelity = self.general.change(folded.model), folded.fidelity
        decision = self._decide(recall, general)
        is_whole = not may_skip or decision.verdict == PROMOTE
        if is_whole:
            most = sample_size(len(self.questions))
            recall = grade_answers(folded, self.questions, recall, self.key, most=most)
            decision = self._decide(recall, general)
        del folded
        free_memory()
        *earlier, own = recall
        return GateResult(
            adapter=adapter,
            beta=beta,
            questions={
                session.number: [str(row.question) for row in rows]
                for session, rows in zip(plan.before, self.rows, strict=True)
            },
            recall=(own,) if plan.replaced else (*earlier, own),
            decision=decision,
            verdict=decision.verdict,
            general=general,
            fidelity=fidelity,
            is_whole=is_whole,
        )

    def _decide(self, recall: Sequence[SessionRecall], general: GeneralChange) -> Decision:
        return gate.decide(
            self._verbatim(recall),
            other_words=self._other_words(recall),
            losses=self._losses(recall),
            general=general if general.asked else None,
            thresholds=self.plan.limits,
        )

    def _verbatim(self, recall: Sequence[SessionRecall]) -> Retained:
        """Compare what earlier sessions recite with what they did at their best."""
        measured, skipped = [], {}
        for session, now, before in zip(self.plan.before, recall, self.verbatim, strict=False):
            label = retained.label(session.number, session.name)
            if session in self.plan.without:
                skipped[label] = "it was left out on purpose"
            elif now.verbatim is not None and before is not None:
                measured.append(_outcomes(session, before, now.verbatim.verbatim))
            elif DATA_FILE not in session.hashes:
                skipped[label] = "its rows were not kept, so nothing can be asked"
            else:
                skipped[label] = "it has no questions of its own"
        return Retained.of(measured, skipped)

    def _losses(self, recall: Sequence[SessionRecall]) -> dict[str, GeneralChange]:
        """Compare the losses of their taught answers with the lowest on record."""
        found = {}
        earlier = zip(self.plan.before, recall, self.questions, self.losses, strict=False)
        for session, now, asked, before in earlier:
            if now.verbatim is None or before is None or session in self.plan.without:
                continue
            tokens = [sum(example.supervised) for example in asked.verbatim]
            three = zip(before, now.verbatim.losses, tokens, strict=True)
            comparable = [(was, is_now, n) for was, is_now, n in three if was is not None]
            if comparable:
                label = retained.label(session.number, session.name)
                found[label] = general_change(*zip(*comparable, strict=True))
        return found

    def _other_words(self, recall: Sequence[SessionRecall]) -> Retained:
        """Compare what they answer in other words; one without other wordings is not named."""
        measured, skipped = [], {}
        earlier = zip(self.plan.before, recall, self.questions, self.other_words, strict=False)
        for session, now, asked, before in earlier:
            if now.other_words is None or session in self.plan.without:
                continue
            if before is not None:
                found = _outcomes(session, before, now.other_words.outcomes)
                wordings = tuple(wording for _, wording in asked.other_wordings)
                measured.append(replace(found, wordings=wordings))
            else:
                label = retained.label(session.number, session.name)
                skipped[label] = "the record is older than this score"
        return Retained.of(measured, skipped)


def _outcomes(
    session: Session, before: tuple[bool | None, ...], after: tuple[bool | None, ...]
) -> SessionOutcomes:
    return SessionOutcomes(number=session.number, name=session.name, before=before, after=after)
