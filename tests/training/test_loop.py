import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from helpers import tiny
from mlx_tune.continual.recall import score
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError, NotFiniteError
from mlx_tune.models import runtime
from mlx_tune.training import loop
from mlx_tune.training.adapter import WEIGHTS_FILE, flatten_factors
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.generic import attach
from mlx_tune.training.loop import OPTIMIZER_FILE, Objective, Trainer
from mlx_tune.training.mixture import BASE, MERGED, UNKNOWN_LOSS, DataSource, Mixture
from mlx_tune.training.optimizer import AdamW, global_norm
from mlx_tune.training.packed import PackedForward

# Compiling calls g++ for every kernel; the tests that need it are together, at the end.
CONFIG = TrainingConfig(
    rank=4,
    scale=2.0,
    epochs=3,
    batch_size=2,
    grad_accumulation=2,
    learning_rate=5e-3,
    new_rows=7,
    seed=0,
    compile=False,
)
EVERYTHING = {
    "dropout": 0.2,
    "lora_plus_ratio": 4.0,
    "checkpoint_layers": 1,
    "loss_chunk": 5,
}


def examples(count=7) -> list[Example]:
    random = np.random.default_rng(1)
    made = []
    for i in range(count):
        tokens = (*range(10, 20), *random.integers(3, 250, 6 + i).tolist())
        flags = tuple(t >= 12 for t in range(len(tokens)))
        made.append(Example(tokens=tokens, supervised=flags))
    return made


def made(rows=None, model=None, **changes) -> Trainer:
    return Trainer(
        model or tiny.model(), rows or examples(), dataclasses.replace(CONFIG, **changes)
    )


def trained(rows=None, model=None, **changes):
    trainer = made(rows, model, **changes)
    return trainer, list(trainer.steps())


def test_after_the_decay_the_rate_is_a_quarter_of_the_peak_and_else_it_falls_to_the_end():
    _, steps = trained(epochs=4, decay_epochs=2)
    rates = [step.learning_rate / CONFIG.learning_rate for step in steps]
    falling = [0.25 + 0.75 * share for share in (0.8536, 0.5, 0.1464, 0)]
    assert rates == pytest.approx([*falling, *[0.25] * 4], abs=1e-3)
    for same in ({}, {"decay_epochs": 4}, {"decay_epochs": 9}):
        _, steps = trained(epochs=4, **same)
        assert steps[-1].learning_rate == pytest.approx(0.0, abs=1e-12), same
        assert steps[3].learning_rate == pytest.approx(CONFIG.learning_rate / 2)


def weights(trainer) -> bytes:
    return trainer.checkpoint()[WEIGHTS_FILE]


def arrays(factors) -> dict[str, np.ndarray]:
    return {name: np.array(factor) for name, factor in flatten_factors(factors).items()}


def measured(trainer, rows) -> tuple[float, dict[str, np.ndarray]]:
    loss, gradients, _ = trainer.loss_and_gradients(rows)
    return float(np.array(loss)), arrays(gradients)


def test_the_loss_goes_down():
    _, steps = trained(epochs=30)
    assert steps[-1].loss < 0.5 * steps[0].loss


@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (7, 6), (8, 6), (9, 9)])
def test_every_row_counts_and_so_does_the_partial_batch(rows, steps):
    trainer, done = trained(rows=examples(rows))
    assert trainer.planned_steps == len(done) == steps
    per_epoch = [s.tokens for s in done[: steps // 3]]
    assert sum(per_epoch) == sum(len(e.tokens) for e in examples(rows))
    assert [s.ends_epoch for s in done].count(True) == 3
    assert [s.epoch for s in done] == [1 + i // (steps // 3) for i in range(steps)]


# Rows that share a prefix, and a text that does not: its micro-batch goes without. No two are as
# long as each other, so every order is cut into the same micro-batches.
MIXED = [*tiny.rows(7), tiny.example(*range(100, 118), taught=17)]
CUTS = [(8, 1), (4, 2), (2, 4), (1, 8)]


@pytest.mark.parametrize("changes", [{}, {"model_type": "gemma2", "query_pre_attn_scalar": 8.0}])
def test_neither_the_cut_into_micro_batches_nor_the_order_of_rows_changes_a_step(changes):
    """One step of learning first: a fresh adapter's second factors are zero."""
    first = made(MIXED, tiny.model(**changes), batch_size=8, grad_accumulation=1, epochs=2)
    next(first.steps())
    files = first.checkpoint()
    found = {}
    for size, count in CUTS:
        trainer = made(
            MIXED, tiny.model(**changes), batch_size=size, grad_accumulation=count, epochs=2
        )
        trainer.restore(files, place="here")
        found[size, count] = measured(trainer, range(len(MIXED)))
        tiny.assert_same(measured(trainer, range(len(MIXED))[::-1]), found[size, count])
    for cut in CUTS[1:]:
        tiny.assert_same(found[cut], found[CUTS[0]])


def test_the_loss_is_the_mean_over_supervised_tokens_of_a_step():
    """Not the mean of the rows' means, nor of the micro-batches'."""
    rows = examples(4)
    _, (step, *_) = trained(rows)
    model = tiny.model()
    total = 0.0
    for row in rows:
        shares = np.array(mx.softmax(model(mx.array([row.tokens[:-1]]))[0], axis=-1))
        total -= sum(np.log(shares[t - 1, row.tokens[t]]) for t in np.flatnonzero(row.supervised))
    assert step.loss == pytest.approx(total / sum(sum(r.supervised) for r in rows), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_two_runs_of_one_seed_are_bit_identical(changes):
    (first, steps), (second, again) = trained(**changes), trained(**changes)
    assert weights(first) == weights(second)
    assert [(s.loss, s.grad_norm) for s in steps] == [(s.loss, s.grad_norm) for s in again]


def test_another_seed_gives_another_adapter_and_another_order():
    (first, steps), (second, others) = trained(), trained(seed=1)
    assert weights(first) != weights(second)
    assert [s.tokens for s in steps] != [s.tokens for s in others]


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_resumed_run_ends_with_the_same_bytes(stop, changes):
    undisturbed, steps = trained(**changes)
    first = made(**changes)
    for step in first.steps():
        if step.number == stop:
            break
    second = made(**changes)
    second.restore(first.checkpoint(), place="here")
    assert second.steps_done == stop
    rest = list(second.steps())
    assert [step.number for step in rest] == list(range(stop + 1, 7))
    assert [step.loss for step in rest] == [step.loss for step in steps[stop:]]
    assert second.checkpoint() == undisturbed.checkpoint()


def test_a_checkpoint_of_another_plan_is_refused():
    trainer, _ = trained()
    other = made(epochs=4)
    with pytest.raises(IncompatibleError) as error:
        other.restore(trainer.checkpoint(), place="here")
    assert str(error.value) == (
        "here: plans 6 steps, this run 8; resume with the rows and settings it began with"
    )


def test_a_checkpoint_of_another_rank_is_refused_with_the_first_differences():
    trainer, _ = trained()
    other = made(rank=2)
    before = weights(other)
    with pytest.raises(IncompatibleError) as error:
        other.restore(trainer.checkpoint(), place="here")
    assert str(error.value).startswith("here: does not fit the model: ")
    assert "mlp.down_proj.lora_a: (64, 4), expected (64, 2)" in str(error.value)
    assert (weights(other), other.steps_done) == (before, 0)


@pytest.mark.parametrize("file", [WEIGHTS_FILE, OPTIMIZER_FILE])
def test_a_checkpoint_put_together_of_two_runs_is_refused(file):
    files = made().checkpoint() | {file: made(rank=2).checkpoint()[file]}
    with pytest.raises(IncompatibleError, match="does not fit the model"):
        made().restore(files, place="here")


def test_a_checkpoint_of_a_deeper_model_is_refused():
    trainer, _ = trained(model=tiny.model(num_hidden_layers=3))
    with pytest.raises(IncompatibleError, match=r"layers\.2.*: \(64, 4\), expected missing"):
        made().restore(trainer.checkpoint(), place="here")


def test_a_step_is_an_update_with_the_gradients_of_its_rows():
    rows = examples(4)
    trainer = made(rows, batch_size=4, grad_accumulation=1, lora_plus_ratio=8.0, new_rows=20)
    optimizer = AdamW(lora_plus_ratio=8.0)
    factors, moments = trainer.adapter().factors, optimizer.init(trainer.adapter().factors)
    steps = trainer.steps()
    for number, rate in ((1, 2.5e-3), (2, 5e-3), (3, 0.0)):  # warm-up of two steps, then down to 0
        loss, gradients, _ = trainer.loss_and_gradients(range(4))
        norm = global_norm(gradients)
        factors, moments = optimizer.update(
            factors, gradients, moments, norm=norm, rate=rate, step=number
        )
        step = next(steps)
        assert step.learning_rate == pytest.approx(rate)
        assert step.loss == pytest.approx(float(np.array(loss)), rel=1e-6)
        assert step.grad_norm == pytest.approx(float(np.array(norm)), rel=1e-6)
        found = arrays(trainer.adapter().factors)
        for name, wanted in arrays(factors).items():
            assert np.allclose(found[name], wanted, rtol=0, atol=1e-7), name


def test_adamw_is_the_one_that_is_promised():
    """One step by hand: bias correction on, no weight decay, clipped to norm 1."""
    trainer = made(examples(1), epochs=1, new_rows=0)
    before = arrays(trainer.adapter().factors)
    (step,) = trainer.steps()
    assert step.learning_rate == CONFIG.learning_rate
    # With m and v corrected, the first update is rate · g / (|g| + ε): the rate, with a sign,
    # wherever the gradient is not tiny. B starts at zero, so A has no gradient yet.
    for name, after in arrays(trainer.adapter().factors).items():
        change = after - before[name]
        if name.endswith("lora_a"):
            assert not change.any()
        else:
            assert np.median(np.abs(change)) == pytest.approx(CONFIG.learning_rate, rel=1e-2)


def test_lora_plus_moves_every_lora_b_its_ratio_times_as_far_in_the_first_step():
    plain, plus = (
        made(examples(1), epochs=1, new_rows=0, lora_plus_ratio=ratio) for ratio in (1.0, 16.0)
    )
    for trainer in (plain, plus):
        assert len(list(trainer.steps())) == 1
    far = arrays(plus.adapter().factors)
    for name, near in arrays(plain.adapter().factors).items():
        if name.endswith("lora_a"):
            assert np.array_equal(far[name], near)
        else:
            assert np.allclose(far[name], 16 * near, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_stop_before_the_update_too(monkeypatch, norm):
    trainer = made()
    kept = weights(trainer)
    monkeypatch.setattr(loop, "global_norm", lambda gradients: mx.array(norm))
    with pytest.raises(NotFiniteError, match="step 1: the loss is no longer finite"):
        next(trainer.steps())
    assert weights(trainer) == kept


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model = tiny.model()
    trainer = made(model=model)
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


def test_training_leaves_the_model_as_it_was():
    tokens = mx.array([[5, 6, 7, 8]])
    model = tiny.model()
    before = np.array(model(tokens))
    trainer, _ = trained(model=model)
    assert np.array_equal(np.array(model(tokens)), before)
    attach(model, trainer.adapter().factors, CONFIG.scale)
    assert not np.allclose(np.array(model(tokens)), before, atol=1e-2)


@pytest.fixture
def keys(monkeypatch):
    """The dropout's key of every micro-step, in order; None where nothing is to be drawn."""
    met = []
    loss = PackedForward.loss

    def spy(self, factors, batch, key=None):
        met.append(None if key is None else tuple(np.array(key).tolist()))
        return loss(self, factors, batch, key)

    monkeypatch.setattr(PackedForward, "loss", spy)
    return met


def test_every_micro_step_of_every_step_and_seed_draws_masks_of_its_own(keys):
    for seed in (0, 1):
        trained(dropout=0.2, seed=seed)
    assert len(keys) == len(set(keys)) == 2 * 3 * 4  # seeds × epochs × micro-batches of 7 rows


def test_without_dropout_no_step_has_a_key(keys):
    trained()
    assert set(keys) == {None}


def test_a_resumed_run_meets_the_masks_it_would_have_met(keys):
    first = made(dropout=0.2)
    for step in first.steps():
        if step.number == 3:
            files = first.checkpoint()
    all_of = list(keys)
    keys.clear()
    second = made(dropout=0.2)
    second.restore(files, place="here")
    list(second.steps())
    assert keys == all_of[6:]


def test_steps_draw_different_masks_of_the_same_rows():
    """With a rate of zero nothing else changes from step to step."""
    rows = examples(2)
    options = {"batch_size": 2, "grad_accumulation": 1, "learning_rate": 0.0}
    norms = [
        [step.grad_norm for step in trained(rows, dropout=share, **options)[1]]
        for share in (0.0, 0.2)
    ]
    assert norms[0] == pytest.approx([norms[0][0]] * 3, rel=1e-6)  # the order changes, no more
    assert min(abs(a - b) for a, b in zip(norms[1], norms[1][1:], strict=False)) > 1e-3


def test_dropout_is_refused_before_anything_is_trained():
    with pytest.raises(IncompatibleError, match="train this one with --dropout 0"):
        made(model=tiny.model(model_type="gemma2"), dropout=0.1)


def test_a_network_called_as_a_whole_is_trained_too():
    trainer, steps = trained(model=tiny.model(model_type="starcoder2"), epochs=20)
    assert trainer.missing_projections
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert {shape.prefix for shape in trainer.shapes} == {0}


@pytest.mark.parametrize("can", [False, True])
def test_a_step_is_compiled_where_there_is_a_compiler(monkeypatch, can):
    monkeypatch.setattr(runtime, "can_compile", lambda: can)
    monkeypatch.setattr(mx, "compile", lambda function: function)  # without waiting for it
    trainer = made(examples(4), compile=None)
    trainer.loss_and_gradients(range(4))
    assert (trainer.compilations > 0) == can


def taught_by(teacher, weight=1.0) -> Mixture:
    """Four rows of their own, and three of another's."""
    return Mixture(
        sources=(
            DataSource(size=4, per_epoch=4),
            DataSource(size=3, per_epoch=3, teacher=teacher, weight=weight),
        )
    )


@pytest.mark.parametrize("teacher", [BASE, MERGED])
def test_rows_with_a_teacher_are_in_micro_batches_before_those_of_labels(teacher):
    """The order is part of a run: dropout masks and sums depend on it."""
    mixture = taught_by(teacher)
    batches = dataclasses.replace(CONFIG, mixture=mixture, batch_size=4).batches(examples())
    parts = list(batches.micro_batches([6, 0, 4, 1, 5, 2, 3]))
    assert [sorted(part) for part in parts] == [[4, 5, 6], [0, 1, 2, 3]]


def test_the_base_teaches_before_the_merged_model():
    sources = (
        DataSource(size=4, per_epoch=4, teacher=MERGED),
        DataSource(size=3, per_epoch=3, teacher=BASE),
    )
    config = dataclasses.replace(CONFIG, mixture=Mixture(sources=sources), batch_size=4)
    parts = config.batches(examples()).micro_batches(range(7))
    assert [sorted(part) for part in parts] == [[4, 5, 6], [0, 1, 2, 3]]


@pytest.mark.parametrize("changes", [{}, {"model_type": "gemma2", "query_pre_attn_scalar": 8.0}])
def test_the_network_without_its_adapter_teaches_what_it_says(changes):
    """A fresh adapter changes nothing: no divergence. A trained one is drawn back."""
    rows, mixture = examples(), taught_by(MERGED)
    config = dataclasses.replace(CONFIG, mixture=mixture)
    trainer = Trainer(tiny.model(**changes), rows, config)
    loss, gradients, row_losses = trainer.loss_and_gradients([4, 5, 6])
    assert abs(float(np.array(loss))) < 1e-6
    assert max(np.abs(g).max() for g in arrays(gradients).values()) < 1e-5
    assert sorted(row_losses) == [4, 5, 6]
    list(trainer.steps())
    loss, gradients, _ = trainer.loss_and_gradients([4, 5, 6])
    assert float(np.array(loss)) > 1e-4
    assert max(np.abs(g).max() for g in arrays(gradients).values()) > 1e-5


def test_another_teacher_is_the_network_with_factors_of_its_own_and_its_weight_counts():
    rows, model = examples(), tiny.model()
    teacher = tiny.adapter_for(model, seed=5).factors
    losses = []
    for weight in (1.0, 4.0):
        config = dataclasses.replace(CONFIG, mixture=taught_by(BASE, weight))
        objective = Objective(teachers={BASE: teacher})
        trainer = Trainer(model, rows, config, objective=objective)
        losses.append(float(np.array(trainer.loss_and_gradients([4, 5, 6])[0])))
    assert losses[0] > 1e-3
    assert losses[1] == pytest.approx(4 * losses[0], rel=1e-5)


def test_the_loss_that_is_told_is_of_the_rows_that_teach_their_own():
    config = dataclasses.replace(
        CONFIG, mixture=taught_by(MERGED, 9.0), batch_size=4, epochs=1, grad_accumulation=2
    )
    trainer = Trainer(tiny.model(), examples(), config)
    (step,) = trainer.steps()
    assert step.loss == pytest.approx(score(tiny.model(), examples()[:4]).loss, rel=1e-5)


def test_a_penalty_adds_to_the_gradients_and_not_to_the_loss():
    def penalty(factors):
        return 0.5 * sum((a * a).sum() for a, _ in factors.values())

    plain = made()
    held = Trainer(tiny.model(), examples(), CONFIG, objective=Objective(penalty=penalty))
    one, two = (measured(trainer, range(4)) for trainer in (plain, held))
    assert one[0] == two[0]
    factors = arrays(plain.adapter().factors)
    for name, gradient in two[1].items():
        added = factors[name] if name.endswith("lora_a") else 0
        assert np.allclose(gradient, one[1][name] + added, atol=1e-6), name


def test_the_largest_token_loss_of_every_row_is_known_after_its_step():
    trainer = made(epochs=1)
    assert trainer.max_token_losses == [UNKNOWN_LOSS] * 7
    steps = trainer.steps()
    next(steps)
    trained = [i for i, nats in enumerate(trainer.max_token_losses) if nats != UNKNOWN_LOSS]
    assert len(trained) == 4
    # Of the model before its first update, which is the base's own.
    found = score(tiny.model(), examples()).max_token_losses
    assert [trainer.max_token_losses[i] for i in trained] == pytest.approx(
        [found[i] for i in trained], rel=1e-5
    )


def test_a_run_that_chooses_its_rows_resumes_to_the_same_bytes():
    mixture = Mixture(
        sources=(DataSource(size=3, per_epoch=3), DataSource(size=4, per_epoch=2, min_passes=1))
    )
    undisturbed, _ = trained(mixture=mixture, epochs=5)
    assert mixture.depends_on_losses
    for stop in (2, 5, 6, 9):
        first = made(mixture=mixture, epochs=5)
        for step in first.steps():
            if step.number == stop:
                break
        second = made(mixture=mixture, epochs=5)
        second.restore(first.checkpoint(), place="here")
        list(second.steps())
        assert second.checkpoint() == undisturbed.checkpoint()


# Two new rows, three old ones, two of them in two wordings; two steps an epoch.
WORDED = {
    "mixture": Mixture(
        sources=(
            DataSource(size=2, per_epoch=2, variants=(2, 1)),
            DataSource(size=3, per_epoch=2, variants=(1, 2, 1), min_passes=1),
        )
    ),
    "epochs": 6,
    "grad_accumulation": 1,
}


def test_a_run_of_rows_in_several_wordings_resumes_to_the_same_bytes_in_the_middle_of_an_epoch():
    undisturbed, steps = trained(**WORDED)
    assert len(steps) == undisturbed.planned_steps == 12
    for stop in (1, 3, 7, 8, 11):
        first = made(**WORDED)
        for step in first.steps():
            if step.number == stop:
                break
        second = made(**WORDED)
        second.restore(first.checkpoint(), place="here")
        list(second.steps())
        assert second.checkpoint() == undisturbed.checkpoint()


def test_an_epoch_trains_one_wording_of_a_row_and_tells_which():
    trainer = made(**WORDED)
    came = []
    for step in trainer.steps():
        if step.ends_epoch:
            came.append(sorted(trainer.epoch_examples()))
            seen = [i for i, nats in enumerate(trainer.max_token_losses) if nats != UNKNOWN_LOSS]
            assert set(seen) == set().union(*came)
    assert came[:2] == [[0, 2, 3, 5], [1, 2, 4, 6]]


# Two shapes: rows behind a prefix, and a text alone.
COMPILED = {**EVERYTHING, "batch_size": 4, "grad_accumulation": 2, "epochs": 2}


def needs_a_compiler(test):
    """Mark a test that waits half a minute for g++."""
    marked = pytest.mark.skipif(not runtime.can_compile(), reason="there is no g++")(test)
    return pytest.mark.slow(marked)


@pytest.fixture(scope="module")
def compiled():
    """One compiled run of everything, for all who look at one: (trainer, steps, checkpoints)."""
    trainer = made(MIXED, **COMPILED, compile=True)
    steps, checkpoints = [], []
    for step in trainer.steps():
        steps.append(step)
        checkpoints.append(trainer.checkpoint())
    return trainer, steps, checkpoints


@needs_a_compiler
def test_a_compiled_run_equals_an_eager_one(compiled):
    trainer, steps, _ = compiled
    eager, others = trained(MIXED, **COMPILED)
    for ours, theirs in zip(steps, others, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
    found = arrays(trainer.adapter().factors)
    for name, wanted in arrays(eager.adapter().factors).items():
        assert np.abs(found[name] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


@needs_a_compiler
def test_compiled_gradients_equal_eager_ones(compiled):
    trainer, _, (first, *_) = compiled
    eager = made(MIXED, **COMPILED)
    for one in (trainer, eager):
        one.restore(first, place="here")
    rows = range(len(MIXED))
    tiny.assert_same(measured(trainer, rows), measured(eager, rows))


@needs_a_compiler
def test_a_run_is_compiled_once_a_shape_and_no_more(compiled):
    trainer, _, (first, *_) = compiled
    distinct = set(trainer.shapes.values())
    assert len(distinct) == 2
    trainer.restore(first, place="here")
    list(trainer.steps())  # once more through the second epoch
    assert trainer.compilations == 2


@needs_a_compiler
def test_a_compiled_run_that_is_resumed_ends_with_the_same_bytes(compiled):
    _, steps, checkpoints = compiled
    second = made(MIXED, **COMPILED, compile=True)
    second.restore(checkpoints[0], place="here")
    assert [step.loss for step in second.steps()] == [step.loss for step in steps[1:]]
    assert second.checkpoint() == checkpoints[-1]
