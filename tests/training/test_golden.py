"""Our loss and gradients against Hugging Face transformers + PEFT; see tests/golden/."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from safetensors import safe_open

from mlx_tune.data.tokenise import Example
from mlx_tune.training.adapter import attach
from mlx_tune.training.batches import micro_batches, shared_prefix
from mlx_tune.training.forward import logits_at
from mlx_tune.training.loss import loss_and_gradients

GOLDEN = Path(__file__).parents[1] / "golden" / "lora_reference.safetensors"
TOLERANCE = 1e-4  # measured: 3e-6


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
        return arrays, json.loads(file.metadata()["config"])


def part(arrays, prefix):
    return {n.removeprefix(prefix): mx.array(v) for n, v in arrays.items() if n.startswith(prefix)}


@pytest.fixture
def adapted(golden):
    arrays, config = golden
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.load_weights(list(part(arrays, "base.").items()))
    attach(model, rank=config["rank"], scale=config["scale"], seed=0)
    model.load_weights(list(part(arrays, "adapter.").items()), strict=False)
    model.train()
    return model


@pytest.fixture
def examples(golden):
    arrays, _ = golden
    return [
        Example(
            tokens=tuple(tokens[:length].tolist()),
            supervised=tuple(bool(flag) for flag in flags[:length]),
        )
        for tokens, flags, length in zip(
            arrays["batch.tokens"], arrays["batch.supervised"], arrays["batch.lengths"], strict=True
        )
    ]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("prefix_tokens", [0, 6])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_loss_and_every_lora_gradient_equal_those_of_peft(
    golden, adapted, examples, size, prefix_tokens, checkpoint
):
    arrays, _ = golden
    batches = list(micro_batches(examples, size=size, prefix_tokens=prefix_tokens))
    prefix = mx.array(examples[0].tokens[:prefix_tokens], dtype=mx.int32)
    loss, gradients = loss_and_gradients(adapted, batches, prefix, checkpoint=checkpoint)
    assert float(np.array(loss)) == pytest.approx(arrays["loss"][0], rel=TOLERANCE)
    found, wanted = dict(tree_flatten(gradients)), part(arrays, "grad.")
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        expected = np.array(gradient)
        difference = np.linalg.norm(np.array(found[name]) - expected)
        assert difference <= TOLERANCE * np.linalg.norm(expected), name


def test_logits_equal_those_of_transformers(golden, adapted, examples):
    tokens = mx.array([examples[0].tokens])
    found = logits_at(adapted, mx.array([], dtype=mx.int32), tokens, mx.arange(tokens.size))
    assert np.allclose(np.array(found), golden[0]["logits.row0"], rtol=TOLERANCE, atol=1e-4)


def test_the_rows_share_a_prefix_that_the_rule_would_not_use(examples):
    assert len({e.tokens[:6] for e in examples}) == 1
    assert shared_prefix(examples) == 0  # six tokens do not pay
