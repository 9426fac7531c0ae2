"""Our loss and gradients against Hugging Face transformers + PEFT; see tests/golden/."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from safetensors import safe_open

from helpers import tiny
from mlx_tune.data.tokenise import Example
from mlx_tune.training.adapter import unflatten_factors
from mlx_tune.training.batches import Batches, collate, shared_prefix
from mlx_tune.training.generic import GenericForward, network
from mlx_tune.training.mixture import Mixture

GOLDEN = Path(__file__).parents[1] / "golden" / "lora_reference.safetensors"
TOLERANCE = 1e-4  # measured: 2e-6


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
        return arrays, json.loads(file.metadata()["config"])


def part(arrays, prefix):
    return {n.removeprefix(prefix): mx.array(v) for n, v in arrays.items() if n.startswith(prefix)}


@pytest.fixture
def model(golden):
    arrays, config = golden
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.load_weights(list(part(arrays, "base.").items()))
    model.freeze()
    return model


@pytest.fixture
def factors(golden):
    arrays = part(golden[0], "adapter.")
    return unflatten_factors(arrays, {name.rpartition(".")[0] for name in arrays})


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


def assert_loss_and_gradients(golden, examples, called, factors, *, size=5, prefix=0):
    """Sum micro-batches and divide by what is taught, as a step does."""
    arrays, _ = golden
    shared = examples[0].tokens[:prefix]
    all_of = Batches(
        examples=examples, epochs=1, batch_size=size, effective_batch=5, seed=0, prefix=shared,
        mixture=Mixture.of_all(len(examples)),
    )  # fmt: skip
    parts = all_of.micro_batches(range(len(examples)))
    batches = [collate(all_of.rows(part), shared) for part in parts]
    share = 1 / sum(sum(example.supervised) for example in examples)

    def loss(factors):
        return share * sum(called.loss(factors, batch)[0] for batch in batches)

    found, gradients = tiny.measured(loss, factors)
    assert found == pytest.approx(arrays["loss"][0], rel=TOLERANCE)
    wanted = part(arrays, "grad.")
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        expected = np.array(gradient)
        difference = np.linalg.norm(gradients[name] - expected)
        assert difference <= TOLERANCE * np.linalg.norm(expected), name


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("prefix", [0, 6])
@pytest.mark.parametrize("checkpoint_layers", [0, 1, 2])
@pytest.mark.parametrize("loss_chunk", [None, 3])
def test_loss_and_every_lora_gradient_equal_those_of_peft(
    golden, model, factors, examples, size, prefix, checkpoint_layers, loss_chunk
):
    called = network(
        model,
        scale=golden[1]["scale"],
        checkpoint_layers=checkpoint_layers,
        loss_chunk=loss_chunk,
    )
    assert_loss_and_gradients(golden, examples, called, factors, size=size, prefix=prefix)


def test_a_network_called_as_a_whole_equals_peft_too(golden, model, factors, examples):
    called = GenericForward(model, scale=golden[1]["scale"])
    assert_loss_and_gradients(golden, examples, called, factors)


def test_logits_equal_those_of_transformers(golden, model, factors, examples):
    arrays, config = golden
    tokens = examples[0].tokens
    row = tiny.example(*tokens, 0, taught=len(tokens))  # one more, so that the last is an input
    found = np.array(network(model, scale=config["scale"]).logits(factors, collate([row], ())))
    assert np.allclose(found, arrays["logits.row0"], rtol=TOLERANCE, atol=1e-4)


def test_the_rows_share_a_prefix_that_the_rule_would_not_use(examples):
    assert len({e.tokens[:6] for e in examples}) == 1
    assert shared_prefix(examples) == ()  # six tokens do not pay
