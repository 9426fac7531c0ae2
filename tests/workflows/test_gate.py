"""Train, score, decide, commit: what the gate's answer does to a session and to HEAD."""

import json
from dataclasses import replace

import pytest

from helpers.training_lab import RecordingObserver, TrainingLab, isolated_environment
from mlx_tune import sizing
from mlx_tune.continual.answers import AnswerScore
from mlx_tune.continual.gate import Thresholds
from mlx_tune.errors import InputError, UsageError
from mlx_tune.store import runs
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import gate_run
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import resume, train
from mlx_tune.workflows.store_commands import promote, rollback
from mlx_tune.workflows.workspace import read_rows

pytestmark = pytest.mark.gate

LEARNS = {"learning_rate": 0.01, "epochs": 70, "rank": 16, "batch_size": 8}
FORGETS = {**LEARNS, "method": "none"}
GENERAL = {"gate_general": 100.0, "gate_general_most": 100.0}
"""Two questions of gibberish tell nothing of general ability."""
BRIEF = {
    **LEARNS, **GENERAL, "epochs": 2,
    "gate_kept": 0.0, "gate_kept_least": 0.0, "gate_backward": 100.0, "gate_backward_most": 100.0,
}  # fmt: skip
"""A training that learns nothing and is promoted: for what is recorded and rehearsed."""


def facts(place: str, count: int = 6) -> dict[str, str]:
    return {f"Where is {place}{i}?": f"In {place}{i + 3}." for i in range(count)}


@pytest.fixture(scope="module")
def one_session(tmp_path_factory, tiny_base):
    """A store whose one session knows its six answers; tests copy it."""
    with isolated_environment(tmp_path_factory.getbasetemp(), lenient=False):
        made = TrainingLab(root=tmp_path_factory.mktemp("one"), base=tiny_base)
        outcome = made.train(made.data("cs", facts("A")), **LEARNS, **GENERAL)
        assert outcome.recall[0].verbatim.right == 6
    return made


@pytest.fixture(scope="module")
def two_sessions(one_session, tmp_path_factory):
    """The same with a second session, which knows four answers and kept the six; tests copy it."""
    with isolated_environment(tmp_path_factory.getbasetemp(), lenient=False):
        made = one_session.copy(tmp_path_factory.mktemp("two"))
        made.train(made.data("more", facts("B", 4)), **LEARNS, **GENERAL)
    return made


@pytest.fixture
def learned(one_session, tmp_path):
    return one_session.copy(tmp_path)


@pytest.fixture
def chained(two_sessions, tmp_path):
    return two_sessions.copy(tmp_path)


def verdicts(lab) -> list[str]:
    return [
        session.record["verdict"]
        for session in SessionStore.open(lab.store).snapshot().sessions.values()
    ]


def test_a_session_that_keeps_what_was_known_is_promoted(learned):
    outcome = learned.train(learned.data("more", facts("B")), **LEARNS, **GENERAL)
    assert outcome.is_head
    gate = outcome.session.record["gate"]
    assert (gate["verdict"], gate["reasons"], gate["beta"]) == ("promote", [], 1.0)
    assert [(s["name"], s["learned"], s["now"]) for s in gate["sessions"]] == [("cs", 6, 6)]
    assert gate["general"]["asked"] == 3


def test_one_that_forgets_is_committed_with_its_verdict_and_head_stays(learned):
    """Six lost of six: p = 0.03, so this is hardly chance."""
    observer = RecordingObserver()
    before = SessionStore.open(learned.store).snapshot().head()
    data = learned.data("more", facts("B"))
    outcome = learned.train(data, observer=observer, **FORGETS, **GENERAL)
    store = SessionStore.open(learned.store)
    assert (outcome.is_head, store.snapshot().head()) == (False, before)
    assert outcome.session.record["verdict"] == "refuse"
    assert verdicts(learned) == ["promote", "refuse"]
    assert outcome.session.record["gate"]["reasons"][0].startswith("1 cs keeps 0 % of what it knew")
    assert observer.decisions == []  # nobody is asked
    assert outcome.gate.questions == {1: list(facts("A"))}
    assert promote(learned.store, outcome.session.id).session == outcome.session
    assert SessionStore.open(learned.store).snapshot().head() == outcome.session


def test_a_session_of_conversations_is_measured_though_a_later_one_opens_alike(lab):
    def talks(greeting: str, place: str) -> list[dict]:
        said = [["Hi", greeting, f"Where is {place}{i}?", f"In {i}."] for i in range(3)]
        roles = ["user", "assistant"] * 2
        return [
            {"messages": [{"role": r, "content": c} for r, c in zip(roles, one, strict=True)]}
            for one in said
        ]

    (lab.root / "a.json").write_text(json.dumps(talks("Hello!", "A")))
    (lab.root / "b.json").write_text(json.dumps(talks("Good day.", "B")))
    lab.train(lab.root / "a.json", **BRIEF)
    outcome = lab.train(lab.root / "b.json", **BRIEF)
    assert outcome.session.record["data"]["rehearsed"] == 3
    assert [entry.verbatim.asked for entry in outcome.recall] == [3, 3]
    gate = outcome.session.record["gate"]
    assert "no question of its own is left to ask" not in gate["skipped"].values()


def test_old_rows_that_return_are_still_measured(learned):
    """The commonest way to work: the file that was taught, grown by two rows, badly trained."""
    grown = learned.data("cs", facts("A") | facts("B", 2))
    broken = {**FORGETS, "learning_rate": 1.0, "epochs": 2}
    outcome = learned.train(grown, **broken, **GENERAL)
    gate = outcome.session.record["gate"]
    assert [(s["name"], s["asked"], s["learned"]) for s in gate["sessions"]] == [("cs", 6, 6)]
    assert gate["verdict"] == "refuse"
    assert gate["losses"][0]["nats_per_token"] > 0.25
    well = learned.train(grown, **LEARNS, **GENERAL).session.record
    assert (well["verdict"], well["data"]["rehearsed"]) == ("promote", 0)
    assert [entry["verbatim"]["right"] for entry in well["recall"]] == [6, 8]


def test_a_session_that_never_recited_its_answers_is_measured_by_their_loss(lab):
    half = {**LEARNS, "epochs": 12}
    first = lab.train(lab.data("cs", facts("A", 20)), **half, **GENERAL)
    assert first.recall[0].verbatim.right < 20
    forgets = {**FORGETS, "learning_rate": 0.05, "gate_general": 0.5, "gate_general_most": 1.0}
    gate = lab.train(lab.data("more", facts("B", 20)), **forgets).session.record["gate"]
    (loss,) = gate["losses"]
    assert (loss["session"], loss["asked"]) == ("1 cs", 20)
    assert loss["nats_per_token"] > 1
    assert gate["verdict"] == "refuse"
    assert any("1 cs, taught answers: the loss rose by" in reason for reason in gate["reasons"])


ASKS = Thresholds(ask_kept=0, ask_backward=1, general=100, ask_general=100)
"""A loss of everything is still within what a person is asked about."""


@pytest.fixture
def asks(monkeypatch):
    monkeypatch.setattr(Thresholds, "of", staticmethod(lambda settings: ASKS))


@pytest.fixture(scope="module")
def asking(one_session, tmp_path_factory):
    """A run that forgets, killed when the gate asked about it; tests copy it and resume."""

    class Killed(RecordingObserver):
        def asked(self, decision, questions):
            raise KeyboardInterrupt

    with isolated_environment(tmp_path_factory.getbasetemp()) as patch:
        patch.setattr(Thresholds, "of", staticmethod(lambda settings: ASKS))
        made = one_session.copy(tmp_path_factory.mktemp("asking"))
        with pytest.raises(KeyboardInterrupt):
            made.train(made.data("more", facts("B")), observer=Killed(), **FORGETS)
    assert runs.list_runs(made.store)[-1].record["phase"] == "gate"
    assert verdicts(made) == ["promote"]
    return made


@pytest.mark.parametrize(("answer", "verdict"), [("hold", "ask"), ("promote", "promote")])
def test_where_the_gate_asks_a_person_decides(learned, asking, asks, tmp_path, answer, verdict):
    """In a training, or in one that was killed at the gate, which is asked about again."""
    observer = RecordingObserver(answer=answer)
    if answer == "hold":
        outcome = learned.train(learned.data("more", facts("B")), observer=observer, **FORGETS)
    else:
        outcome = resume(asking.copy(tmp_path / "own").store, None, observer)
    ((decision, questions),) = observer.decisions
    assert decision.verdict == "ask"
    assert [questions[1][i] for i in decision.verbatim.sessions[0].lost] == list(facts("A"))
    assert outcome.session.record["verdict"] == verdict
    assert outcome.session.record["gate"]["verdict"] == "ask"  # what the gate itself said
    assert outcome.is_head == (answer == "promote")
    at = learned if answer == "hold" else TrainingLab(root=tmp_path / "own", base=asking.base)
    assert verdicts(at) == ["promote", verdict]


def test_a_smaller_part_of_the_change_is_looked_for_when_asked(asking, asks, tmp_path, monkeypatch):
    tried = []
    real = gate_run.gate.decide

    def decide(verbatim, **given):
        tried.append(len(tried))
        return real(verbatim if len(tried) < 4 else gate_run.retained.NOTHING, **given)

    monkeypatch.setattr(gate_run.gate, "decide", decide)
    store = asking.copy(tmp_path).store
    outcome = resume(store, None, RecordingObserver(answer="scale"))
    assert len(tried) == 5  # of the whole and of 0.8 with generated answers as well; 0.9 fails
    assert outcome.session.record["gate"]["beta"] == 0.8
    config = json.loads(outcome.session.read("adapter_config.json"))
    assert config["lora_parameters"]["scale"] == pytest.approx(2 * 0.8)
    assert outcome.is_head


def test_the_soup_looks_by_itself(learned, asks):
    observer = RecordingObserver(answer="promote")
    flags = {**LEARNS, "method": "soup", "replay": "none"}
    outcome = learned.train(learned.data("more", facts("B")), observer=observer, **flags)
    assert observer.decisions == []
    assert 0.5 <= outcome.session.record["gate"]["beta"] <= 1


@pytest.fixture
def graded(monkeypatch):
    """Answers in other words come out as a test says, by session; None where none are graded."""
    verdicts = {}

    def grade_answers(folded, asked, recall, key, *, most):
        return [
            replace(known, other_words=verdicts[each.name] and AnswerScore(
                grades=(verdicts[each.name],) * len(each.paraphrases)
            ))
            for each, known in zip(asked, recall, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr(gate_run, "grade_answers", grade_answers)
    return verdicts


def reworded(lab, name, place, count=6):
    return lab.data(name, facts(place, count), paraphrases=["And where, pray?", "Which place?"])


def test_what_is_recited_but_no_longer_answered_in_other_words_is_refused(lab, graded):
    graded["cs"] = "right"
    first = lab.train(reworded(lab, "cs", "A"), **LEARNS, **GENERAL)
    assert first.recall[0].other_words.right == 12
    graded |= {"cs": "unknown", "more": "right"}
    outcome = lab.train(reworded(lab, "more", "B"), **LEARNS, **GENERAL)
    gate = outcome.session.record["gate"]
    assert [(s["learned"], s["now"]) for s in gate["sessions"]] == [(6, 6)]
    assert [(s["learned"], s["now"]) for s in gate["other_words"]["sessions"]] == [(12, 0)]
    assert (gate["verdict"], outcome.is_head) == ("refuse", False)
    assert [reason.split(" (")[0] for reason in gate["reasons"]] == [
        "1 cs keeps 0 % of what it knew in other words",
        "earlier sessions lost 100 points on average in other words",
    ]
    (lost,) = outcome.gate.decision.other_words.sessions
    assert lost.lost_wordings == ("And where, pray?", "Which place?") * 6


def test_where_no_baseline_was_recorded_the_gate_says_so_and_measures_the_rest(lab, graded):
    """As in a store of an earlier version."""
    graded["cs"] = None
    lab.train(reworded(lab, "cs", "A"), **BRIEF)
    graded |= {"cs": "unknown", "more": "right"}
    outcome = lab.train(reworded(lab, "more", "B"), **BRIEF)
    gate = outcome.session.record["gate"]
    assert gate["other_words"] == {
        "sessions": [],
        "skipped": {"1 cs": "the record is older than this score"},
        "backward": None,
    }
    assert outcome.is_head


def test_a_fact_that_changed_is_not_counted_as_forgotten(learned):
    moved = learned.data("moved", dict.fromkeys(list(facts("A"))[:3], "It moved."))
    outcome = learned.train(moved, **BRIEF, method="none")
    (cs,) = outcome.session.record["gate"]["sessions"]
    assert cs["asked"] == 3


def test_a_session_without_rows_is_skipped_and_named(lab):
    data = lab.data("cs", facts("A"))
    first = lab.train(data, **BRIEF, keep_data=False)
    assert "data.jsonl" not in first.session.hashes
    assert read_rows(first.session) == []
    (run,) = runs.list_runs(lab.store)
    assert not (run.path / "new.jsonl").exists()
    assert len(first.session.record["data"]["traces"]) == 6
    text = b"".join(p.read_bytes() for p in lab.store.rglob("*") if p.is_file())
    assert b"Where is A" not in text
    second = lab.train(lab.data("more", facts("B")), **BRIEF, method="none")
    gate = second.session.record["gate"]
    assert gate["skipped"] == {"1 cs": "its rows were not kept, so nothing can be asked"}
    assert second.is_head


def test_a_correction_that_was_not_kept_is_not_undone_by_rehearsal(learned):
    moved = learned.data("moved", {"Where is A0?": "It moved."})
    learned.train(moved, **BRIEF, keep_data=False)
    more = learned.data("more", facts("B"))
    outcome = learned.train(more, **BRIEF, method="none", replay="all")
    assert outcome.session.record["data"]["rehearsed"] == 5
    (cs,) = outcome.session.record["gate"]["sessions"]
    assert cs["asked"] == 5


def consolidating(lab, *, without=(), **settings) -> TrainingRequest:
    flags = {"base": str(lab.base), "grad_accumulation": 1, "general_replay": 0.0, **settings}
    return TrainingRequest(
        data=(), consolidates=True, store=lab.store, flags=flags, without=without
    )


def test_consolidating_teaches_the_base_everything_anew(chained):
    store = SessionStore.open(chained.store)
    chain = store.snapshot().chain(store.snapshot().head())
    observer = RecordingObserver()
    outcome = train(consolidating(chained, **LEARNS, **GENERAL), observer)
    session = outcome.session
    assert (session.number, session.name, session.parent) == (1, "consolidated", None)
    assert session.record["replaces"] == [one.id for one in chain]
    assert [row.question for row in read_rows(session)] == [*facts("A"), *facts("B", 4)]
    assert [s["name"] for s in session.record["gate"]["sessions"]] == ["cs", "more"]
    assert [s["now"] for s in session.record["gate"]["sessions"]] == [6, 4]
    assert SessionStore.open(chained.store).snapshot().head() == session
    assert len(SessionStore.open(chained.store).snapshot().sessions) == 3  # nothing is deleted
    assert observer.chains == [[]]


def test_a_consolidation_allows_rows_as_long_as_its_sessions_did(lab, monkeypatch):
    monkeypatch.setattr(sizing, "_MAX_LENGTH", (60, 60, 60))
    lab.train(lab.data("cs", facts("A") | {"Long?": "very " * 9}), **BRIEF, max_length=80)
    observer = RecordingObserver()
    outcome = train(consolidating(lab, **BRIEF), observer)
    assert "Long?" in [row.question for row in read_rows(outcome.session)]
    assert observer.plans[0].settings.max_length == 80


def test_a_consolidation_leaves_out_no_row_that_was_taught_unless_that_is_allowed(lab):
    """However few they are: the base would be taught all but those."""
    lab.train(lab.data("cs", facts("A", 60) | {"Long?": "very " * 9}), **BRIEF)
    shorter = consolidating(lab, **BRIEF, max_length=60)
    with pytest.raises(InputError) as error:
        train(shorter, RecordingObserver())
    assert "1 of 61 rows (3% of the tokens) are longer than 60 tokens" in str(error.value)
    allowed = replace(shorter, flags={**shorter.flags, "allow_long": True})
    assert len(read_rows(train(allowed, RecordingObserver()).session)) == 60


def test_a_session_can_be_left_out_of_a_consolidation(learned):
    """The way to be rid of one in the middle; what it had replaced is in force again."""
    moved = {**facts("B", 3), "Where is A0?": "Elsewhere."}
    learned.train(learned.data("more", moved), **BRIEF)
    without_more = consolidating(learned, without=["more"], **BRIEF)
    outcome = train(without_more, RecordingObserver())
    assert {row.question: row.answer for row in read_rows(outcome.session)} == facts("A")
    gate = outcome.session.record["gate"]
    assert gate["skipped"] == {"2 more": "it was left out on purpose"}
    assert len(outcome.session.record["without"]) == 1
    with pytest.raises(UsageError, match="--without cs: not of the chain"):
        train(consolidating(learned, without=["cs"], **BRIEF), RecordingObserver())


def test_the_others_are_compared_by_their_losses_where_the_first_is_left_out(chained):
    outcome = train(consolidating(chained, without=["cs"], **BRIEF), RecordingObserver())
    gate = outcome.session.record["gate"]
    assert [each["session"] for each in gate["losses"]] == ["2 more"]
    assert gate["skipped"] == {"1 cs": "it was left out on purpose"}


def test_a_consolidation_can_be_resumed(chained):
    request = consolidating(chained, **{**BRIEF, "epochs": 4})
    with pytest.raises(KeyboardInterrupt):
        train(request, RecordingObserver(stop_after=5))
    outcome = resume(chained.store, None, RecordingObserver())
    assert outcome.is_head
    assert len(outcome.session.record["replaces"]) == 2


def test_general_questions_come_along_and_are_taught_by_the_base(lab):
    """Half of an epoch: their loss stays where the base had it, as without them it does not."""
    data = lab.data("cs", facts("A", 4))
    rises = []
    for share in (0.0, 0.5):
        outcome = lab.train(data, **{**LEARNS, **GENERAL, "general_replay": share})
        rises.append(outcome.session.record["gate"]["general"]["nats_per_token"])
        rollback(lab.store, None)
    assert rises[1] < 0.5 * rises[0]


def test_the_seed_method_stands_on_the_last_adapter_alone(learned):
    second = learned.train(learned.data("b", facts("B", 3)), **BRIEF, method="seed")
    assert "folds" not in second.session.record  # on all there was
    observer = RecordingObserver()
    c = learned.data("c", facts("C", 3))
    third = learned.train(c, observer=observer, **BRIEF, method="seed")
    assert third.session.record["folds"] == [second.session.id]
    assert observer.chains == [["b"]]
