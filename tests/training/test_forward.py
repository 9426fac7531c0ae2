"""The walk through the layers against each network's own call."""

import importlib

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_tune.training.forward import can_share_prefix, can_walk, logits_at

# Networks that are walked, and two that are not: gemma2 scales its embeddings and caps its
# logits, phi3 merges its projections.
WALKED = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
}
CALLED = {
    "gemma2": {"query_pre_attn_scalar": 8.0},
    "phi3": {"rope_scaling": None, "original_max_position_embeddings": 512},
}


def network(name: str):
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(0)
    config = tiny.config(model_type=name, **{**WALKED, **CALLED}[name])
    model = module.Model(module.ModelArgs.from_dict(config))
    tiny.adapter_on(model, rank=2)
    model.eval()
    return model


TOKENS = mx.array(np.random.default_rng(0).integers(3, 250, (3, 20)), dtype=mx.int32)
NO_PREFIX = mx.array([], dtype=mx.int32)


def assert_close(found, wanted):
    assert np.abs(np.array(found) - np.array(wanted)).max() <= 1e-5 * np.abs(np.array(wanted)).max()


@pytest.mark.parametrize("name", [*WALKED, *CALLED])
def test_logits_are_the_networks_own(name):
    model = network(name)
    assert can_walk(model) == (name in WALKED)
    wanted = model(TOKENS).reshape(60, -1)
    positions = mx.array([0, 7, 19, 20, 58], dtype=mx.int32)
    assert_close(logits_at(model, NO_PREFIX, TOKENS, positions), wanted[positions])


@pytest.mark.parametrize("name", WALKED)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_prefix_computed_once_gives_the_logits_of_whole_rows(name, checkpoint):
    model = network(name)
    assert can_share_prefix(model)
    prefix = TOKENS[0, :9]
    whole = mx.concatenate([mx.broadcast_to(prefix[None], (3, 9)), TOKENS[:, 9:]], axis=1)
    wanted = model(whole)[:, 9:].reshape(33, -1)
    found = logits_at(model, prefix, TOKENS[:, 9:], mx.arange(33), checkpoint=checkpoint)
    assert_close(found, wanted)


@pytest.mark.parametrize("name", CALLED)
def test_a_network_that_is_called_as_a_whole_shares_no_prefix(name):
    assert not can_share_prefix(network(name))
