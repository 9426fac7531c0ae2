"""Sessions beside a base whose arrays they share: the same models as folded, at little memory."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_tune.models import bases
from mlx_tune.store.snapshot import read_snapshot
from mlx_tune.workflows.workspace import load_beside, load_folded

TOKENS = mx.array([[40, 50, 60, 70, 80]])


@pytest.fixture(scope="module")
def there(fork):
    """The base in memory, and the chain of each session."""
    store, info = read_snapshot(fork.store), bases.locate(str(fork.base))
    chains = {name: store.chain(store.find(name)) for name in ("cs", "housing", "dining")}
    return info, load_folded(info, ()).model, chains


def logits(model):
    return np.array(model(TOKENS))


def test_a_session_beside_the_base_is_its_fold_and_the_base_stays_as_it_was(there):
    info, base, chains = there
    before = logits(base)
    beside = {name: load_beside(base, info, chain) for name, chain in chains.items()}
    for name, chain in chains.items():
        wanted = logits(load_folded(info, chain).model)
        assert np.abs(logits(beside[name]) - wanted).max() < 1e-4 * np.abs(wanted).max()
        assert np.abs(wanted - before).max() > 0.1, "the session changes hardly anything"
    assert np.array_equal(logits(base), before)
    assert np.array_equal(logits(load_beside(base, info, ())), before)


def test_the_bases_arrays_are_shared(there):
    info, base, chains = there
    mx.clear_cache()
    before = mx.get_active_memory()
    model = load_beside(base, info, chains["housing"])
    model(TOKENS)
    mx.clear_cache()
    grown = mx.get_active_memory() - before
    own = sum(array.nbytes for _, array in tree_flatten(base.parameters()))
    factors = sum(
        layer._chain_a.nbytes + layer._chain_b.nbytes
        for _, layer in model.named_modules()
        if hasattr(layer, "_chain_a")
    )
    assert factors > 0
    assert grown < factors + own / 4
