import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual import gate
from mlx_tune.continual.gate import SEVERITY, Thresholds, decide
from mlx_tune.continual.recall import GeneralChange, PairedChanges
from mlx_tune.continual.retained import Retained, SessionOutcomes
from mlx_tune.errors import UsageError
from mlx_tune.store.session import ASK, PROMOTE, REFUSE

LIMITS = Thresholds()
LOOSE_MEAN = Thresholds(backward=1.0, ask_backward=1.0)  # to look at one session's limits alone


def session(
    asked: int, learned: int, lost: int = 0, gained: int = 0, number: int = 1
) -> SessionOutcomes:
    """The first ``learned`` questions were known; of those the first ``lost`` are not any more."""
    then = [i < learned for i in range(asked)]
    now = [(lost <= i < learned) or (learned <= i < learned + gained) for i in range(asked)]
    return SessionOutcomes(number=number, name=f"s{number}", before=tuple(then), after=tuple(now))


def verdict_of(*measured, general=None, limits=LIMITS):
    return decide(Retained.of(measured, {}), general=general, thresholds=limits).verdict


def rose(nats: float, worse: int = 90, better: int = 30) -> GeneralChange:
    return GeneralChange(
        nats_per_token=nats, changes=PairedChanges(worse=worse, better=better), asked=120
    )


def test_a_first_session_is_promoted_and_nothing_is_said():
    decision = decide(Retained.of([], {}), general=None, thresholds=LIMITS)
    assert (decision.verdict, decision.reasons, decision.worst) == (PROMOTE, (), None)
    assert decision.verbatim.backward is None


@pytest.mark.parametrize(
    ("asked", "learned", "lost", "gained", "verdict"),
    [
        (100, 100, 5, 0, PROMOTE),  # 95 % exactly
        (1000, 1000, 51, 0, ASK),  # 94.9 %
        (140, 140, 7, 0, PROMOTE),  # 133 of 140, exactly again
        (200, 20, 1, 0, PROMOTE),  # 19 of the 20 it knew; the 180 it never knew do not matter
        (100, 100, 15, 0, ASK),  # 85 % exactly, however sure the loss
        (100, 100, 16, 0, REFUSE),
        (100, 80, 20, 16, ASK),  # 60 of the 80 it knew; p of 20 against 16 is 0.6
        (100, 50, 50, 50, ASK),  # what it gained makes up for nothing
        (100, 80, 20, 5, REFUSE),  # 65 of 80; p of 20 against 5 is 0.004
        (100, 60, 20, 10, ASK),  # 50 of 60 is 83.3 %; p of 20 against 10 is 0.099
        (8, 8, 1, 0, ASK),  # 87.5 %
        (6, 6, 1, 0, ASK),  # 83.3 %, beyond, but p = 1
        (30, 30, 5, 0, ASK),  # 83.3 %; p of five is 0.0625
        (39, 39, 6, 0, REFUSE),  # 84.6 %; p of six is 0.03125
    ],
)
def test_what_one_session_keeps_decides(asked, learned, lost, gained, verdict):
    assert verdict_of(session(asked, learned, lost, gained), limits=LOOSE_MEAN) == verdict


def test_two_points_on_average_are_let_through_and_one_question_more_is_not():
    """In floats 0.98 − 1 is below −0.02, so this is reckoned in whole numbers."""
    assert verdict_of(session(100, 100, 2)) == PROMOTE
    assert verdict_of(session(50, 50, 1), session(100, 100, 2, number=2)) == PROMOTE
    decision = decide(
        Retained.of([session(50, 50, 1), session(100, 100, 3, number=2)], {}),
        general=None,
        thresholds=LIMITS,
    )
    assert decision.verdict == ASK
    assert decision.verbatim.backward.mean == Fraction(-5, 200)
    assert decision.verbatim.backward.points == -2.5
    assert decision.reasons == (
        "earlier sessions lost 2.5 points on average word for word (2 sessions, 150 questions); "
        "at most 2 points is wanted",
    )


def test_every_session_counts_the_same_in_the_mean():
    """−10 points over 10 questions and +1 over 1,000 are −4.5 points, not +0.8."""
    measured = [session(10, 10, 1), session(1000, 900, 0, 10, number=2)]
    decision = decide(Retained.of(measured, {}), general=None, thresholds=LIMITS)
    assert decision.verbatim.backward.points == -4.5


def test_beyond_five_points_the_pooled_test_decides():
    kept = Thresholds(kept=0.0, ask_kept=0.0)  # the mean alone
    assert verdict_of(session(200, 200, 10), limits=kept) == ASK  # at the limit, p is not asked
    assert verdict_of(session(100, 100, 6), limits=kept) == REFUSE  # p of 6 is 0.03125
    assert verdict_of(session(50, 50, 3), limits=kept) == ASK  # −6 points; p of 3 is 0.25
    both = (session(50, 50, 3), session(50, 50, 3, number=2))
    assert verdict_of(*both, limits=kept) == REFUSE  # pooled it is 6 again


def test_a_gain_elsewhere_is_never_taken_for_a_sure_loss():
    """The mean is −12 points, but over all questions more were gained than lost, and surely so."""
    measured = [session(4, 4, 1), session(1000, 500, 0, 10, number=2)]
    decision = decide(Retained.of(measured, {}), general=None, thresholds=LIMITS)
    assert decision.verbatim.backward.changes.p < 0.05
    assert decision.verdict == ASK
    assert decision.reasons[-1].endswith(
        "; the limit is 5 points, but 10 questions did better and 1 worse"
    )


@pytest.mark.parametrize(
    ("general", "verdict"),
    [
        (None, PROMOTE),
        (rose(-0.5, 0, 120), PROMOTE),
        (rose(0.1), PROMOTE),
        (rose(0.1000001), ASK),
        (rose(0.25), ASK),
        (rose(0.2500001), REFUSE),
        (rose(0.3, 64, 56), ASK),  # p is 0.52
        (rose(0.3, 30, 90), ASK),  # a few that rose much: the sign test sees a gain
        (rose(float("nan"), 0, 0), REFUSE),
    ],
)
def test_general_ability_decides(general, verdict):
    assert verdict_of(session(30, 30), general=general) == verdict
    assert verdict_of(general=general) == verdict


def test_the_worst_value_gives_the_verdict_and_each_says_why():
    decision = decide(
        Retained.of(
            [session(60, 60), session(60, 56, 20, 4, number=2), session(20, 20, 3, number=3)],
            {"4 dining": "its rows were not kept"},
        ),
        general=rose(0.3, 90, 30),
        thresholds=LIMITS,
    )
    assert decision.verdict == REFUSE
    assert decision.reasons == (
        "2 s2 keeps 64.2 % of what it knew word for word (20 lost of the 56 known at best, 4 "
        "gained); the limit is 85 %, and that is hardly chance (p = 0.00154)",
        "3 s3 keeps 85 % of what it knew word for word (3 lost of the 20 known at best); at least "
        "95 % is wanted",
        "earlier sessions lost 16.2 points on average word for word (3 sessions, 140 questions); "
        "the limit is 5 points, and that is hardly chance (p < 0.001)",
        "general ability: the loss rose by 0.3 nats a token (worse on 90 of 120 questions, better "
        "on 30); the limit is 0.25, and that is hardly chance (p < 0.001)",
    )
    assert decision.worst.name == "s2"
    assert decision.verbatim.sessions[2].lost == (0, 1, 2)


def test_a_tiny_session_that_lost_one_row_is_asked_about():
    decision = decide(Retained.of([session(8, 8, 1)], {}), general=None, thresholds=LIMITS)
    assert decision.verdict == ASK
    assert decision.verbatim.sessions[0].changes.p == 1
    assert decision.reasons == (
        "1 s1 keeps 87.5 % of what it knew word for word (1 lost of the 8 known at best); at least "
        "95 % is wanted",
        "earlier sessions lost 12.5 points on average word for word (1 session, 8 questions); the "
        "limit is 5 points, but that may be chance (p = 1)",
    )


def test_a_session_that_knew_nothing_is_named_and_counts_nowhere():
    measured = [session(50, 50, 1), session(50, 0, 0, 50, number=2), session(0, 0, number=3)]
    decision = decide(Retained.of(measured, {"4 x": "removed"}), general=None, thresholds=LIMITS)
    assert [kept.number for kept in decision.verbatim.sessions] == [1]
    assert decision.verbatim.backward.points == -2.0  # 50 gained by the other would have hidden it
    assert decision.verbatim.skipped == {
        "4 x": "removed",
        "2 s2": "it knew none of its questions when it was learned",
        "3 s3": "no question of its own is left to ask",
    }


def test_a_value_beyond_its_limit_never_reads_as_the_limit():
    """94.96 % is not 95 %, 2.04 points are not 2, and 0.1001 nats not 0.1."""
    decision = decide(
        Retained.of([session(2500, 2500, 126)], {}), general=rose(0.1001), thresholds=LIMITS
    )
    kept, mean, general = decision.reasons
    assert "keeps 94.9 % of" in kept
    assert "lost 5.1 points" in mean  # 5.04
    assert "rose by 0.101 nats" in general
    assert gate.points(Fraction("0.0204")) == "2.1 points"
    assert gate.points(Fraction("0.01")) == "1 point"
    assert gate.nats(0.1 + 0.2) == "0.3"
    assert gate.nats(-0.0004) == "0"
    assert gate.percent(Fraction(110, 100)) == "110 %"


def test_the_record_holds_every_number_and_is_json():
    decision = decide(
        Retained.of([session(8, 8, 1)], {"2 x": "why"}),
        other_words=Retained.of([], {"1 s1": "its record"}),
        general=rose(0.05),
        thresholds=LIMITS,
    )
    record = decision.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record == {
        "verdict": "ask",
        "reasons": list(decision.reasons),
        "sessions": [
            {"number": 1, "name": "s1", "asked": 8, "learned": 8, "now": 7, "lost": [0], "p": 1.0}
        ],
        "skipped": {"2 x": "why"},
        "backward": {"points": -12.5, "sessions": 1, "asked": 8, "p": 1.0},
        "other_words": {"sessions": [], "skipped": {"1 s1": "its record"}, "backward": None},
        "losses": [],
        "general": {
            "nats_per_token": 0.05,
            "rose": 90,
            "fell": 30,
            "asked": 120,
            "p": rose(0).changes.p,
        },
        "thresholds": {
            "kept": 0.95,
            "backward": 0.02,
            "general": 0.1,
            "ask_kept": 0.85,
            "ask_backward": 0.05,
            "ask_general": 0.25,
            "significance": 0.05,
        },
    }
    empty = decide(Retained.of([], {}), general=None, thresholds=LIMITS).to_json()
    assert (empty["backward"], empty["general"], empty["sessions"]) == (None, None, [])


@pytest.mark.parametrize(
    ("asked", "learned", "lost", "gained", "verdict"),
    [
        (64, 60, 0, 0, PROMOTE),
        (64, 60, 10, 8, PROMOTE),  # 58 of 60: they come and go
        (64, 60, 6, 0, ASK),  # 90 %; p of six is 0.03125
        (64, 60, 5, 0, PROMOTE),  # 91.7 %, but p of five is 0.0625
        (64, 60, 20, 0, REFUSE),
        (64, 60, 30, 4, REFUSE),
        (64, 60, 60, 0, REFUSE),  # all of it
        (64, 6, 6, 0, REFUSE),
        (64, 6, 2, 0, PROMOTE),  # 66.6 %, and of so few it says nothing
        (3, 3, 3, 0, PROMOTE),
        (64, 24, 12, 8, PROMOTE),  # 83.3 %; p of 12 against 8 is 0.5
        (64, 0, 0, 9, PROMOTE),
    ],
)
def test_what_a_session_keeps_in_other_words_decides_where_it_is_hardly_chance(
    asked, learned, lost, gained, verdict
):
    """An earlier session is still recited, all of it: what is lost is the rest."""
    decision = decide(
        Retained.of([session(100, 100)], {}),
        other_words=Retained.of([session(asked, learned, lost, gained)], {}),
        general=None,
        thresholds=LOOSE_MEAN,
    )
    assert decision.verdict == verdict
    assert all(reason.startswith("1 s1 keeps ") for reason in decision.reasons)
    assert all(" of what it knew in other words (" in reason for reason in decision.reasons)


def test_what_is_recited_but_no_longer_answered_in_other_words_is_forgotten():
    decision = decide(
        Retained.of([session(100, 100)], {}),
        other_words=Retained.of([session(64, 50, 40, 2)], {}),
        general=None,
        thresholds=LIMITS,
    )
    assert decision.verdict == REFUSE
    assert decision.reasons == (
        "1 s1 keeps 20 % of what it knew in other words (40 lost of the 50 known at best, 2 "
        "gained); the limit is 85 %, and that is hardly chance (p < 0.001)",
        "earlier sessions lost 62.5 points on average in other words (1 session, 64 questions); "
        "the limit is 5 points, and that is hardly chance (p < 0.001)",
    )


def test_small_losses_in_other_words_add_up_over_sessions():
    """Four of each session's wordings may be chance; of five sessions they are not."""
    one = session(64, 60, 4)
    several = [session(64, 60, 4, number=number) for number in range(1, 6)]
    verdicts = [
        decide(
            Retained.of([], {}),
            other_words=Retained.of(lost, {}),
            general=None,
            thresholds=LIMITS,
        ).verdict
        for lost in ([one], several)
    ]
    assert verdicts == [PROMOTE, REFUSE]  # −6.25 points on average


def test_only_questions_that_were_asked_both_times_are_compared():
    found = Retained.of(
        [
            SessionOutcomes(
                number=1,
                name="s1",
                before=(True, None, True, True, False),
                after=(True, True, None, False, None),
                wordings=("a", "b", "c", "d", "e"),
            )
        ],
        {},
    )
    (kept,) = found.sessions
    assert (kept.asked, kept.before, kept.after, kept.lost) == (2, 2, 1, (3,))
    assert kept.lost_wordings == ("d",)
    nothing = Retained.of(
        [SessionOutcomes(number=1, name="s1", before=(True, None), after=(None, True))], {}
    )
    assert nothing.sessions == ()
    assert nothing.skipped == {"1 s1": "no question of its own is left to ask"}


def test_limits_that_contradict_each_other_are_refused_all_at_once():
    with pytest.raises(UsageError) as caught:
        Thresholds(kept=0.8, backward=0.1, general=0.3, significance=1.5)
    assert str(caught.value) == (
        "thresholds of the gate: --gate-kept-least 0.85 is stricter than --gate-kept 0.8; "
        "--gate-backward-most 5 is stricter than --gate-backward 10; --gate-general-most 0.25 is "
        "stricter than --gate-general 0.3; significance 1.5 is not within 0 to 1"
    )


def test_flags_of_other_questions_are_refused():
    with pytest.raises(ValueError, match="1 cs: 2 questions on record, 1 now"):
        SessionOutcomes(number=1, name="cs", before=(True, True), after=(True,))


FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40)
CHAINS = st.lists(FLAGS, max_size=5)
PARTIAL = st.lists(st.tuples(st.none() | st.booleans(), st.none() | st.booleans()), max_size=40)
GENERALS = st.none() | st.builds(rose, st.floats(-1, 1), st.integers(0, 60), st.integers(0, 60))


def measured(chain) -> list[SessionOutcomes]:
    return [
        SessionOutcomes(
            number=number,
            name="s",
            before=tuple(had for had, _ in flags),
            after=tuple(has for _, has in flags),
        )
        for number, flags in enumerate(chain, start=1)
    ]


@given(CHAINS, GENERALS, st.data())
def test_forgetting_more_never_improves_the_verdict(chain, general, data):
    """Some answers that were right become wrong."""
    worse = [[(had, has and not data.draw(st.booleans())) for had, has in flags] for flags in chain]
    before = verdict_of(*measured(chain), general=general)
    assert SEVERITY[verdict_of(*measured(worse), general=general)] >= SEVERITY[before]


@given(CHAINS, st.floats(-1, 1), st.floats(0, 1), st.integers(0, 60), st.integers(0, 60))
def test_a_greater_rise_on_more_questions_never_improves_the_verdict(chain, nats, more, up, down):
    sessions = measured(chain)
    before = verdict_of(*sessions, general=rose(nats, up, down))
    after = verdict_of(*sessions, general=rose(nats + more, up + down // 2, down - down // 2))
    assert SEVERITY[after] >= SEVERITY[before]


@given(CHAINS.flatmap(lambda chain: st.tuples(st.just(chain), st.permutations(measured(chain)))))
def test_the_order_of_the_sessions_does_not_matter(pair):
    chain, shuffled = pair
    one, other = (
        decide(Retained.of(some, {}), general=None, thresholds=LIMITS)
        for some in (measured(chain), shuffled)
    )
    assert one == other


@given(CHAINS, st.lists(PARTIAL, max_size=3), GENERALS)
def test_only_a_promotion_has_no_reasons(chain, reworded, general):
    decision = decide(
        Retained.of(measured(chain), {}),
        other_words=Retained.of(measured(reworded), {}),
        general=general,
        thresholds=LIMITS,
    )
    assert (decision.verdict == PROMOTE) == (not decision.reasons)
    assert all("\n" not in reason for reason in decision.reasons)


@given(CHAINS)
def test_nothing_forgotten_is_always_promoted(chain):
    kept = [[(had, had or has) for had, has in flags] for flags in chain]
    assert verdict_of(*measured(kept)) == PROMOTE


METHODS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
_CASE = re.compile(r"^\| (.+) \| `(.+)` \| (promote|ask|refuse) \|$", re.MULTILINE)


@pytest.mark.parametrize(("words", "measured", "verdict"), _CASE.findall(METHODS))
def test_the_cases_of_the_page_come_out_as_it_says(words, measured, verdict):
    given = {}
    for part in measured.split("; "):
        name, values = part.split(": ")
        given.setdefault(name, []).append([float(value) for value in values.split(", ")])
    known = [
        session(*map(int, values), number=number)
        for number, values in enumerate(given.get("recited", []), start=1)
    ]
    reworded = [
        session(*map(int, values), number=number)
        for number, values in enumerate(given.get("other words", []), start=1)
    ]
    risen = {
        name: [rose(nats, int(worse), int(better)) for nats, worse, better in values]
        for name, values in given.items()
        if name in ("loss", "kind", "general")
    }
    losses = {f"{i} s{i}": change for i, change in enumerate(risen.get("loss", []), start=1)}
    kinds = {f"kind {i}": change for i, change in enumerate(risen.get("kind", []), start=1)}
    general = [replace(change, kinds=kinds) for change in risen.get("general", [])]
    decision = decide(
        Retained.of(known, {}),
        other_words=Retained.of(reworded, {}),
        losses=losses,
        general=general[0] if general else None,
        thresholds=LIMITS,
    )
    assert decision.verdict == verdict, words


def test_a_kind_of_general_question_alone_may_hold_a_session_back():
    kinds = {"everyday": rose(0.02), "arithmetic": rose(0.51, 29, 1)}
    decision = decide(
        Retained.of([], {}), general=replace(rose(0.09), kinds=kinds), thresholds=LIMITS
    )
    assert decision.verdict == REFUSE
    assert decision.reasons == (
        "general ability, arithmetic questions: the loss rose by 0.51 nats a token (worse on 29 of "
        "120 questions, better on 1); the limit is 0.5, and that is hardly chance (p < 0.001)",
    )
