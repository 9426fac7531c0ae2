"""The commands that keep a store in order, as a person types them; most need no model."""

import json
import shlex
import subprocess
from datetime import date, timedelta

import pytest

from helpers.stores import adapter_files, flip, scored_record
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import fitting


def folder(store: SessionStore, ref: str) -> str:
    return store.snapshot().find(ref).folder_name


def id_of(folder_name: str) -> str:
    return folder_name[-8:]


def test_tag_names_head_or_any_session_and_moves(store, mlx_tune_command):
    assert mlx_tune_command("tag") == (
        0, "adapters: no tags; `mlx-tune tag NAME` gives HEAD one\n", "",
    )  # fmt: skip
    assert mlx_tune_command("tag", "best")[1] == f"✓ best is {folder(store, '3')}\n"
    assert mlx_tune_command("tag", "first", "cs")[1] == f"✓ first is {folder(store, '1')}\n"
    assert mlx_tune_command("tag")[1].splitlines() == [
        f"best   {folder(store, '3')}",
        f"first  {folder(store, '1')}",
    ]
    moved = f"✓ best is {folder(store, 'housing')} (was {folder(store, '3')})\n"
    assert mlx_tune_command("tag", "best", "housing")[1] == moved
    again = f"✓ best is {folder(store, 'housing')}\n"
    assert mlx_tune_command("tag", "best", "housing")[1] == again
    listed = json.loads(mlx_tune_command("tag", "--json")[1])
    assert listed[0] == {
        "name": "best",
        "id": store.snapshot().find("housing").id,
        "folder": folder(store, "housing"),
    }


def test_a_tag_means_its_session_wherever_a_session_is_named(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    assert (
        json.loads(mlx_tune_command("show", "best", "--json")[1])["id"]
        == store.snapshot().find("1").id
    )


def test_a_tag_is_taken_away_and_its_session_stays(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    code, out, _ = mlx_tune_command("tag", "--delete", "best")
    assert (code, out) == (0, "✓ the tag best is gone; its session stays\n")
    assert mlx_tune_command("tag", "best", "--delete") == (
        2, "", 'error: no tag "best"; there are none\n',
    )  # fmt: skip
    assert len(store.snapshot().sessions) == 4
    code, _, error = mlx_tune_command("tag", "--delete", "best", "cs")
    assert code == 2
    assert error == "error: to take a tag away, name it alone: `mlx-tune tag --delete NAME`\n"
    assert mlx_tune_command("tag", "--delete")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("best", "nobody"), 'no session "nobody" in adapters; there are base, '),
        (("best", "base"), "tag best: the base model is no session, and only sessions have tags; "),
        (("12",), 'tag "12" could be taken for a session\'s number or id; put a word to it'),
        (("Best",), 'tag "Best" is not allowed; a name matches '),
        (("../up",), 'tag "../up" is not allowed; a name matches '),
    ],
)
def test_a_tag_that_cannot_be_is_a_usage_error(store, mlx_tune_command, words, message):
    code, out, error = mlx_tune_command("tag", *words)
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {message}")
    assert not (store.root / "tags").exists()


def test_a_removed_session_goes_to_the_trash_and_comes_back(store, mlx_tune_command):
    """What each command says next is what works next."""
    dining = store.snapshot().find("dining")
    code, out, _ = mlx_tune_command("rm", "dining")
    assert (code, out.splitlines()) == (
        0,
        [
            f"✓ {dining.folder_name} is removed",
            "`mlx-tune gc` moves it to the trash, where it is kept for 30 days",
            f"take it back with: mlx-tune rm --undo {dining.id[:8]}",
        ],
    )
    undo = out.splitlines()[-1].removeprefix("take it back with: mlx-tune ").split()
    assert mlx_tune_command(*undo)[1] == f"✓ {dining.folder_name} is kept\n"
    assert mlx_tune_command("gc")[1] == "adapters: nothing to collect\n"

    mlx_tune_command("rm", "dining")
    code, out, _ = mlx_tune_command("gc", "--dry-run")
    assert out.splitlines() == ["1 session would move to the trash:", f"  {dining.folder_name}"]
    assert dining.path.is_dir()
    code, out, _ = mlx_tune_command("gc")
    told, way_back = out.splitlines()
    assert told == "✓ 1 session moved to the trash, kept there for 30 days; to take one back:"
    assert not dining.path.exists()
    assert not (store.root / "removed" / dining.folder_name).exists()
    subprocess.run(shlex.split(way_back), check=True)
    assert store.snapshot().find("dining") == dining
    assert mlx_tune_command("verify")[0] == 0


def test_the_way_back_is_right_for_a_session_that_was_collected_twice(store, mlx_tune_command):
    dining = store.snapshot().find("dining")
    for _ in range(2):
        mlx_tune_command("rm", "dining")
        collected = json.loads(mlx_tune_command("gc", "--json")[1])
        assert collected["moved"] == [dining.folder_name]
        files = {**adapter_files("x"), "data.jsonl": b"{}\n"}
        again = store.commit(
            name="dining",
            parent=store.snapshot().find("cs"),
            record=scored_record(20, 7, "ask"),
            files=files,
        )
        assert again == dining
    assert shlex.split(collected["way_back"][0])[1].endswith(f"{dining.folder_name}~2")


def test_a_way_back_is_fit_for_a_shell(store, mlx_tune_command, tmp_path):
    (tmp_path / "adapters").rename(tmp_path / "my store")
    mlx_tune_command("rm", "dining", "--store", "my store")
    out = mlx_tune_command("gc", "--store", "my store")[1]
    subprocess.run(["sh", "-c", out.splitlines()[1]], check=True)
    assert mlx_tune_command("show", "dining", "--store", "my store", "--json")[0] == 0


def test_gc_deletes_old_trash_and_says_how_much_was_freed(store, mlx_tune_command):
    mlx_tune_command("rm", "dining")
    collect_garbage(store, today=date.today() - timedelta(days=40))
    trash = [path for path in (store.root / "trash").rglob("*") if path.is_file()]
    freed = f"{sum(path.stat().st_size for path in trash) / 1000:.1f} kB"
    code, out, _ = mlx_tune_command("gc", "--dry-run")
    assert out.splitlines()[0] == f"{freed} would be freed by deleting"
    assert all(path.exists() for path in trash)
    code, out, _ = mlx_tune_command("gc")
    assert code == 0
    assert out.splitlines()[0] == f"✓ {freed} freed by deleting"
    assert out.splitlines()[1].startswith("  trash/")
    assert list((store.root / "trash").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "gc", "verify", "tag", "rm cs", "promote cs", "rollback", "log", "show", "eval",
        "diff cs base", "chat --prompt Hi", "chat --session base --prompt Hi", "serve",
        "fuse --out model", "resume", "resume --discard run", "consolidate",
    ],
)  # fmt: skip
def test_a_folder_that_is_no_store_is_named_and_nothing_is_made(
    tmp_path, mlx_tune_command, command
):
    code, out, error = mlx_tune_command(*command.split(), "--store", tmp_path / "typo")
    assert (code, out) == (4, "")
    assert error == (
        f"error: {tmp_path / 'typo'}: no store is there; put it back or name another with --store, "
        f"or train a first session with `mlx-tune train data/cs.json --store {tmp_path / 'typo'}`\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_base_cannot_be_removed_nor_can_what_is_needed(store, mlx_tune_command):
    assert mlx_tune_command("rm", "base") == (
        2, "", "error: the base model is no session of the store, so it cannot be removed\n",
    )  # fmt: skip
    mlx_tune_command("tag", "best", "cs")
    code, _, error = mlx_tune_command("rm", "cs")
    assert code == 2
    children = ", ".join(sorted((folder(store, "dining"), folder(store, "housing")), key=id_of))
    assert error == (
        f"error: {folder(store, 'cs')} was not removed: {children} "
        "was trained on it, remove that first, or teach the rest anew without it: "
        f"`mlx-tune consolidate --without {id_of(folder(store, 'cs'))}`; the tag best names it, "
        "`mlx-tune tag --delete best` first\n"
    )
    code, _, error = mlx_tune_command("rm", "HEAD")
    assert code == 2
    assert "HEAD is there, `mlx-tune rollback` first" in error
    code, _, error = mlx_tune_command("rm", "--undo", "cs")
    assert (code, error) == (2, f"error: {folder(store, 'cs')} is not removed; nothing to undo\n")
    assert mlx_tune_command("gc")[1] == "adapters: nothing to collect\n"


def test_promote_says_what_it_overrules_and_the_way_back(store, mlx_tune_command):
    was, housing, dining = (folder(store, ref) for ref in ("HEAD", "housing", "dining"))
    code, out, error = mlx_tune_command("promote", "dining")
    assert (code, error) == (0, "")
    assert out.splitlines() == [
        f"✓ HEAD is {dining} (was {was}, which is kept)",
        "this overrules the gate, which said ask:",
        f"  {store.snapshot().find('dining').record['gate']['reasons'][0]}",
        f"left behind, still kept: {housing}, {was}",
        f"go back with: mlx-tune rollback --to {id_of(was)}",
    ]
    assert mlx_tune_command("promote", "dining") == (
        2, "", f"error: {dining} is HEAD already; there is nothing to promote\n",
    )  # fmt: skip
    back = out.splitlines()[-1].removeprefix("go back with: mlx-tune ").split()
    assert mlx_tune_command(*back)[0] == 0
    assert folder(store, "HEAD") == was


def test_promote_as_json_and_from_the_base(store, mlx_tune_command):
    dining = folder(store, "dining")
    mlx_tune_command("rollback", "--to", "base")
    out = mlx_tune_command("promote", "dining", "--json")[1]
    assert json.loads(out) == {
        "before": "base",
        "after": dining,
        "verdict": "ask",
        "reasons": store.snapshot().find("dining").record["gate"]["reasons"],
        "left": [],
    }
    mlx_tune_command("rollback", "--to", "base")
    assert mlx_tune_command("promote", "housing")[1].splitlines() == [
        f"✓ HEAD is {folder(store, 'housing')} (was base)",
        "go back with: mlx-tune rollback --to base",
    ]


def test_verify_counts_what_it_read(store, mlx_tune_command):
    code, out, error = mlx_tune_command("verify")
    assert (code, error) == (0, "")
    assert out.startswith("✓ 4 sessions whole: 20 files, ")
    with (store.root / "HEAD.log").open("a") as file:
        file.write("torn")
    code, out, _ = mlx_tune_command("verify")
    assert code == 0
    assert out.splitlines()[1] == "! adapters/HEAD.log: torn lines skipped: 4"
    counted = json.loads(mlx_tune_command("verify", "--json")[1])
    assert counted.keys() == {"sound", "sessions", "files", "size_bytes", "problems", "notes"}
    assert (counted["sound"], counted["sessions"], counted["files"]) == (True, 4, 20)
    held = [p for p in (store.root / "sessions").rglob("*") if p.is_file()]
    assert counted["size_bytes"] == sum(path.stat().st_size for path in held)


def test_verify_ends_with_4_and_a_line_a_problem(store, mlx_tune_command):
    cs, dining = store.snapshot().find("cs").path, store.snapshot().find("dining").path
    flip(cs / "data.jsonl")
    flip(dining / "adapters.safetensors")
    code, out, error = mlx_tune_command("verify")
    assert code == 4
    assert out.startswith("0 sessions whole: 0 files, ")
    first, second, third = error.splitlines()
    assert third == (
        "       HEAD stands on that; go back to base with `mlx-tune rollback --to base`"
    )
    assert first.startswith(f"error: {cs}/data.jsonl: changed after it was written: sha256 is ")
    assert second.startswith(f"       {dining}/adapters.safetensors: changed after it was written")
    code, out, _ = mlx_tune_command("verify", "--json")
    assert (code, len(json.loads(out)["problems"])) == (4, 3)


def test_gc_moves_nothing_while_anything_is_damaged(store, mlx_tune_command):
    mlx_tune_command("rm", "dining")
    flip(store.snapshot().find("cs").path / "data.jsonl")
    code, out, error = mlx_tune_command("gc")
    assert (code, out) == (4, "")
    assert error.startswith("error: gc moved nothing, for something is damaged: adapters/sessions/")
    assert store.snapshot().find("dining").path.is_dir()


def test_rollback_says_where_head_is_and_how_to_return(trained_store, mlx_tune_command):
    code, out, _ = mlx_tune_command("rollback")
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith("✓ HEAD is 0001-cs-")
    assert "(was 0002-housing-" in first
    again = second.removeprefix("take it up again with: mlx-tune ").split()
    assert mlx_tune_command(*again)[1].startswith("✓ HEAD is 0002-housing-")


def test_doctor_on_a_damaged_store_ends_with_4(trained_store, mlx_tune_command):
    assert mlx_tune_command("doctor")[0] == 0
    session = next((trained_store / "sessions").glob("0001-*"))
    (session / "data.jsonl").write_text("{}\n")
    code, out, error = mlx_tune_command("doctor")
    assert code == 4
    assert "✗ store" in out
    assert "data.jsonl" in out
    assert error.startswith("error: adapters/sessions/0001-cs-")


def test_doctor_on_a_store_that_cannot_be_read_says_so(trained_store, mlx_tune_command):
    (trained_store / "format.json").write_text('{"version": 99, "requires": []}')
    code, out, error = mlx_tune_command("doctor")
    assert code == 5
    assert "✗ store" in out
    assert "✓ store" not in out
    assert "99" in error


@pytest.mark.parametrize(("free", "mark"), [(1_900_000_000, "✗"), (2_100_000_000, "✓")])
def test_doctor_tells_of_a_disk_that_is_nearly_full(
    trained_store, mlx_tune_command, monkeypatch, free, mark
):
    monkeypatch.setattr(fitting, "free_bytes", lambda _: free)
    _, out, _ = mlx_tune_command("doctor")
    line = next(line for line in out.splitlines() if "GB free at" in line)
    assert line.startswith(f"{mark} disk")
    assert line.endswith("make room") == (mark == "✗")


def test_a_narrow_terminal_breaks_what_a_move_says_between_words(
    store, mlx_tune_command, monkeypatch
):
    from rich.console import Console

    from mlx_tune.cli import store as command

    monkeypatch.setattr(command, "console", lambda: Console(width=40, force_terminal=True))
    was, now = folder(store, "HEAD"), folder(store, "dining")
    _, out, _ = mlx_tune_command("rollback", "--to", "dining")
    first = out.split("take it up again")[0]
    assert max(map(len, first.splitlines())) <= 40
    assert "".join(first.split()) == f"✓HEADis{now}(was{was},whichiskept)"
