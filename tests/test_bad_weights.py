"""Weights that were damaged, and sessions resealed around the damage, at the command line.

A session's manifest is made to agree with the damage, so that only reading the weights finds it.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment
from mlx_tune.files.sealed import manifest, sha256
from mlx_tune.store.session import MANIFEST, folder_name, read_session
from mlx_tune.store.store import write_head

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
Q = "model.layers.0.mlp.down_proj"
READERS = pytest.mark.parametrize(
    "words",
    [
        ("train", "two.json", "--epochs", 1),
        ("chat", "-p", "Hi"),
        ("eval",),
        ("fuse", "--out", "fused"),
    ],
)
"""The commands that read a session's weights, and those of the base."""


@dataclass
class Bad:
    """A store with one session on a tiny base, to be damaged and then used."""

    root: Path
    base: Path
    command: Callable

    @property
    def session(self) -> Path:
        (folder,) = (self.root / "s" / "sessions").iterdir()
        return folder

    def reseal(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change a file of the session, and everything that vouches for it."""
        old = read_session(self.session)
        files = {name: old.read(name) for name in old.hashes}
        files[name] = change(files[name])
        sealed = {name: files[name], MANIFEST: manifest(files)}
        for changed, data in sealed.items():
            (old.path / changed).write_bytes(data)
        identity = sha256(sealed[MANIFEST])
        old.path.rename(old.path.with_name(folder_name(old.number, old.name, identity)))
        write_head(self.root / "s", identity)

    def kept(self) -> dict[str, bytes]:
        store = self.root / "s"
        files = [store / "HEAD", *sorted(self.session.iterdir())]
        return {str(path): path.read_bytes() for path in files}

    def __call__(self, *words: object) -> tuple[int, str]:
        """Run a command; give its exit code and its error, HEAD and the session being as before."""
        before = self.kept()
        code, _, errors = self.command(*words, "--store", "s")
        assert self.kept() == before
        assert "Traceback" not in errors
        return code, next((x for x in errors.splitlines() if x.startswith("error: ")), "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base):
    """A store with one session, trained once."""
    with isolated_environment(tmp_path_factory.getbasetemp()):
        made = TrainingLab(root=tmp_path_factory.mktemp("trained"), base=tiny_base)
        made.train(made.data("one", {"One?": "One."}), epochs=1)
    return made.store


@pytest.fixture
def bad(tmp_path, tiny_base, trained, monkeypatch, mlx_tune_command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "s", symlinks=True)
    (tmp_path / "two.json").write_text('[{"instruction": "Two?", "response": "Two."}]')
    base = shutil.copytree(tiny_base, tmp_path / "base")
    return Bad(root=tmp_path, base=base, command=mlx_tune_command)


def reheaded(change: Callable[[dict], None], data: Callable[[bytes], bytes] = bytes):
    """Damage to a file's header, as JSON of the same length, and to the bytes behind it."""

    def damage(file: bytes) -> bytes:
        end = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:end])
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
        return len(text).to_bytes(8, "little") + text + data(file[end:])

    return damage


def in_order(header: dict) -> list[tuple[str, dict]]:
    header.pop("__metadata__", None)
    return sorted(header.items(), key=lambda item: item[1]["data_offsets"])


def overlapping(header: dict) -> None:
    entries = in_order(header)
    for (_, one), (_, other) in pairwise(entries):
        if one["shape"] == other["shape"]:
            other["data_offsets"] = one["data_offsets"]
            return
    raise AssertionError("no two tensors of one shape beside each other")


def with_a_hole(header: dict) -> None:
    for _, entry in in_order(header)[1:]:
        entry["data_offsets"] = [x + 8 for x in entry["data_offsets"]]


def oversized(header: dict) -> None:
    in_order(header)[0][1]["shape"] = [2**31 - 1] * 4


def given_twice(file: bytes) -> bytes:
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    name, entry = in_order(dict(header))[0]
    text = file[8:end].rstrip()[:-1] + f",{json.dumps(name)}:{json.dumps(entry)}}}".encode()
    return len(text).to_bytes(8, "little") + text + file[end:]


DAMAGE = {
    "truncated": lambda file: file[:-3],
    "a header that lies": lambda file: b"\xff" * 8 + file[8:],
    "overlapping": reheaded(overlapping),
    "a hole": reheaded(with_a_hole, lambda data: bytes(8) + data),
    "trailing bytes": lambda file: file + b"\0" * 5,
    "duplicate": given_twice,
    "oversized": reheaded(oversized),
    "nothing": lambda file: b"",
}
UNSOUND = "not a sound safetensors file: "
SAID = dict.fromkeys(DAMAGE, UNSOUND) | {"duplicate": f"{UNSOUND}duplicate key "}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_weights_of_a_session_are_refused_and_the_way_back_is_named(bad, kind):
    bad.reseal(WEIGHTS, DAMAGE[kind])
    code, error = bad("chat", "-p", "Hi")
    assert code == 4
    place = bad.session.relative_to(bad.root) / WEIGHTS
    assert error.startswith(f"error: {place}: ")
    assert SAID[kind] in error
    assert error.endswith("doctor`; go back to base with `mlx-tune rollback --to base --store s`")


@READERS
def test_every_command_that_reads_a_sessions_weights_refuses_damaged_ones(bad, words):
    bad.reseal(WEIGHTS, DAMAGE["a hole"])
    code, error = bad(*words)
    assert code == 4
    assert SAID["a hole"] in error
    assert not (bad.root / "fused").exists()


def test_mlx_loads_most_of_the_damage_that_is_refused(bad):
    """The control: were the check left out, most of this damage would be loaded."""
    file = (bad.session / WEIGHTS).read_bytes()
    for kind in ("overlapping", "a hole", "trailing bytes", "duplicate"):
        (bad.root / "x.safetensors").write_bytes(DAMAGE[kind](file))
        mx.eval(mx.load(str(bad.root / "x.safetensors")))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_weights_of_a_base_model_are_refused(bad, kind):
    path = bad.base / "model.safetensors"
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    code, error = bad("chat", "-p", "Hi", "--base", "base")
    assert code == 4
    assert error.startswith(f"error: {path}: ")
    assert SAID[kind] in error
    assert error.endswith("; fetch the folder again")


@READERS
def test_damage_to_a_base_is_found_though_size_and_time_are_unchanged(bad, words):
    assert bad.command("base", "show", "base")[0] == 0  # its fingerprint is taken, and recorded
    path = bad.base / "model.safetensors"
    before = path.stat()
    path.write_bytes(DAMAGE["overlapping"](path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    mx.eval(mx.load(str(path)))  # the control: MLX takes it
    code, error = bad(*words, "--base", "base")
    assert code == 4
    assert error.startswith(f"error: {path}: ")
    assert SAID["overlapping"] in error
    assert error.endswith("; fetch the folder again")
    assert not (bad.root / "fused").exists()


def changed(change: Callable[[dict], dict]) -> Callable[[bytes], bytes]:
    """A sound file of other arrays."""
    return lambda file: save(change(load(file)))


def with_value(value: float) -> Callable[[dict], dict]:
    def change(arrays):
        arrays = {name: array.copy() for name, array in arrays.items()}
        arrays[f"{Q}.lora_b"][0, 0] = value
        return arrays

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad, value):
    bad.reseal(WEIGHTS, changed(with_value(value)))
    code, error = bad("chat", "-p", "Hi")
    assert code == 3
    assert error == (
        f'error: {bad.session.relative_to(bad.root)}/{WEIGHTS}: "{Q}.lora_b" holds numbers that '
        "are not finite, 1 of 128; train again with a lower --learning-rate"
    )


def test_a_loss_that_diverges_is_never_promoted_and_the_last_checkpoint_stays(bad, monkeypatch):
    from mlx_tune.training.loop import Trainer

    compute = Trainer.loss_and_gradients

    def diverge(self, rows):
        loss, gradients, row_losses = compute(self, rows)
        return (mx.array(float("nan")) if self.steps_done == 2 else loss), gradients, row_losses

    monkeypatch.setattr(Trainer, "loss_and_gradients", diverge)
    (bad.root / "more.json").write_text(json.dumps([{"instruction": "Who?", "response": "I."}]))
    code, error = bad("train", "more.json", "--epochs", 4, "--rank", 2)
    assert code == 3
    assert error == (
        "error: step 3: the loss is no longer finite, so training stopped before the update; "
        "lower --learning-rate and train again"
    )
    (run,) = (bad.root / "s" / "runs").glob("*-more")
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-000001", "step-000002"]
    assert json.loads((run / "run.json").read_text())["phase"] == "failed"


def turned(arrays: dict) -> dict:
    return {name: np.ascontiguousarray(array.T) for name, array in arrays.items()}


def for_a_wider_base(arrays: dict) -> dict:
    adapter = tiny.adapter_for(tiny.model(hidden_size=48, num_attention_heads=6))
    return load(adapter.files(num_layers=2)[WEIGHTS])


def for_a_deeper_base(arrays: dict) -> dict:
    adapter = tiny.adapter_for(tiny.model(num_hidden_layers=3))
    return load(adapter.files(num_layers=3)[WEIGHTS])


def of_another_rank(arrays: dict) -> dict:
    return load(tiny.adapter_for(tiny.model(), rank=8).files(num_layers=2)[WEIGHTS])


NO_FIT = "adapter 1 of the chain does not fit the base model: "
NO_RANK = (
    f"{WEIGHTS}: not of the rank 4 that adapter_config.json names; expected (in, 4), (4, out): "
)


@pytest.mark.parametrize(
    ("change", "start", "differences"),
    [
        (
            for_a_wider_base,
            NO_FIT,
            [
                "model.layers.0.mlp.down_proj: (64, 4), (4, 48); expected ((64, 4), (4, 32))",
                "model.layers.0.mlp.gate_proj: (48, 4), (4, 64); expected ((32, 4), (4, 64))",
                "model.layers.0.mlp.up_proj: (48, 4), (4, 64); expected ((32, 4), (4, 64))",
            ],
        ),
        (
            for_a_deeper_base,
            NO_FIT,
            [
                "model.layers.2.mlp.down_proj: the base has no such layer",
                "model.layers.2.mlp.gate_proj: the base has no such layer",
                "model.layers.2.mlp.up_proj: the base has no such layer",
            ],
        ),
        (
            of_another_rank,
            NO_RANK,
            [
                "model.layers.0.mlp.down_proj: (64, 8), (8, 32)",
                "model.layers.0.mlp.gate_proj: (32, 8), (8, 64)",
                "model.layers.0.mlp.up_proj: (32, 8), (8, 64)",
            ],
        ),
        (
            turned,
            NO_RANK,
            [
                "model.layers.0.mlp.down_proj: (4, 64), (32, 4)",
                "model.layers.0.mlp.gate_proj: (4, 32), (64, 4)",
                "model.layers.0.mlp.up_proj: (4, 32), (64, 4)",
            ],
        ),
    ],
    ids=["shape", "modules", "rank", "turned"],
)
def test_an_adapter_of_another_shape_rank_or_module_set_is_refused(bad, change, start, differences):
    bad.reseal(WEIGHTS, changed(change))
    place = f"{bad.session.relative_to(bad.root)}/" if start == NO_RANK else ""
    for words in (("chat", "-p", "Hi"), ("train", "two.json", "--epochs", 1)):
        code, error = bad(*words)
        assert code == 5
        assert error == f"error: {place}{start}{'; '.join(differences)}"


def test_an_adapter_may_lack_a_projection_that_its_config_names(bad):
    bad.reseal(WEIGHTS, changed(lambda a: {n: w for n, w in a.items() if "q_proj" not in n}))
    assert "self_attn.q_proj" in (bad.session / CONFIG).read_text()
    assert bad("chat", "-p", "Hi") == (0, "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"{", "not valid JSON (Expecting property name"),
        (b"[]", "not a JSON object"),
        (b"{}", '"lora_parameters.rank" missing or malformed; expected a whole number from 1'),
        (
            b'{"lora_parameters": {"rank": 4}}',
            '"lora_parameters.scale" missing or malformed; expected a number that float32 holds',
        ),
        (
            b'{"lora_parameters": {"rank": "4", "scale": 2.0}}',
            '"lora_parameters.rank" missing or malformed; expected a whole number from 1',
        ),
    ],
)
def test_a_malformed_adapter_config_is_refused_in_one_line(bad, text, complaint):
    bad.reseal(CONFIG, lambda file: text)
    code, error = bad("chat", "-p", "Hi")
    assert code == 4
    assert error.startswith(f"error: {bad.session.relative_to(bad.root)}/{CONFIG}: {complaint}")
    assert error.endswith("doctor`; go back to base with `mlx-tune rollback --to base --store s`")
