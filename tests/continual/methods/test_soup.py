import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.gate import Measured, Thresholds, decide
from mlx_tune.continual.methods.soup import BETAS, scaled, search
from mlx_tune.continual.recall import GeneralChange
from mlx_tune.store.session import PROMOTE
from mlx_tune.training.adapter import Adapter


def judged_by(lost, nats=None, asked=(100,)):
    """A gate before which β loses ``lost(β)`` questions, a number a session, and what it judged."""
    tried = []

    def judge(beta):
        tried.append(beta)
        measured = [
            Measured(
                number=number,
                name="s",
                learned=(True,) * count,
                now=tuple(i >= missing for i in range(count)),
            )
            for number, (count, missing) in enumerate(zip(asked, lost(beta), strict=True), start=1)
        ]
        general = (
            None
            if nats is None
            else GeneralChange(nats_per_token=nats(beta), rose=60, fell=60, asked=120)
        )
        return decide(measured, skipped={}, general=general, thresholds=Thresholds())

    return judge, tried


def table(*rows):
    """What each β of the grid gives, from the largest down."""
    return dict(zip(BETAS, rows, strict=False)).__getitem__


def test_a_change_that_costs_nothing_is_kept_whole_and_judged_once():
    judge, tried = judged_by(lambda beta: (0,))
    beta, judged = search(judge)
    assert (beta, tried, list(judged)) == (1.0, [1.0], [1.0])


def test_the_largest_part_that_is_promoted_is_taken_and_none_after_it_is_tried():
    judge, tried = judged_by(lambda beta: (50 if beta > 0.75 else 2,))
    beta, judged = search(judge)
    assert (beta, tried) == (0.7, [1.0, 0.9, 0.8, 0.7])
    assert judged[0.7].verdict == PROMOTE
    assert [decision.verdict for decision in judged.values()] == ["refuse"] * 3 + ["promote"]


def test_where_none_is_promoted_the_verdict_counts_first():
    """One of six lost is less than 16 of a hundred, but may be chance."""
    judge, tried = judged_by(table((0, 16), (1, 0), (0, 16)), asked=(6, 100))
    beta, judged = search(judge, betas=BETAS[:3])
    assert (beta, tried) == (0.9, [1.0, 0.9, 0.8])
    assert [decision.verdict for decision in judged.values()] == ["refuse", "ask", "refuse"]
    assert judged[0.9].worst.share < judged[1.0].worst.share


@pytest.mark.parametrize(
    ("lost", "nats", "best"),
    [
        (table((20, 0), (18, 18), (19, 0)), None, 0.9),  # the worst session
        (table((20, 10), (20, 5), (20, 6)), None, 0.9),  # then the mean
        (table((20, 5), (20, 5), (20, 5)), table(0.3, 0.2, 0.25), 0.9),  # then general ability
        (table((20, 5), (20, 5), (20, 5)), table(0.3, 0.2, 0.2), 0.9),  # then the largest part
        (table((20, 5), (20, 5), (20, 5)), None, 1.0),
    ],
)
def test_then_the_worst_session_then_the_mean_then_general_ability_then_the_part(lost, nats, best):
    judge, _ = judged_by(lost, nats, asked=(100, 100))
    assert search(judge, betas=BETAS[:3])[0] == best


def test_the_order_in_which_parts_are_named_does_not_matter_and_none_is_judged_twice():
    judge, tried = judged_by(lambda beta: (50 if beta > 0.5 else 0,))
    assert search(judge, betas=[0.3, 1.0, 0.5, 1.0])[0] == 0.5
    assert tried == [1.0, 0.5]
    with pytest.raises(ValueError, match="empty"):
        search(judge, betas=[])


@given(st.lists(st.integers(0, 100), min_size=len(BETAS), max_size=len(BETAS)))
def test_no_part_tried_is_better_than_the_one_taken(lost):
    by_beta = dict(zip(BETAS, lost, strict=True))
    beta, judged = search(judged_by(lambda beta: (by_beta[beta],))[0])
    assert by_beta[beta] == min(by_beta[tried] for tried in judged)


def test_a_scaled_adapter_changes_the_weights_by_that_part():
    rng = np.random.default_rng(0)
    a, b = (mx.array(rng.normal(size=shape).astype(np.float32)) for shape in ((6, 2), (2, 5)))
    whole = Adapter(factors={"q_proj": (a, b)}, rank=2, scale=2.0)
    part = scaled(whole, 0.5)
    assert (part.scale, part.rank) == (1.0, 2)
    change = whole.scale * np.array(a) @ np.array(b)
    half = part.scale * np.array(part.factors["q_proj"][0]) @ np.array(part.factors["q_proj"][1])
    assert np.allclose(half, change / 2)
    assert whole.scale == 2.0
