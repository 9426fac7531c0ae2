import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from helpers import tiny
from mlx_tune.continual import fidelity
from mlx_tune.continual.change import change_norms, weight_norms
from mlx_tune.continual.fidelity import UNMERGED, Fidelity, FidelityMeter, Survival
from mlx_tune.continual.fold import delta, fold
from mlx_tune.models.load import Quantisation


def counted(before, change, after=None) -> Survival:
    """Count one module by the public way."""
    meter = FidelityMeter()
    before, change = mx.array(before), mx.array(change)
    after = (before.astype(mx.float32) + change).astype(before.dtype) if after is None else after
    meter.add("module", before, change, mx.array(after))
    return meter.fidelity().whole


def measured(model, chain, **options) -> Fidelity:
    meter = FidelityMeter(**options)
    fold(model, chain, meter=meter)
    return meter.fidelity()


def test_the_sums_by_hand():
    found = counted([[3.0, 4.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 0.0]], [[4.0, 4.0], [3.0, 0.0]])
    # Made: 1, 0, 3, 0. Errors: 0, −2, 1, 0.
    assert found == Survival(
        numbers=4, meant=3, unmoved=1,
        base_squares=25.0, change_squares=9.0, error_squares=5.0, product=1.0 + 0.0 + 6.0,
    )  # fmt: skip
    assert found.relative == pytest.approx(3 / 5)
    assert found.error == pytest.approx(np.sqrt(5) / 3)
    assert found.survived == pytest.approx(1 - np.sqrt(5) / 3)
    assert found.lost == pytest.approx(1 / 3)
    assert found.along == pytest.approx(7 / 9)


def test_more_weights_than_a_block_are_all_counted(monkeypatch):
    monkeypatch.setattr(fidelity, "_BLOCK", 3)
    found = counted(mx.ones((4, 5)), mx.full((4, 5), 0.5), mx.ones((4, 5)))
    assert (found.numbers, found.meant, found.unmoved) == (20, 20, 20)
    assert (found.base_squares, found.change_squares, found.error_squares) == (20.0, 5.0, 5.0)
    assert found.product == 0.0


def test_rounding_to_bfloat16_by_hand():
    """Between 1 and 2 its steps are 1/128: a tenth of one is lost, nine tenths become a whole."""
    step = 1 / 128
    before = mx.array([[1.0, 1.0]], dtype=mx.bfloat16)
    found = counted(before, [[0.1 * step, 0.9 * step]])
    assert (found.meant, found.unmoved) == (2, 1)
    assert found.error == pytest.approx(np.sqrt(0.1**2 + 0.1**2) / np.sqrt(0.1**2 + 0.9**2))


@pytest.mark.parametrize(
    ("share", "error", "unmoved"),
    [(0.001, 0.78, 0.78), (0.003, 0.48, 0.49), (0.01, 0.17, 0.19), (0.03, 0.06, 0.07)],
)
def test_one_bfloat16_fold_keeps_what_was_measured_before(share, error, unmoved):
    """Normal weights and changes; within two and a half points of an earlier experiment's table.

    It was one on a real model, and the shares depend a little on where in its powers of two a
    model's weights lie.
    """
    keys = mx.random.split(mx.random.key(0), 2)
    before = (0.02 * mx.random.normal((512, 1024), key=keys[0])).astype(mx.bfloat16)
    found = counted(before, share * 0.02 * mx.random.normal((512, 1024), key=keys[1]))
    assert found.relative == pytest.approx(share, rel=0.01)
    assert found.error == pytest.approx(error, abs=0.025)
    assert found.lost == pytest.approx(unmoved, abs=0.025)
    assert found.survived == 1 - found.error


@given(st.sampled_from([1e-3, 3e-3, 1e-2, 3e-2, 0.1]), st.integers(0, 10))
def test_counting_equals_numpy_on_the_same_bits(share, seed):
    keys = mx.random.split(mx.random.key(seed), 2)
    before = mx.random.normal((8, 24), key=keys[0]).astype(mx.bfloat16)
    change = share * mx.random.normal((8, 24), key=keys[1])
    after = (before.astype(mx.float32) + change).astype(mx.bfloat16)
    w0, w, d = (np.array(x.astype(mx.float32), np.float64) for x in (before, after, change))
    found = counted(before, change)
    assert found.error == pytest.approx(np.linalg.norm(w - w0 - d) / np.linalg.norm(d), rel=1e-5)
    assert found.relative == pytest.approx(np.linalg.norm(d) / np.linalg.norm(w0), rel=1e-5)
    assert found.along == pytest.approx((w - w0).ravel() @ d.ravel() / (d**2).sum(), rel=1e-5)
    assert found.lost == np.mean(w == w0)


def test_a_float32_base_keeps_all_but_float32s_own_rounding():
    chain = [tiny.adapter_for(tiny.model(), seed=seed, size=0.02) for seed in (1, 2, 3)]
    found = measured(tiny.model(), chain)
    assert found.stored == ("float32",)
    assert 0 < found.whole.error < 1e-4
    assert found.whole.along == pytest.approx(1, abs=1e-5)


def stored_in_16_bits():
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    return model


def test_a_fold_is_the_same_to_the_bit_whether_it_is_counted_or_not():
    chain = [tiny.adapter_for(tiny.model(), seed=seed, size=0.02) for seed in (1, 2, 3)]
    plain, watched = stored_in_16_bits(), stored_in_16_bits()
    fold(plain, chain)
    measured(watched, chain)
    for (name, a), (_, b) in zip(
        tree_flatten(plain.parameters()), tree_flatten(watched.parameters()), strict=True
    ):
        assert mx.array_equal(a, b).item(), name


def test_a_chain_on_a_bfloat16_base_is_counted_against_its_float32_sum():
    chain = [tiny.adapter_for(tiny.model(), seed=seed, size=0.02) for seed in (1, 2, 3)]
    model = stored_in_16_bits()
    found = measured(model, chain)
    assert found.modules.keys() == chain[0].factors.keys()
    folded, base = dict(model.named_modules()), dict(stored_in_16_bits().named_modules())
    norms = change_norms([], chain)
    own = weight_norms(stored_in_16_bits(), list(norms))
    for path, (stored, kept) in found.modules.items():
        w0, w = (np.array(m[path].weight.astype(mx.float32)) for m in (base, folded))
        d = sum(np.array(delta(*a.factors[path], a.scale)) for a in chain)
        assert stored == "bfloat16"
        assert kept.error == pytest.approx(np.linalg.norm(w - w0 - d) / np.linalg.norm(d), rel=1e-4)
        assert kept.change_squares == pytest.approx(norms[path] ** 2, rel=1e-4)
        assert kept.base_squares == pytest.approx(own[path] ** 2, rel=1e-4)
        assert 0.001 < kept.error < 0.5


def test_layers_are_the_sums_of_their_modules_in_order():
    chain = [tiny.adapter_for(tiny.model(num_hidden_layers=11))]
    found = measured(tiny.model(num_hidden_layers=11), chain)
    layers = found.layers()
    assert list(layers) == [f"model.layers.{i}" for i in range(11)]
    second = [k for path, (_, k) in found.modules.items() if path.startswith("model.layers.1.")]
    assert layers["model.layers.1"].error_squares == pytest.approx(
        sum(kept.error_squares for kept in second)
    )
    assert len(second) == 7
    assert sum(layer.numbers for layer in layers.values()) == found.whole.numbers


def test_a_chain_beside_quantised_weights_is_kept_apart_and_whole():
    def four_bits():
        model = tiny.model()
        nn.quantize(model, group_size=32, bits=4)
        return model

    chain = [tiny.adapter_for(tiny.model(), seed=seed) for seed in (1, 2)]
    found = measured(four_bits(), chain)
    whole = found.whole
    assert found.stored == (UNMERGED,)
    assert (whole.error, whole.lost, whole.along) == (0.0, 0.0, 1.0)
    path = "model.layers.1.mlp.down_proj"
    layer = dict(four_bits().named_modules())[path]
    stands_for = mx.dequantize(layer.weight, layer.scales, layer.biases, 32, 4)
    kept = found.modules[path][1]
    assert kept.base_squares == pytest.approx(float(mx.sum(stands_for**2).item()), rel=1e-5)
    assert kept.change_squares == pytest.approx(change_norms([], chain)[path] ** 2, rel=1e-4)


def test_requantising_a_quantised_base_loses_nearly_all_of_a_small_change():
    """Its weights lie on the grid already, and a change smaller than half a step stays there."""
    form = Quantisation(bits=4, group_size=32)
    keys = mx.random.split(mx.random.key(1), 2)
    grid = mx.random.normal((64, 512), key=keys[0]).astype(mx.bfloat16)
    before = mx.dequantize(*mx.quantize(grid, 32, 4), 32, 4)
    change = 0.002 * mx.random.normal((64, 512), key=keys[1])
    meter = FidelityMeter(form.store, stored_as="4 bits")
    meter.add("m", before, change, (before + change).astype(mx.bfloat16))
    found = meter.fidelity()
    assert found.stored == ("4 bits",)
    assert found.whole.along < 0.2
    assert found.whole.lost > 0.98
    assert found.whole.survived == 0  # what little moves, moves by whole steps
    assert found.whole.change_squares == pytest.approx(float(mx.sum(change**2).item()), rel=1e-5)


def test_what_a_record_keeps_has_four_digits_and_the_layers():
    found = measured(stored_in_16_bits(), [tiny.adapter_for(tiny.model(), size=0.02)])
    record = found.to_json()
    assert list(record) == ["stored", "relative", "error", "lost", "along", "layers"]
    assert record["stored"] == ["bfloat16"]
    assert record["error"] == pytest.approx(found.whole.error, rel=1e-3)
    assert len(f"{record['error']:.10g}".lstrip("0.")) <= 4
    layer = record["layers"]["model.layers.1"]
    assert layer["relative"] == pytest.approx(found.layers()["model.layers.1"].relative, rel=1e-3)


def test_the_bare_base_and_a_change_of_nothing_have_no_fidelity_to_speak_of():
    nothing = measured(tiny.model(), [])
    assert nothing.whole == Survival()
    assert nothing.to_json() == {
        "stored": [], "relative": 0.0, "error": 0.0, "lost": 0.0, "along": 0.0, "layers": {},
    }  # fmt: skip
    still = counted([[1.0, 2.0]], [[0.0, 0.0]])
    assert (still.meant, still.unmoved, still.error, still.lost) == (0, 0, 0.0, 0.0)


def test_a_concatenated_chain_of_three_equals_the_unrounded_fold():
    """Beside the weights or inside them, in float32: within 1e-4 of the largest logit."""
    chain = [
        tiny.adapter_for(tiny.model(), seed=seed, rank=rank)
        for seed, rank in ((1, 4), (2, 2), (3, 8))
    ]
    beside = tiny.model()
    nn.quantize(beside, group_size=32, bits=8)
    inside = tiny.model()
    for path, module in inside.named_modules():
        if hasattr(module, "to_quantized"):
            packed = dict(beside.named_modules())[path]
            module.weight = mx.dequantize(packed.weight, packed.scales, packed.biases, 32, 8)
    fold(beside, chain)
    fold(inside, chain, rounded=False)
    tokens = mx.array([[7, 8, 9, 10, 11]])
    wanted = np.array(inside(tokens))
    assert np.abs(np.array(beside(tokens)) - wanted).max() <= 1e-4 * np.abs(wanted).max()
