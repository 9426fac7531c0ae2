import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mlx_tune.cli.gate_view import fidelity_lines, show_decision, show_ways
from mlx_tune.cli.options import STORE
from mlx_tune.continual.gate import Thresholds, decide
from mlx_tune.continual.recall import GeneralChange, PairedChanges
from mlx_tune.continual.retained import Retained, SessionOutcomes
from mlx_tune.store.session import PROMOTE

LONG = "campus-dining-halls-of-winter-term-2026x"
WAYS_OF_REHEARSAL = [
    "",
    "The session is saved, and HEAD is where it was. You can",
    "  1. train again, rehearsing every old row",
    "     mlx-tune train DATA --replay all",
    "  2. train again, keeping only a part of what changes",
    "     mlx-tune train DATA --method soup",
    "  3. train one adapter on all that was ever taught",
    "     mlx-tune consolidate",
    "  4. take the session as it is",
    "     mlx-tune promote 7f3a9c12",
]


def session(
    number: int, name: str, asked: int, lost: int, known: int | None = None
) -> SessionOutcomes:
    known = asked if known is None else known
    return SessionOutcomes(
        number=number,
        name=name,
        before=tuple(i < known for i in range(asked)),
        after=tuple(lost <= i < known for i in range(asked)),
    )


def asked(number: int) -> list[str]:
    words = "and who answers it on a Sunday in winter term"
    return [f"What is number {i} of {number}, {words}?" for i in range(200)]


def shown(
    *measured,
    general=None,
    skipped=None,
    other_words=(),
    unmeasured=None,
    questions=None,
    width=80,
    general_replay=0.45,
    store=STORE,
    losses=None,
):
    decision = decide(
        Retained.of(measured, skipped or {}),
        other_words=Retained.of(other_words, unmeasured or {}),
        losses=losses or {},
        general=general,
        thresholds=Thresholds(),
    )
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    show_decision(
        decision,
        {one.number: asked(one.number) for one in measured} if questions is None else questions,
        console,
    )
    if decision.verdict != PROMOTE:
        show_ways(
            decision,
            console,
            session="7f3a9c12",
            general_replay=general_replay,
            store=store,
        )
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_first_session_has_nothing_to_say():
    assert shown() == []


def test_a_promotion_is_a_few_lines():
    general = GeneralChange(
        nats_per_token=-0.0123, changes=PairedChanges(worse=20, better=100), asked=120
    )
    assert shown(session(1, "cs", 106, 1, 104), session(2, "x", 50, 0), general=general) == [
        "word for word  kept  known now   at best",
        "1 cs           99 %  103 of 106  104 of 106",
        "lost nothing word for word: 1 session",
        "backward transfer word for word: -0.5 points (2 sessions, 156 questions)",
        "general ability: loss -0.012 nats a token (120 questions)",
        "✓ the gate lets it through, for what was lost is within its limits",
    ]


def test_nothing_lost_reads_so():
    assert shown(session(1, "cs", 8, 0))[:2] == [
        "lost nothing word for word: 1 session",
        "backward transfer word for word: 0 points (1 session, 8 questions)",
    ]


def test_what_cannot_be_measured_is_named_and_not_called_kept():
    assert shown(skipped={"1 cs": "its rows were not kept"}) == [
        "not measured word for word: 1 cs, since its rows were not kept",
        "✓ the gate lets it through, for nothing could be measured",
    ]


def test_a_session_held_back_shows_what_was_lost_and_what_can_be_done():
    lines = shown(session(1, "cs", 8, 1), session(2, LONG, 60, 20), width=100)
    assert lines == [
        "word for word                               kept    known now  at best",
        "1 cs                                        87.5 %  7 of 8     8 of 8",
        f"2 {LONG}  66.6 %  40 of 60   60 of 60",
        "backward transfer word for word: -23 points (2 sessions, 68 questions)",
        "✗ the gate refuses it, too much of what was known before is lost:",
        "  1 cs keeps 87.5 % of what it knew word for word (1 lost of the 8 known at best); at "
        "least 95 % is",
        "  wanted",
        f"  2 {LONG} keeps 66.6 % of what it knew word for word (20 lost of",
        "  the 60 known at best); the limit is 85 %, and that is hardly chance (p < 0.001)",
        "  earlier sessions lost 23 points on average word for word (2 sessions, 68 questions); "
        "the limit is",
        "  5 points, and that is hardly chance (p < 0.001)",
        "1 cs no longer knows:",
        f"  “{asked(1)[0]}”",
        f"2 {LONG} no longer knows:",
        *(f"  “{question}”" for question in asked(2)[:5]),
        "  … and 15 more",
        *WAYS_OF_REHEARSAL,
    ]


def test_what_is_recited_and_no_longer_answered_in_other_words_is_told_apart():
    lost = replace(
        session(1, "cs", 40, 20),
        wordings=tuple(f"And number {i}, in other words?" for i in range(40)),
    )
    churned = replace(session(2, "x", 64, 2, 60), after=(False,) * 2 + (True,) * 60 + (False,) * 2)
    lines = shown(session(1, "cs", 8, 0), session(2, "x", 8, 0), other_words=(lost, churned))
    assert lines[: lines.index("")] == [
        "lost nothing word for word: 2 sessions",
        "backward transfer word for word: 0 points (2 sessions, 16 questions)",
        "in other words  kept  known now  at best",
        "1 cs            50 %  20 of 40   40 of 40",
        "no fewer in other words: 1 session",
        "backward transfer in other words: -25 points (2 sessions, 104 questions)",
        "✗ the gate refuses it, too much of what was known before is lost:",
        "  1 cs keeps 50 % of what it knew in other words (20 lost of the 40 known at",
        "  best); the limit is 85 %, and that is hardly chance (p < 0.001)",
        "  earlier sessions lost 26.6 points on average in other words (2 sessions, 104",
        "  questions); the limit is 5 points, and that is hardly chance (p < 0.001)",
        "1 cs no longer answers:",
        *(f"  “And number {i}, in other words?”" for i in range(5)),
        "  … and 15 more",
    ]
    assert "     mlx-tune train DATA --replay all" in lines


def test_a_loss_that_may_be_chance_is_shown_and_nothing_is_asked():
    lines = shown(session(1, "cs", 8, 0), other_words=[session(1, "cs", 30, 5)])
    assert lines[-1] == "✓ the gate lets it through, for what was lost is within its limits"
    assert "1 cs            83.3 %  25 of 30   30 of 30" in lines


def test_sessions_that_cannot_be_measured_for_one_reason_share_a_line():
    why = "older records lack this"
    lines = shown(
        session(1, "cs", 8, 0), session(2, "x", 8, 0), unmeasured={"1 cs": why, "2 x": why}
    )
    assert f"not measured in other words: 1 cs, 2 x, since {why}" in lines


def test_a_question_is_one_line_and_a_command_is_never_broken():
    store = Path("/a long path/to a store/of mine/that goes on/and on")
    lines = shown(session(1, LONG, 8, 1), store=store)
    assert "! the gate holds it back, it is for you to decide:" in lines
    commands = [line.strip() for line in lines if "mlx-tune" in line]
    flag = ["--store", str(store)]
    assert [shlex.split(command)[-2:] for command in commands] == [flag] * 4
    assert max(len(line) for line in lines if "mlx-tune" not in line) <= 80
    narrow = shown(session(1, "cs", 8, 1), width=40)
    assert f"  “{asked(1)[0]}"[:39] + "…" in narrow


def test_only_the_sessions_that_lost_most_are_listed():
    lines = shown(*(session(number, "s", 100, number % 12) for number in range(1, 12)))
    assert [line.split()[0] for line in lines[1:9]] == [str(n) for n in range(4, 12)]
    assert lines[9] == "… and 3 more that lost no more"
    assert sum("no longer knows" in line for line in lines) == 8


def test_a_gain_is_shown_as_one():
    gained = SessionOutcomes(number=1, name="cs", before=(True, True, False), after=(True,) * 3)
    lines = shown(
        gained,
        general=GeneralChange(
            nats_per_token=0.05, changes=PairedChanges(worse=70, better=50), asked=120
        ),
    )
    assert lines[1] == "backward transfer word for word: +33.3 points (1 session, 3 questions)"
    assert lines[2] == "general ability: loss +0.05 nats a token (120 questions)"


def test_questions_cannot_steer_the_terminal_and_may_be_missing():
    lost = session(1, "cs", 8, 1)
    lines = shown(lost, questions={1: ["\x1b[2J[red]Who?\nMe"] * 8})
    assert "  “·[2J[red]Who? Me”" in lines
    assert not any("no longer knows" in line for line in shown(lost, questions={}))


@pytest.mark.parametrize("width", [40, 80, 500])
def test_every_width_says_the_same_words(width):
    lines = shown(session(1, "cs", 60, 20), questions={}, width=width)
    words = " ".join(" ".join(lines).split())
    assert (
        "1 cs keeps 66.6 % of what it knew word for word (20 lost of the 60 known at best); the"
        in words
    )


def test_a_drift_alone_asks_for_more_general_questions():
    lines = shown(
        session(1, "cs", 8, 0),
        general=GeneralChange(
            nats_per_token=0.2, changes=PairedChanges(worse=90, better=30), asked=120
        ),
    )
    assert lines[-8:] == [
        "",
        "The session is saved, and HEAD is where it was. You can",
        "  1. train again, with more general questions",
        "     mlx-tune train DATA --general-replay 0.45",
        "  2. train again, keeping only a part of what changes",
        "     mlx-tune train DATA --method soup",
        "  3. take the session as it is",
        "     mlx-tune promote 7f3a9c12",
    ]


def test_more_general_questions_are_not_offered_where_all_came_along():
    drift = GeneralChange(nats_per_token=0.2, changes=PairedChanges(worse=90, better=30), asked=120)
    lines = shown(session(1, "cs", 8, 0), general=drift, general_replay=None)
    assert not any("--general-replay" in line for line in lines)
    assert "  1. train again, keeping only a part of what changes" in lines


def share(relative, error, lost=0.0, along=1.0):
    return {"relative": relative, "error": error, "lost": lost, "along": along}


def record(*stored, whole, **layers):
    named = {f"model.layers.{name[1:]}": found for name, found in layers.items()}
    return {"stored": list(stored), **whole, "layers": named}


@pytest.mark.parametrize(
    ("found", "change", "kept"),
    [
        (
            record("bfloat16", whole=share(0.00731, 0.2225, 0.2357), _0=share(0.006, 0.31),
                   _11=share(0.0123, 0.15)),
            "0.73 % of the weights (rms); most in layer 11: 1.2 %",
            "78 % in bfloat16, 24 % of weights unmoved; layer 0 least: 69 %",
        ),
        (
            record("float32", whole=share(0.25, 6.9e-6), _0=share(0.25, 6.9e-6)),
            "25 % of the weights (rms); most in layer 0: 25 %",
            "all of it in float32, to 7e-06 of it",
        ),
        (
            record("apart", whole=share(0.01, 0.0), _0=share(0.01, 0.0)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "all of it, beside the quantised weights: nothing is rounded",
        ),
        (
            record("4 bits", whole=share(0.01, 2.35, 0.73, 0.16), _0=share(0.01, 2.9),
                   _1=share(0.01, 1.2)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "16 % of the way in 4 bits, with noise 2.4 × it; layer 0 worst: 2.9 ×",
        ),
        (
            record("apart", "bfloat16", whole=share(0.01, 0.1, 0.05), _0=share(0.01, 0.2)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "90 % in bfloat16, 5 % of weights unmoved; "
            "layer 0 least: 80 %",
        ),
    ],
)  # fmt: skip
def test_two_lines_tell_how_large_and_how_much_of_it(found, change, kept):
    lines = dict(fidelity_lines(found))
    assert lines == {"change": change, "kept": kept}
    assert all(len(text) + 11 <= 80 for text in lines.values())


def rise(nats: float, **kinds) -> GeneralChange:
    changes = PairedChanges(worse=90, better=30)
    return GeneralChange(nats_per_token=nats, changes=changes, asked=120, kinds=kinds)


@pytest.mark.parametrize("nats", [0.2, 0.9, float("nan")])
def test_answers_that_got_less_likely_are_to_be_rehearsed(nats):
    """A session that never recited its answers loses none, but what it learned may go."""
    lines = shown(session(1, "cs", 8, 0), losses={"1 cs": rise(nats)})
    assert lines[lines.index("") :] == WAYS_OF_REHEARSAL


def test_a_drift_alone_is_not_said_to_be_of_old_answers():
    lines = shown(session(1, "cs", 8, 0), losses={"1 cs": rise(0.1)}, general=rise(0.2))
    assert "     mlx-tune train DATA --general-replay 0.45" in lines
    assert not any("--replay all" in line or "consolidate" in line for line in lines)


def test_one_kind_of_general_questions_that_drifted_asks_for_more_of_them():
    lines = shown(session(1, "cs", 8, 0), general=rise(0.05, sums=rise(0.4)))
    assert "     mlx-tune train DATA --general-replay 0.45" in lines
