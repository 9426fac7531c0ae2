import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError
from mlx_tune.training.adapter import WEIGHTS_FILE
from mlx_tune.training.loop import Trainer, TrainingConfig

CONFIG = TrainingConfig(
    rank=4,
    scale=2.0,
    epochs=3,
    batch_size=2,
    grad_accumulation=2,
    learning_rate=5e-3,
    new_rows=7,
    seed=0,
)


def examples(count=7) -> list[Example]:
    random = np.random.default_rng(1)
    made = []
    for i in range(count):
        tokens = (*range(10, 20), *random.integers(3, 250, 6 + i).tolist())
        flags = tuple(t >= 12 for t in range(len(tokens)))
        made.append(Example(tokens=tokens, supervised=flags))
    return made


def trained(config=CONFIG, rows=None, model=None):
    trainer = Trainer(model or tiny.model(), rows or examples(), config)
    return trainer, list(trainer.steps())


def weights(trainer) -> bytes:
    return trainer.checkpoint()[WEIGHTS_FILE]


def test_the_loss_goes_down():
    _, steps = trained(dataclasses.replace(CONFIG, epochs=30))
    assert steps[-1].loss < 0.5 * steps[0].loss


@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (7, 6), (8, 6), (9, 9)])
def test_every_row_counts_and_so_does_the_partial_batch(rows, steps):
    trainer, done = trained(rows=examples(rows))
    assert trainer.planned_steps == len(done) == steps
    per_epoch = [s.tokens for s in done[: steps // 3]]
    assert sum(per_epoch) == sum(len(e.tokens) for e in examples(rows))
    assert [s.ends_epoch for s in done].count(True) == 3


def test_two_runs_of_one_seed_are_bit_identical():
    assert weights(trained()[0]) == weights(trained()[0])


def test_another_seed_gives_another_adapter():
    other = dataclasses.replace(CONFIG, seed=1)
    assert weights(trained()[0]) != weights(trained(other)[0])


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_ends_with_the_same_bytes(stop):
    undisturbed, _ = trained()
    first = Trainer(tiny.model(), examples(), CONFIG)
    for step in first.steps():
        if step.number == stop:
            break
    second = Trainer(tiny.model(), examples(), CONFIG)
    second.restore(first.checkpoint(), place="here")
    assert second.steps_done == stop
    numbers = [step.number for step in second.steps()]
    assert numbers == list(range(stop + 1, 7))
    assert weights(second) == weights(undisturbed)


def test_a_checkpoint_of_another_plan_is_refused():
    trainer, _ = trained()
    other = Trainer(tiny.model(), examples(), dataclasses.replace(CONFIG, epochs=4))
    with pytest.raises(IncompatibleError) as error:
        other.restore(trainer.checkpoint(), place="here")
    assert str(error.value) == (
        "here: plans 6 steps, this run 8; resume with the rows and settings it began with"
    )


def test_a_checkpoint_of_another_rank_is_refused_with_the_first_differences():
    trainer, _ = trained()
    other = Trainer(tiny.model(), examples(), dataclasses.replace(CONFIG, rank=2))
    with pytest.raises(IncompatibleError) as error:
        other.restore(trainer.checkpoint(), place="here")
    assert "mlp.down_proj.lora_a: (64, 4), expected (64, 2)" in str(error.value)


def test_adamw_is_the_one_that_is_promised():
    """One step by hand: bias correction on, no weight decay, clipped to norm 1."""
    config = dataclasses.replace(CONFIG, epochs=1, new_rows=0)
    model = tiny.model()
    trainer = Trainer(model, examples(1), config)
    before = {n: np.array(v) for n, v in tree_flatten(model.trainable_parameters())}
    (step,) = trainer.steps()
    after = {n: np.array(v) for n, v in tree_flatten(model.trainable_parameters())}
    assert step.learning_rate == CONFIG.learning_rate
    moved = {n: after[n] - before[n] for n in after}
    # With m and v corrected, the first update is rate · g / (|g| + ε): the rate, with a sign,
    # wherever the gradient is not tiny. B starts at zero, so A has no gradient yet.
    for name, change in moved.items():
        if name.endswith("lora_a"):
            assert not change.any()
        else:
            assert np.median(np.abs(change)) == pytest.approx(CONFIG.learning_rate, rel=1e-2)


def test_the_gradient_is_clipped_to_norm_one(monkeypatch):
    import mlx.optimizers as optim

    seen = []
    update = optim.AdamW.update
    monkeypatch.setattr(
        optim.AdamW,
        "update",
        lambda self, model, gradients: (
            seen.append(np.sqrt(sum(float((g * g).sum()) for _, g in tree_flatten(gradients)))),
            update(self, model, gradients),
        )[1],
    )
    _, steps = trained()
    assert max(step.grad_norm for step in steps) > 1
    assert max(seen) <= 1 + 1e-5


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model = tiny.model()
    trainer = Trainer(model, examples(), CONFIG)
    steps = trainer.steps()
    next(steps)
    kept = weights(trainer)
    model.model.norm.weight = model.model.norm.weight * mx.nan
    with pytest.raises(InputError) as error:
        next(steps)
    assert str(error.value) == (
        "step 2: the loss is no longer finite, so training stopped before the update; "
        "lower --learning-rate and train again"
    )
    assert weights(trainer) == kept
    assert trainer.steps_done == 1


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows to train on"):
        Trainer(tiny.model(), [], CONFIG)
