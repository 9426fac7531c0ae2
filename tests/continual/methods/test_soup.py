import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.continual.gate import PROMOTE, General, Measured, Thresholds, decide
from mlx_tune.continual.methods.soup import BETAS, scaled, search
from mlx_tune.training.adapter import Adapter


def judged_by(lost, nats=None):
    """A gate before which β loses ``lost(β)`` of 100 questions, and what it was asked."""
    asked = []

    def judge(beta):
        asked.append(beta)
        measured = Measured(
            number=1,
            name="cs",
            learned=(True,) * 100,
            now=tuple(i >= lost(beta) for i in range(100)),
        )
        general = None if nats is None else General(nats=nats(beta), rose=60, fell=60, asked=120)
        return decide([measured], skipped={}, general=general, thresholds=Thresholds())

    return judge, asked


def test_a_change_that_costs_nothing_is_kept_whole_and_judged_once():
    judge, asked = judged_by(lambda beta: 0)
    beta, judged = search(judge)
    assert (beta, asked, list(judged)) == (1.0, [1.0], [1.0])


def test_the_largest_part_that_is_promoted_is_taken_and_none_after_it_is_tried():
    judge, asked = judged_by(lambda beta: 50 if beta > 0.75 else 2)
    beta, judged = search(judge)
    assert (beta, asked) == (0.7, [1.0, 0.9, 0.8, 0.7])
    assert judged[0.7].verdict == PROMOTE
    assert [decision.verdict for decision in judged.values()] == ["refuse"] * 3 + ["promote"]


def test_where_none_is_promoted_a_verdict_counts_first():
    """0.6 is merely asked about; 0.5 keeps more of nothing but is refused."""
    judge, asked = judged_by({1.0: 40, 0.9: 30, 0.8: 20, 0.7: 20, 0.6: 5, 0.5: 30}.__getitem__)
    beta, judged = search(judge)
    assert (beta, asked) == (0.6, list(BETAS))
    assert judged[beta].verdict == "ask"


def test_then_what_is_kept_then_general_ability_then_the_larger_part():
    lost = {1.0: 40, 0.9: 30, 0.8: 30, 0.7: 30, 0.6: 35, 0.5: 31}.__getitem__
    assert search(judged_by(lost)[0])[0] == 0.9
    general = {1.0: 0.0, 0.9: 0.3, 0.8: 0.2, 0.7: 0.2, 0.6: 0.0, 0.5: 0.0}.__getitem__
    assert search(judged_by(lost, general)[0])[0] == 0.8


def test_the_order_in_which_parts_are_named_does_not_matter_and_none_is_judged_twice():
    judge, asked = judged_by(lambda beta: 50 if beta > 0.5 else 0)
    assert search(judge, betas=[0.3, 1.0, 0.5, 1.0])[0] == 0.5
    assert asked == [1.0, 0.5]
    with pytest.raises(ValueError, match="empty"):
        search(judge, betas=[])


@given(st.lists(st.integers(0, 100), min_size=len(BETAS), max_size=len(BETAS)))
def test_no_part_tried_is_better_than_the_one_taken(lost):
    by_beta = dict(zip(BETAS, lost, strict=True))
    beta, judged = search(judged_by(by_beta.__getitem__)[0])
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
