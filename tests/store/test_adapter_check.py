import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from mlx_tune.errors import (
    DamagedStoreError,
    IncompatibleError,
    InputError,
    MlxTuneError,
    NotFiniteError,
)
from mlx_tune.files.safetensors import parse
from mlx_tune.store.adapter_check import Checked, check_adapter, check_finite

LAYER = "model.layers.0.mlp.up_proj"


def pair(path=LAYER, rank=2, in_dims=3, out_dims=5, dtype=np.float32) -> dict:
    return {
        f"{path}.lora_a": np.ones((in_dims, rank), dtype),
        f"{path}.lora_b": np.ones((rank, out_dims), dtype),
    }


def config(**parameters) -> bytes:
    return json.dumps({"lora_parameters": {"rank": 2, "scale": 2.0, **parameters}}).encode()


def refusal(kind: type[MlxTuneError], arrays: dict | bytes, text: bytes | None = None) -> str:
    weights = arrays if isinstance(arrays, bytes) else save(arrays)
    with pytest.raises(MlxTuneError) as error:
        check_adapter(weights, config() if text is None else text, "s")
    assert type(error.value) is kind
    return str(error.value)


def test_a_sound_adapter_gives_its_layers_rank_and_scale():
    arrays = {**pair("model.layers.1.self_attn.q_proj"), **pair()}
    assert check_adapter(save(arrays), config(scale=20), "s") == Checked(
        paths=(LAYER, "model.layers.1.self_attn.q_proj"), rank=2, scale=20.0
    )


def test_damaged_weights_are_damage():
    line = refusal(DamagedStoreError, save(pair())[:-1])
    assert line.startswith("s/adapters.safetensors: not a sound safetensors file: ")
    assert line.endswith("; run `mlx-tune doctor`")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_counted(value):
    arrays = pair()
    arrays[f"{LAYER}.lora_a"][1, 1] = value
    assert refusal(NotFiniteError, arrays) == (
        f's/adapters.safetensors: "{LAYER}.lora_a" holds numbers that are not finite, 1 of 6; '
        "train again with a lower --learning-rate"
    )
    arrays[f"{LAYER}.lora_b"][:] = value
    assert refusal(NotFiniteError, arrays) == (
        f's/adapters.safetensors: "{LAYER}.lora_a" holds numbers that are not finite, 1 of 6, '
        "and so on in 1 more; train again with a lower --learning-rate"
    )


@pytest.mark.parametrize(
    ("dtype", "packed"),
    [
        ("F64", lambda x: struct.pack("<d", x)),
        ("F32", lambda x: struct.pack("<f", x)),
        ("F16", lambda x: struct.pack("<e", x)),
        ("BF16", lambda x: struct.pack("<f", x)[2:]),
    ],
)
def test_every_float_type_is_looked_into(dtype, packed):
    def file(*numbers):
        data = b"".join(map(packed, numbers))
        entry = {"dtype": dtype, "shape": [len(numbers)], "data_offsets": [0, len(data)]}
        header = json.dumps({"w": entry}).encode()
        header += b" " * (len(header) % 2 + 1)  # its numbers may lie at any byte
        return len(header).to_bytes(8, "little") + header + data

    sound = file(0.0, -1.5, 3e4, -3e4, 6e-5)
    check_finite(sound, parse(sound, "x"), "x")
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        data = file(1.0, bad, 2.0, bad)
        with pytest.raises(InputError, match='x: "w" holds numbers that are not finite, 2 of 4'):
            check_finite(data, parse(data, "x"), "x")


def test_whole_numbers_are_not_taken_for_floats():
    data = save({"w": np.array([-1, 2**31 - 1], np.int32)})
    check_finite(data, parse(data, "x"), "x")


def test_an_adapter_of_another_type_is_refused():
    assert refusal(InputError, pair(dtype=np.float16)) == (
        f's/adapters.safetensors: "{LAYER}.lora_a" is F16; expected F32, float32'
    )


def test_a_factor_alone_nothing_at_all_and_strange_names_are_refused():
    arrays = pair()
    del arrays[f"{LAYER}.lora_b"]
    assert refusal(InputError, arrays) == (
        f's/adapters.safetensors: "{LAYER}.lora_a" stands alone; expected a pair'
    )
    assert refusal(InputError, {}) == (
        "s/adapters.safetensors: holds no factors; expected a lora_a and a lora_b of each layer"
    )
    for name in (f"{LAYER}.m", "lora_a", ".lora_a", "a\n.lora_a", "model.lora_A.weight"):
        shown = name.replace("\n", r"\n")
        assert refusal(InputError, {name: np.ones((1,), np.float32)}) == (
            f's/adapters.safetensors: "{shown}" is no lora_a or lora_b of a layer'
        )


def test_factors_of_another_rank_than_the_config_names_are_refused_the_first_three():
    arrays = {}
    for layer in range(4):
        arrays |= pair(f"l.{layer}.up", rank=2 if layer == 1 else 4)
    assert refusal(IncompatibleError, arrays) == (
        "s/adapters.safetensors: not of the rank 2 that adapter_config.json names; expected "
        "(in, 2), (2, out): l.0.up: (3, 4), (4, 5); l.2.up: (3, 4), (4, 5); "
        "l.3.up: (3, 4), (4, 5)"
    )


@pytest.mark.parametrize(
    ("lora_a", "lora_b"), [((3, 2), (5, 2)), ((3,), (2, 5)), ((3, 2, 1), (2, 5)), ((), ())]
)
def test_factors_that_do_not_multiply_are_refused(lora_a, lora_b):
    arrays = {"l.lora_a": np.ones(lora_a, np.float32), "l.lora_b": np.ones(lora_b, np.float32)}
    assert refusal(IncompatibleError, arrays) == (
        "s/adapters.safetensors: not of the rank 2 that adapter_config.json names; expected "
        f"(in, 2), (2, out): l: {lora_a}, {lora_b}"
    )


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 100_000]
)
def test_a_config_that_is_no_json_object_is_damage(text):
    message = refusal(DamagedStoreError, pair(), text)
    assert message.startswith("s/adapter_config.json: not ")
    assert message.endswith("; run `mlx-tune doctor`")
    assert "\n" not in message


@pytest.mark.parametrize("rank", [None, "2", 2.0, True, 0, -1, 2**31, 10**300, [2]])
def test_a_config_without_a_rank_is_damage(rank):
    assert refusal(DamagedStoreError, pair(), config(rank=rank)) == (
        's/adapter_config.json: "lora_parameters.rank" missing or malformed; expected a whole '
        "number from 1; run `mlx-tune doctor`"
    )


@pytest.mark.parametrize("scale", [None, "2", True, 1e39, -1e39, 10**300, [2.0]])
def test_a_config_without_a_scale_is_damage(scale):
    assert refusal(DamagedStoreError, pair(), config(scale=scale)) == (
        's/adapter_config.json: "lora_parameters.scale" missing or malformed; expected a number '
        "that float32 holds; run `mlx-tune doctor`"
    )


@pytest.mark.parametrize("text", [b"{}", b'{"lora_parameters": [2, 2.0]}', b'{"rank": 2}'])
def test_a_config_without_parameters_lacks_a_rank(text):
    assert '"lora_parameters.rank" missing' in refusal(DamagedStoreError, pair(), text)


def test_a_scale_that_overflows_is_damage():
    text = b'{"lora_parameters": {"rank": 2, "scale": 1e400}}'
    assert "1e400 is not a finite number" in refusal(DamagedStoreError, pair(), text)


def test_neither_check_needs_mlx():
    code = (
        "import sys; import mlx_tune.store.adapter_check as a; "
        "assert a; print([m for m in ('numpy', 'mlx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
