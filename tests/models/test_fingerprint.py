import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_tune.errors import DamagedStoreError
from mlx_tune.models.weights import fingerprint


@pytest.fixture
def folder(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


def test_a_copy_has_the_same_fingerprint(tiny_base, folder):
    assert fingerprint(folder, template="t") == fingerprint(tiny_base, template="t")


def test_the_number_of_shards_does_not_matter(folder):
    before = fingerprint(folder, template=None)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for i, part in enumerate((names[::2], names[1::2])):
        shard = {name: weights[name] for name in part}
        save_file(shard, folder / f"model-0000{i + 1}-of-00002.safetensors")
    assert fingerprint(folder, template=None) == before


def flip_a_weight(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_config(folder, name="config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retype(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({n: w.astype(np.float16) for n, w in weights.items()}, folder / "model.safetensors")


def edit_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    "change",
    [
        flip_a_weight,
        retype,
        edit_tokenizer,
        lambda f: change_config(f, rope_theta=5000.0),
        lambda f: change_config(f, name="tokenizer_config.json", eos_token="<|endoftext|>"),
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [1, 2]}'),
    ],
)
def test_what_changes_the_arithmetic_changes_the_fingerprint(folder, change):
    before = fingerprint(folder, template="t")
    change(folder)
    assert fingerprint(folder, template="t") != before


def test_another_template_is_another_base(folder):
    assert fingerprint(folder, template="a") != fingerprint(folder, template="b")


def test_cosmetic_config_fields_do_not_matter(folder):
    before = fingerprint(folder, template="t")
    change_config(folder, transformers_version="99", torch_dtype="bfloat16", use_cache=False)
    assert fingerprint(folder, template="t") == before


def test_bf16_weights_are_hashed_as_they_are_stored(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.01)):
        (tmp_path / name).mkdir()
        weights = {"w": mx.full((4,), value, dtype=mx.bfloat16)}
        mx.save_safetensors(str(tmp_path / name / "model.safetensors"), weights)
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    a, b, c = (fingerprint(tmp_path / name, template=None) for name in "abc")
    assert a == b != c


def test_a_file_that_is_no_safetensors_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DamagedStoreError) as error:
        fingerprint(folder, template=None)
    line = str(error.value)
    assert line.startswith(f"{folder}/model.safetensors: not a sound safetensors file: ")
    assert line.endswith("; fetch the folder again")


def test_a_tensor_in_two_files_is_refused(folder):
    (folder / "model-more.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(DamagedStoreError) as error:
        fingerprint(folder, template=None)
    assert str(error.value).startswith(f'{folder}/model.safetensors: tensor "model.')
    assert str(error.value).endswith(" is in model-more.safetensors too; fetch the folder again")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DamagedStoreError) as error:
        fingerprint(folder, template=None)
    assert str(error.value) == f"{folder}: no model*.safetensors; fetch the folder again"


def test_the_fingerprint_of_a_folder_written_by_hand_stays_what_it_was(tmp_path):
    """Every session names its base by this; a fingerprint that drifts would disown them all."""
    entry = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    header = json.dumps({"w": entry, "__metadata__": {"format": "mlx"}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(range(8))
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert fingerprint(tmp_path, template="t") == (
        "a22f0b8b9751836fa1465241e3029d56588324867bae02a23c86030cc4c6974a"
    )
