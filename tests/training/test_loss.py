import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_tune.data.tokenise import Example
from mlx_tune.training.adapter import attach
from mlx_tune.training.batches import collate, micro_batches
from mlx_tune.training.loss import cross_entropy, loss_and_gradients

NO_PREFIX = mx.array([], dtype=mx.int32)


def rows(count: int = 8, prefix: int = 10) -> list[Example]:
    """Rows of different lengths that begin alike; one of them has two supervised spans."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        length = 14 + 3 * i
        tokens = [*range(prefix), *random.integers(3, 250, length - prefix).tolist()]
        flags = [t >= length - 2 - i % 4 for t in range(length)]
        if i == 3:
            flags[12] = True
        made.append(Example(tokens=tuple(tokens), supervised=tuple(flags)))
    return made


@pytest.fixture
def adapted():
    """A model whose adapter is not zero, so that every factor has a gradient."""
    model = tiny.model()
    tiny.adapter_on(model)
    model.train()
    return model


def measured(model, batches, prefix=NO_PREFIX, **options):
    loss, gradients = loss_and_gradients(model, list(batches), prefix, **options)
    return float(np.array(loss)), {k: np.array(v) for k, v in tree_flatten(gradients)}


def assert_same(a, b, tolerance=1e-5):
    assert a[0] == pytest.approx(b[0], rel=tolerance)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        scale = np.abs(b[1][name]).max()
        assert scale > 0, name
        assert np.abs(a[1][name] - b[1][name]).max() <= tolerance * scale, name


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_cut_into_micro_batches_does_not_change_loss_or_gradients(adapted, size):
    whole = measured(adapted, micro_batches(rows(), size=8, prefix_tokens=0))
    assert_same(measured(adapted, micro_batches(rows(), size=size, prefix_tokens=0)), whole)


def test_padding_does_not_change_the_loss(adapted):
    short, long = rows()[0], rows()[-1]
    alone = measured(adapted, [collate([short], 0), collate([long], 0)])
    assert_same(measured(adapted, [collate([short, long], 0)]), alone)


def test_the_order_of_rows_does_not_change_the_loss(adapted):
    forward = measured(adapted, [collate(rows(), 0)])
    assert_same(measured(adapted, [collate(rows()[::-1], 0)]), forward)


def test_the_shared_prefix_equals_the_plain_pass(adapted):
    plain = measured(adapted, [collate(rows(), 0)])
    prefix = mx.arange(10, dtype=mx.int32)
    assert_same(measured(adapted, [collate(rows(), 10)], prefix), plain)


@pytest.mark.parametrize("prefix", [0, 10])
def test_checkpointed_layers_equal_kept_ones(adapted, prefix):
    shared = mx.arange(prefix, dtype=mx.int32)
    kept = measured(adapted, [collate(rows(), prefix)], shared)
    assert_same(measured(adapted, [collate(rows(), prefix)], shared, checkpoint=True), kept)


def test_checkpointing_does_not_outlive_the_step(adapted):
    layer = type(adapted.model.layers[0])
    before = layer.__call__
    measured(adapted, [collate(rows(), 0)], checkpoint=True)
    assert layer.__call__ is before


def test_the_loss_is_the_mean_over_supervised_tokens_of_the_naive_one(adapted):
    total = count = 0
    for row in rows():
        logits = adapted(mx.array([row.tokens[:-1]]))[0].astype(mx.float32)
        probabilities = np.array(mx.softmax(logits, axis=-1))
        for t in np.flatnonzero(row.supervised):
            total -= np.log(probabilities[t - 1, row.tokens[t]])
            count += 1
    loss, _ = measured(adapted, micro_batches(rows(), size=3, prefix_tokens=0))
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_cross_entropy_by_hand():
    logits = mx.log(mx.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    found = np.array(cross_entropy(logits, mx.array([1, 2])))
    assert found == pytest.approx([np.log(4), -np.log(0.8)], rel=1e-5)


def test_a_head_of_its_own_is_used(adapted):
    model = tiny.model(tie_word_embeddings=False)
    attach(model, rank=2, scale=2.0, seed=0)
    row = rows(1)[0]
    loss, _ = loss_and_gradients(model, [collate([row], 0)], NO_PREFIX)
    logits = model(mx.array([row.tokens[:-1]]))[0]
    wanted = [
        float(np.array(cross_entropy(logits[t - 1 : t], mx.array([row.tokens[t]])))[0])
        for t in np.flatnonzero(row.supervised)
    ]
    assert float(np.array(loss)) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_sliding_window_layers_keep_their_window_and_share_no_prefix():
    from mlx_tune.training.forward import can_share_prefix, logits_at

    model = tiny.model(layer_types=["sliding_attention", "full_attention"], sliding_window=4)
    assert not can_share_prefix(model)
    tokens = mx.array([rows()[4].tokens])
    positions = mx.arange(tokens.size)
    found = logits_at(model, NO_PREFIX, tokens, positions)
    assert np.allclose(np.array(found), np.array(model(tokens)[0]), atol=1e-5)
