"""A 4-bit base: its chain stays beside the weights, exactly, and fuses to 16 bits."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load

from helpers import tiny
from helpers.training_lab import LogitsRecorder, facts
from mlx_tune.models import bases, runtime
from mlx_tune.workflows.fuse import fuse
from mlx_tune.workflows.workspace import load_beside, load_folded

TOKENS = mx.array([[40, 50, 60, 70]])


@pytest.fixture
def quantised(lab, tmp_path):
    """The lab on a 4-bit base."""
    lab.base = tiny.base_folder(tmp_path / "four-bit", bits=4)
    return lab


def test_three_sessions_on_a_four_bit_base(quantised, tmp_path):
    chain = []
    for subject in ("cs", "housing", "dining"):
        observer = LogitsRecorder(TOKENS)
        data = quantised.data(subject, facts(subject))
        chain.append(quantised.train(data, observer=observer, learning_rate=0.02).session)
        folded = load_folded(bases.locate(str(quantised.base)), chain)
        found = np.array(folded.model(TOKENS).astype(mx.float32))
        assert np.abs(found - observer.logits).max() <= 1e-4 * np.abs(observer.logits).max()
    out = tmp_path / "fused"
    fuse(quantised.store, out=out, session=None, base=None, say=lambda _: None)
    assert "quantization" not in json.loads((out / "config.json").read_text())
    theirs = np.array(mlx_lm_load(str(out))[0](TOKENS).astype(mx.float32))
    assert np.abs(theirs - found).max() <= 1e-3 * np.abs(found).max()


def test_the_chain_beside_quantised_weights_is_of_the_type_a_gpu_computes_in(
    quantised, monkeypatch
):
    tiny.base_folder(quantised.base, bits=4, dtype=mx.bfloat16)
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    chain = [
        quantised.train(quantised.data(name, facts(name)), rank=16).session
        for name in ("cs", "housing", "dining")
    ]
    folded = load_folded(bases.locate(str(quantised.base)), chain)
    layer = folded.model.model.layers[0].mlp.up_proj
    assert layer._chain_a.dtype == layer._chain_b.dtype == mx.bfloat16
    assert folded.model.model.norm.weight.dtype == mx.bfloat16  # however long the chain


def test_sessions_beside_one_four_bit_base_are_what_each_is_by_itself(quantised):
    info = bases.locate(str(quantised.base))
    chain = []
    for subject in ("cs", "housing"):
        data = quantised.data(subject, facts(subject))
        chain.append(quantised.train(data, learning_rate=0.02).session)
    base = load_folded(info, ()).model
    before = np.array(base(TOKENS))
    beside = [load_beside(base, info, chain[:length]) for length in (1, 2)]
    for length, model in enumerate(beside, start=1):
        wanted = np.array(load_folded(info, chain[:length]).model(TOKENS))
        assert np.abs(np.array(model(TOKENS)) - wanted).max() <= 1e-4 * np.abs(wanted).max()
        assert np.abs(wanted - before).max() > 1e-2 * np.abs(before).max()
    assert np.array_equal(np.array(base(TOKENS)), before)
