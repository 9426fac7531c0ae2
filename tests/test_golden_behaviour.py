"""Golden behaviour: commands on a store that an earlier version trained answer as they did then.

What the commands are, what of their output is compared, and how the store was made is said in
``golden/make_behaviour.py``. Everything goes through the command line, so that no module's name
stands here.
"""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from golden.make_behaviour import (
    RECORDED,
    SCENARIOS,
    STORE,
    TRAINED,
    arithmetic,
    chain_logits,
    one_thread,
    run,
)
from helpers.stores import state

pytestmark = pytest.mark.gate  # every limit stands in the commands

# What was renamed since it was recorded, old → new. Sessions and runs keep what they were written
# with, and `show` prints it, so that both spellings of a name count as the same.

RENAMED_SETTINGS: dict[str, str] = {"guard": "general_replay"}
"""Settings, spelt as in YAML: also given so on the command line, and named so as a source."""

ADDED_SETTINGS = {"decay_epochs": "0", "general_weight": "10", "question_noise": "0"}
"""Settings that came later, with what they were set to before there were any."""

RENAMED_KEYS: dict[str, str] = {}
"""Keys of what ``--json`` prints, wherever they stand."""

REWORDED: dict[str, str] = {}
"""Whole texts, such as the reason for a setting."""

ADDED_KEYS = {
    "as_taught", "other_words", "other_words_before", "wrong", "grade", "alike", "exact", "files",
    "passed_over", "losses", "kinds", "first_loss", "steps_for_new_rows", "least_epochs",
    "chain_bytes", "not_read", "held_out_too_long", "turns", "unmeasured",
}  # fmt: skip
"""Keys of what ``--json`` prints that came since: what is right however it is asked, questions that
are nearly one or exactly one, turns with two answers, paraphrases that measure no longer, what was
read and what not, and what the gate looks at. Tests of their own say what they hold."""

REMOVED_KEYS = {"facts"}
"""Keys that went: `eval --facts` is now part of every evaluation, under other names."""

COUNTED_SINCE = (
    *(
        f"/plan/output/{name}"
        for name in (
            "rows/an_epoch/general:",
            "tokens_per_epoch:",
            "padding:",
            "memory/",
            "remarks/0:",
        )
    ),
    "/plan-methods/output/memory/peak_bytes:",
    "/plan-general/output/memory/peak_bytes:",
)
"""Where a plan differs: it counts the general questions before the base was asked them, and the
chain in its memory."""

# Measured with OpenBLAS's kernels for Nehalem in the place of Haswell's: adapters differed by 6e-6
# at most, logits by 2e-5, a printed number by 2e-4 of itself, and no count, verdict or answer.
# Those for Zen give the very same bits, which is not relied on.
ADAPTER_TOLERANCE = 1e-4
LOGITS_TOLERANCE = 2e-4
PRINTED_TOLERANCE = 2e-3

MACHINE = json.loads((RECORDED / "machine.json").read_bytes())
SETTINGS = ("settings", "sizing")
TRAINING = ("train", "plan", "consolidate")


@pytest.fixture
def call(mlx_tune_command, monkeypatch):
    """The command line, where data files and base have short names."""
    monkeypatch.chdir(TRAINED)

    def as_before(command, *words):
        added = [word for name, value in ADDED_SETTINGS.items()
                 for word in (f"--{name.replace('_', '-')}", value)]  # fmt: skip
        return mlx_tune_command(command, *(added if command in TRAINING else []), *words)

    with one_thread():
        yield as_before


@pytest.fixture(scope="module")
def arrays():
    return load_file(RECORDED / "arrays.safetensors")


@pytest.fixture(scope="module")
def differs():
    """What of this machine's arithmetic is another than where it was recorded; empty for nothing.

    Where something is, results are equal within the tolerances, not to the last bit.
    """
    with one_thread():
        here = arithmetic()
    return {name: value for name, value in here.items() if value != MACHINE["arithmetic"][name]}


def test_results_are_compared_to_the_last_bit(differs):
    if differs:
        pytest.skip(f"compared within tolerances, for this machine has other {', '.join(differs)}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_commands_print_and_train_what_they_did(scenario, call, tmp_path, arrays, differs):
    outcome = run(scenario, call, tmp_path, respelt_word)
    recorded = json.loads((RECORDED / f"{scenario}.json").read_bytes())
    tolerance = PRINTED_TOLERANCE if differs else 0.0
    found = differences(respelt(recorded), respelt(outcome.outputs), tolerance)
    assert [line for line in found if not line.startswith(COUNTED_SINCE)] == []
    wanted = {
        name.removeprefix(f"{scenario}/"): digest
        for name, digest in MACHINE["adapters"].items()
        if name.startswith(f"{scenario}/")
    }
    assert outcome.hashes.keys() == wanted.keys()
    if not differs:
        assert outcome.hashes == wanted
    for name, found in outcome.adapters.items():
        stem = f"{scenario}/{name}/"
        assert {stem + tensor for tensor in found} == {n for n in arrays if n.startswith(stem)}
        for tensor, values in found.items():
            assert close(values, arrays[stem + tensor], ADAPTER_TOLERANCE), stem + tensor
    if scenario in ("reading", "answering"):
        assert changed(state(TRAINED / STORE), state(tmp_path / STORE)) == set()


def test_the_chains_logits_are_what_they_were(call, tmp_path, arrays, differs):
    found = chain_logits(tmp_path, call)
    assert (found.dtype, found.shape) == (np.float32, (48, 259))
    assert close(found, arrays["logits"], LOGITS_TOLERANCE if differs else 0.0)


def changed(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> set[str]:
    """Return what was changed in a store, but for the name of a run's base, which was put right."""
    paths = {path for path in before | after if before.get(path) != after.get(path)}
    return {path for path in paths if not re.fullmatch("runs/[^/]*/run.json", path)}


# Two spellings, two numbers


def respelt_word(word: str) -> str:
    """Return a word of the command line as it is spelt today."""
    name = word.removeprefix("--").replace("-", "_")
    if not word.startswith("--") or name not in RENAMED_SETTINGS:
        return word
    return "--" + RENAMED_SETTINGS[name].replace("_", "-")


def respelt(value: Any, inside: str = "") -> Any:
    """Return what a command printed, all that was renamed spelt anew."""
    if isinstance(value, dict):
        names = {**RENAMED_KEYS, **(RENAMED_SETTINGS if inside in SETTINGS else {})}
        return {
            names.get(key, key): respelt(one, key)
            for key, one in value.items()
            if not (inside in SETTINGS and key in ADDED_SETTINGS)
        }
    if isinstance(value, list):
        return [respelt(one, inside) for one in value]
    if isinstance(value, str):
        return respelt_word(REWORDED.get(value, value))
    return value


def differences(wanted: Any, found: Any, tolerance: float, place: str = "") -> list[str]:
    """Return where two printed values differ; numbers that are not whole may, by a part of them."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        gone = [key for key in wanted if key not in found and key not in REMOVED_KEYS]
        new = [key for key in found if key not in wanted and key not in ADDED_KEYS]
        lines = [f"{place}/{key}: gone" for key in gone]
        lines += [f"{place}/{key}: new" for key in new]
        pairs = [(f"{place}/{key}", wanted[key], found[key]) for key in wanted if key in found]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        lines = []
        pairs = [(f"{place}/{i}", *both) for i, both in enumerate(zip(wanted, found, strict=True))]
    else:
        near = isinstance(wanted, float) and isinstance(found, float)
        near = near and math.isclose(wanted, found, rel_tol=tolerance, abs_tol=tolerance / 100)
        same = type(wanted) is type(found) and wanted == found
        return [] if near or same else [f"{place}: {found!r}, was {wanted!r}"]
    for where, one, other in pairs:
        lines += differences(one, other, tolerance, where)
    return lines


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= tolerance)


def test_a_number_is_compared_within_the_tolerance_and_all_else_exactly():
    wanted = {"a": [1.0, 2, "x", True, None], "b": {"c": 0.5}}
    assert differences(wanted, {"a": [1.001, 2, "x", True, None], "b": {"c": 0.5}}, 3e-3) == []
    assert differences(wanted, {"a": [1.001, 2, "x", True, None], "b": {"c": 0.5}}, 0.0) == [
        "/a/0: 1.001, was 1.0"
    ]
    found = {"a": [1.0, 2.0, "y", 1, 0], "b": [0.5], "d": 1}
    assert differences(wanted, found, 0.5) == [
        "/d: new",
        "/a/1: 2.0, was 2",
        "/a/2: 'y', was 'x'",
        "/a/3: 1, was True",
        "/a/4: 0, was None",
        "/b: [0.5], was {'c': 0.5}",
    ]
    assert differences({"a": 1}, {}, 0.5) == ["/a: gone"]
    assert differences([1], [1, 2], 0.5) == [": [1, 2], was [1]"]


def test_keys_that_came_or_went_since_are_no_difference():
    assert differences({"a": 1, "facts": None}, {"a": 1, "wrong": []}, 0.0) == []


def test_a_renamed_setting_and_key_count_as_the_same(monkeypatch):
    monkeypatch.setitem(RENAMED_SETTINGS, "old_share", "new_share")
    monkeypatch.setitem(RENAMED_KEYS, "old_key", "new_key")
    monkeypatch.setitem(REWORDED, "an old reason", "a new reason")
    old = {
        "sizing": {"old_share": {"source": "--old-share", "reason": "an old reason"}},
        "old_key": ["old_share"],
        "old_share": 1,
    }
    new = {
        "sizing": {"new_share": {"source": "--new-share", "reason": "a new reason"}},
        "new_key": ["old_share"],
        "old_share": 1,
    }
    assert respelt(old) == respelt(new) == new
    assert respelt_word("--old-share") == "--new-share"
    assert respelt_word("old-share") == "old-share"
