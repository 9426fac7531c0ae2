import json
import subprocess

import pytest

from benchmarks import cells, retention, retention_cell, retention_checks, retention_report
from benchmarks.retention import Chain, Setup
from benchmarks.retention_cell import Follows, Task
from helpers.training_lab import FAST_SETTINGS, RecordingObserver
from mlx_tune.settings import merge_settings
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import store_commands
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train

SETUP = Setup(base="tiny", facts="places", sessions=3, rows=2, epochs=7, until_learned=True)
CELL = {"scores": {"verbatim": [[1], [0], [0]]}}


def arguments(folder, *words: str):
    return retention.parser().parse_args(["--out", str(folder), *words])


def task(tiny_base, tmp_path, *, number: int = 2, joint: bool = False, facts="places") -> Task:
    """What a cell of a chain on the tiny base is told; as many sessions as are wanted."""
    setup = Setup(
        base=str(tiny_base), facts=facts, sessions=2, rows=3, epochs=None, until_learned=False
    )
    chain = Chain(arm="joint" if joint else "default", order=1, seed=4)
    made = retention.task_of(tmp_path, setup, chain, number)
    flags = {**made.flags, **FAST_SETTINGS}
    return Task(**{**vars(made), "flags": flags})


@pytest.fixture
def children(monkeypatch):
    """Answer for the processes of cells; gives what they were asked, and may fail some."""
    asked, failing = [], set()

    def child(module, asked_for):
        asked.append((module.rpartition("_")[2], asked_for.label))
        if asked_for.label in failing:
            raise cells.CellError(asked_for.label)
        return CELL

    monkeypatch.setattr(cells, "child", child)
    monkeypatch.setattr(
        retention.retention_report, "text", lambda chains: [f"{len(chains)} chains"]
    )
    return asked, failing


WORDS = ("--arms", "default", "joint", "--rows", "2", "--base", "tiny", "--orders", "1")


def test_finished_cells_are_not_done_again(tmp_path, children, capsys):
    asked, _ = children
    words = ["--out", str(tmp_path), *WORDS]
    assert retention.main(words) == 0
    first = list(asked)
    assert first == [
        ("cell", "base-0-0 0/3"),
        *(("cell", f"default-0-0 {n}/3") for n in (1, 2, 3)),
        ("checks", "default-0-0 3/3"),
        *(("cell", f"joint-0-0 {n}/3") for n in (1, 2, 3)),
    ]
    (tmp_path / "joint-0-0" / "cell-2.json").unlink()
    retention.main(words)
    assert asked[len(first) :] == [("cell", "joint-0-0 2/3")]
    assert capsys.readouterr().out == "2 chains\n" * 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["command"], report["text"]) == (words, ["2 chains"])
    assert report["machine"]["cores"]


def test_a_cell_that_fails_ends_its_chain_and_no_other(tmp_path, children, capsys):
    asked, failing = children
    failing.add("default-0-0 2/3")
    assert retention.main(["--out", str(tmp_path), *WORDS]) == 1
    assert [label for _, label in asked if "default" in label] == [
        "default-0-0 1/3",
        "default-0-0 2/3",
    ]
    assert ("cell", "joint-0-0 3/3") in asked
    assert "default-0-0 2/3; the rest of this chain is left out\n" in capsys.readouterr().err


def test_a_folder_keeps_one_setup(tmp_path, children):
    retention.main(["--out", str(tmp_path), *WORDS])
    with pytest.raises(SystemExit, match=r"setup\.json: .* name another folder with --out$"):
        retention.main(["--out", str(tmp_path), *WORDS, "--epochs", "9"])


def test_the_report_alone_trains_nothing(tmp_path, children):
    asked, _ = children
    assert retention.main(["--out", str(tmp_path), *WORDS, "--report-only"]) == 0
    assert asked == []


def test_every_arm_is_there_in_the_first_order_before_the_second_begins(tmp_path):
    args = arguments(tmp_path, "--arms", "none", "default", "--seeds", "5")
    assert [chain.name for chain in retention.chains(args)] == [
        "base-0-5", "none-0-5", "default-0-5", "none-1-5", "default-1-5",
    ]  # fmt: skip


def test_orders_are_as_drawn_reversed_then_shuffled():
    assert retention.taught_order(0, 4) == [0, 1, 2, 3]
    assert retention.taught_order(1, 4) == [3, 2, 1, 0]
    assert sorted(retention.taught_order(2, 4)) == [0, 1, 2, 3]
    assert retention.taught_order(2, 9) == retention.taught_order(2, 9)
    assert retention.taught_order(2, 9) not in ([*range(9)], [*reversed(range(9))])


def test_a_chain_teaches_the_newest_subject_and_joint_training_all_of_them_from_the_base(tmp_path):
    told = {
        arm: retention.task_of(tmp_path, SETUP, Chain(arm=arm, order=1, seed=0), 2)
        for arm in ("none", "joint", "ratio", "default")
    }
    subjects = told["none"].subjects
    assert told["none"].taught == told["joint"].taught == [2, 1]
    assert list(map(str, told["none"].data)) == [subjects[1]]
    assert list(map(str, told["joint"].data)) == [subjects[2], subjects[1]]
    assert (
        told["joint"].store
        != retention.task_of(tmp_path, SETUP, Chain(arm="joint", order=1, seed=0), 1).store
    )
    assert (told["none"].chain_length, told["joint"].chain_length) == (2, 1)
    common = {"until_learned": True, "epochs": 7, "seed": 0}
    assert told["none"].flags == {**common, "method": "none"}
    assert told["ratio"].flags == {**common, "replay": "0.05"}
    assert told["default"].flags == told["joint"].flags == common


def test_what_every_arm_sets_can_be_set():
    for flags in retention.ARMS.values():
        assert merge_settings({**SETUP.flags, **flags})  # which refuses what it does not know


def test_what_a_child_prints_last_is_its_result(monkeypatch, tmp_path):
    told = retention.task_of(tmp_path, SETUP, Chain(arm="none", order=0, seed=0), 1)

    def run(command, **_):
        assert Task(**json.loads(command[-1])) == told
        return subprocess.CompletedProcess(command, code, stdout='noise\n{"a": 1}\n')

    monkeypatch.setattr(subprocess, "run", run)
    code = 0
    assert cells.child("benchmarks.retention_cell", told) == {"a": 1}
    code = 3
    with pytest.raises(cells.CellError, match=r"^none-0-0 1/3: .*_cell ended with exit code 3$"):
        cells.child("benchmarks.retention_cell", told)


def test_a_chain_is_trained_cell_by_cell_and_every_subject_is_scored(tiny_base, tmp_path):
    cells = [
        retention_cell.carry_out(task(tiny_base, tmp_path, number=number)) for number in (0, 1, 2)
    ]
    for cell in cells:
        assert [len(outcomes) for outcomes in cell["scores"]["verbatim"]] == [3, 3]
        assert [len(outcomes) for outcomes in cell["scores"]["paraphrases"]] == [6, 6]
    assert "session" not in cells[0]
    assert [cell["training"]["epochs"] for cell in cells[1:]] == [2, 2]
    assert [cell["training"]["steps"] for cell in cells[1:]] == [2, 4]  # 3 rows, then 6, by fours
    assert [cell["rehearsed"] for cell in cells[1:]] == [0, 3]
    assert len({cell["fold_sha256"] for cell in cells}) == 3
    assert [len(cell["files_sha256"]) for cell in cells] == [0, 1, 2]

    checks = retention_checks.check(task(tiny_base, tmp_path))
    assert checks["there"]["fold_sha256"] == cells[1]["fold_sha256"]
    assert checks["back"]["fold_sha256"] == cells[2]["fold_sha256"]
    assert checks["there"]["files_sha256"] == cells[2]["files_sha256"]
    assert 0 < checks["logits"]["largest"] < 1e-4 < checks["logits"]["size"]
    head = SessionStore.open(tmp_path / "default-1-4" / "store").snapshot().head()
    assert head.folder_name == cells[2]["session"]  # a copy was rolled back, not the chain


def test_keys_and_values_have_no_other_wording_and_are_scored_all_the_same(tiny_base, tmp_path):
    told = task(tiny_base, tmp_path, number=1, facts="kvr")
    cell = retention_cell.carry_out(told)
    assert [len(outcomes) for outcomes in cell["scores"]["verbatim"]] == [3, 3]
    assert cell["scores"]["paraphrases"] == [[], []]
    folder = tmp_path / "default-1-4"
    whole = {**cell, "arm": "default", "order": 1, "seed": 4, "number": 1, "taught": told.taught}
    (folder / "cell-1.json").write_text(json.dumps(whole))
    assert "| default" in "\n".join(retention_report.text(retention_report.load(tmp_path)))


def test_a_cell_that_was_trained_but_not_written_down_is_only_scored(tiny_base, tmp_path):
    told = task(tiny_base, tmp_path, number=1)
    first, again = retention_cell.carry_out(told), retention_cell.carry_out(told)
    kept = ("session", "scores", "training", "fold_sha256", "files_sha256")
    assert {key: first[key] for key in kept} == {key: again[key] for key in kept}


def test_a_cell_goes_on_with_the_run_that_was_interrupted(tiny_base, tmp_path):
    told = task(tiny_base, tmp_path, number=1)
    flags = {"base": told.base, "name": told.name, **told.flags}
    store = tmp_path / "default-1-4" / "store"
    with pytest.raises(KeyboardInterrupt):
        train(
            TrainingRequest(data=told.data, store=store, flags=flags),
            RecordingObserver(stop_after=1),
        )
    (begun,) = (store / "runs").iterdir()
    assert retention_cell.carry_out(told)["training"]["run"] == begun.name


def test_a_run_with_other_settings_is_not_gone_on_with():
    assert Follows("cell").offered(None, {})
    assert not Follows("cell").offered(None, {"epochs": 3})


def test_a_session_that_was_held_back_is_chained_all_the_same(tiny_base, tmp_path, monkeypatch):
    told = task(tiny_base, tmp_path, number=1)
    store = tmp_path / "default-1-4" / "store"
    first = retention_cell.carry_out(told)
    store_commands.rollback(store, "base")  # as a gate leaves HEAD
    monkeypatch.setattr(retention_cell, "train", None)
    assert retention_cell.carry_out(told)["session"] == first["session"]
    assert SessionStore.open(store).snapshot().head().folder_name == first["session"]


def test_what_a_session_could_not_ask_is_asked_by_the_cell(tiny_base, tmp_path):
    told = task(tiny_base, tmp_path)
    known = {"verbatim": {"outcomes": [1, 0, 1]}, "paraphrases": {"outcomes": [0] * 6}}
    found = retention_cell.recorded(told, [{"verbatim": None, "paraphrases": None}, known])
    assert found == {0: {"verbatim": [1, 0, 1], "paraphrases": [0] * 6}}


def test_one_session_of_all_subjects_is_taken_apart_in_the_order_it_was_taught(tiny_base, tmp_path):
    told = task(tiny_base, tmp_path, joint=True)
    entry = {
        "verbatim": {"outcomes": [1, 1, 1, 0, 0, 0]},
        "paraphrases": {"outcomes": [1] * 6 + [0] * 6},
    }
    found = retention_cell.recorded(told, [entry])
    assert told.taught == [1, 0]
    assert found[1] == {"verbatim": [1, 1, 1], "paraphrases": [1] * 6}
    assert found[0] == {"verbatim": [0, 0, 0], "paraphrases": [0] * 6}
    with pytest.raises(ValueError, match=r"^3 outcomes; expected 4$"):
        retention_cell.parted([1, 0, 1], [2, 2])
