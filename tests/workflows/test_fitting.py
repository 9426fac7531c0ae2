"""A training that does not fit is refused before anything is loaded, with what would fit."""

import re
from types import SimpleNamespace

import mlx.core as mx
import pytest

from helpers import tiny
from helpers.training_lab import RecordingObserver, facts
from mlx_tune.continual.methods import find_method
from mlx_tune.errors import UsageError
from mlx_tune.models import bases, runtime
from mlx_tune.training import memory
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows import fitting, steps


@pytest.fixture
def machine(monkeypatch):
    """A machine with so much memory."""

    def of(size: int) -> None:
        monkeypatch.setattr(memory, "limit_bytes", lambda: size)

    return of


def test_the_plan_says_where_the_bytes_go(lab):
    observer = RecordingObserver()
    lab.train(lab.data("a", facts("Lab")), observer=observer)
    plan = observer.plans[0].memory
    assert plan.weights_bytes == bases.locate(str(lab.base)).held_bytes(4)
    assert plan.fits
    assert plan.peak_bytes == (
        plan.weights_bytes
        + plan.chain_bytes
        + plan.adapter_bytes
        + plan.activations_bytes
        + plan.loss_bytes
    )


def test_weights_are_counted_as_they_are_held(tmp_path):
    info = bases.locate(str(tiny.base_folder(tmp_path / "half", dtype=mx.bfloat16)))
    assert info.float_bytes == 2
    assert info.held_bytes(None) * 2 == info.held_bytes(4)


def test_more_memory_than_there_is_names_what_needs_it_and_what_fits(lab, machine, monkeypatch):
    monkeypatch.setattr(steps, "load_folded", lambda *_: pytest.fail("weights were loaded"))
    long = {f"{i}?": "word " * 80 for i in range(8)}
    info = bases.locate(str(lab.base))
    machine(info.held_bytes(4) + 2_000_000)
    with pytest.raises(UsageError) as refused:
        lab.train(lab.data("a", long), batch_size=8)
    message = str(refused.value)
    assert re.search(r"needs \d\.\d GB of memory and the machine gives", message)
    assert "weights" in message
    assert "activations" in message
    length = int(re.search(r"--max-length (\d+)", message)[1])
    assert f"--batch-size 1 --grad-accumulation 8 --max-length {length}" in message
    assert refused.value.exit_code == 2


def test_the_settings_that_it_says_fit_do_fit(lab, machine):
    info = bases.locate(str(lab.base))
    machine(info.held_bytes(4) + 2_000_000)
    data = lab.data("a", {**{f"{i}?": "word " * 80 for i in range(4)}, **facts("Lab")})
    with pytest.raises(UsageError) as refused:
        lab.train(data, batch_size=8)
    length = int(re.search(r"--max-length (\d+)", str(refused.value))[1])
    lab.train(data, batch_size=1, grad_accumulation=8, max_length=length, allow_long=True)


def test_with_less_memory_micro_batches_are_halved_and_the_reason_is_told(lab, machine):
    asked = {"batch_size": None, "grad_accumulation": None}  # the rule's: 2 × 4
    data = lab.data("a", facts("Lab", 8))
    whole, less = (RecordingObserver(), RecordingObserver())
    lab.train(data, observer=whole, **asked)
    machine(whole.plans[0].memory.peak_bytes - 1)
    lab.train(lab.data("b", facts("Hall", 8)), observer=less, **asked)
    settings = less.plans[0].settings
    assert (settings.batch_size, settings.grad_accumulation) == (1, 8)
    assert settings.origins["batch_size"].source == "memory"
    assert settings.origins["batch_size"].reason.startswith("so that it fits: ")


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_tenth_of_the_memory_stays_free(monkeypatch, on_gpu):
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(runtime, "on_gpu", lambda: on_gpu)
    assert memory.limit_bytes() == 900


def test_on_a_gpu_weights_and_activations_are_as_stored(tmp_path, monkeypatch):
    info = bases.locate(str(tiny.base_folder(tmp_path / "half", dtype=mx.bfloat16)))
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    under = SimpleNamespace(info=info, stands_on=(), method=find_method("rehearsal"))
    found = fitting.dimensions(under, Mixture.of_all(1))
    assert (found.activation_bytes, found.weights_bytes) == (2, info.held_bytes(None))


def test_the_plan_prints_padding_and_memory_in_lines_of_a_terminal(lab, mlx_tune_command):
    data = lab.data("a", facts("Lab", 8))
    code, out, _ = mlx_tune_command("plan", data, "--base", lab.base, "--store", lab.store)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert re.search(r"\d+\.\d% padding in \d shapes?$", lines["work"])
    assert re.search(r"GB of \d+\.\d: weights \d+\.\d\d, adapter ", lines["memory"])
    assert len(lines["memory"]) <= 80


@pytest.mark.parametrize(
    ("more", "length", "advised"), [(440_000, 38, False), (680_000, 59, True), (740_000, 64, False)]
)
def test_four_bits_are_advised_where_they_alone_leave_room_for_useful_rows(
    lab, machine, more, length, advised
):
    data = lab.data("a", {f"{i}?": "word " * 80 for i in range(8)})
    machine(bases.locate(str(lab.base)).held_bytes(4) + more)
    with pytest.raises(UsageError) as refused:
        lab.train(data)
    assert f"--max-length {length} " in str(refused.value)
    assert ("4-bit weights" in str(refused.value)) == advised


def test_single_rows_are_advised_alone_where_they_suffice(lab, machine):
    data = lab.data("a", facts("Lab", 8))
    whole = RecordingObserver()
    lab.train(data, observer=whole, batch_size=8)
    machine(whole.plans[0].memory.peak_bytes - 1)
    with pytest.raises(UsageError) as refused:
        lab.train(lab.data("b", facts("Hall", 8)), batch_size=8, checkpoint_layers=0)
    message = str(refused.value)
    assert "--batch-size 1 --grad-accumulation 8" in message
    assert "--max-length" not in message


def test_shorter_rows_are_not_advised_where_rehearsed_ones_are_what_is_too_long(lab, machine):
    lab.train(lab.data("long", {f"{i}?": "word " * 80 for i in range(4)}))
    info = bases.locate(str(lab.base))
    machine(info.held_bytes(4) + 1_200_000)
    with pytest.raises(UsageError) as refused:
        lab.train(lab.data("b", facts("Hall", 8)), batch_size=8)
    assert "--max-length" not in str(refused.value)
