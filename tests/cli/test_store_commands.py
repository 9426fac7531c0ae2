"""The commands that keep a store in order, as a person types them; no model is needed."""

import json
import os
import shlex
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from helpers.stores import adapter_files
from mlx_tune.store.gc import collect_garbage
from mlx_tune.store.store import SessionStore

BASE = {"name": "smollm2-135m", "source": "wheel:small", "fingerprint": "f" * 64}
REASONS = [
    "1 cs keeps 90 % of its score (54 of 60 right, 60 when learned); at least 95 % is wanted"
]
LONG = "campus-dining-halls-of-winter-term-2026x"


def record(rows: int, right: int, verdict: str = "promote") -> dict:
    return {
        "created": f"2026-11-{rows % 28 + 1:02d}T10:00:00+00:00",
        "verdict": verdict,
        "base": BASE,
        "data": {"rows": rows, "rehearsed": 2 * rows},
        "recall": [{"verbatim": {"right": right, "asked": rows}}],
        **({} if verdict == "promote" else {"gate": {"reasons": REASONS}}),
    }


@pytest.fixture
def store(tmp_path, monkeypatch) -> SessionStore:
    """A store `adapters` where one is: cs ← housing ← a long name (HEAD), and dining on cs."""
    monkeypatch.chdir(tmp_path)
    made = SessionStore.open(Path("adapters"))

    def add(name, parent, *numbers, head=True):
        files = {**adapter_files("x"), "data.jsonl": b"{}\n"}
        session = made.commit(name=name, parent=parent, record=record(*numbers), files=files)
        if head:
            made.move_head(session, expected=parent, why=f"train {name}")
        return session

    cs = add("cs", None, 106, 105)
    add(LONG, add("housing", cs, 60, 60), 1200, 1188)
    add("dining", cs, 20, 7, "ask", head=False)
    return made


def folder(store: SessionStore, ref: str) -> str:
    return store.find(ref).folder_name


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
        "id": store.find("housing").id,
        "folder": folder(store, "housing"),
    }


def test_a_tag_means_its_session_wherever_a_session_is_named(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    assert json.loads(mlx_tune_command("show", "best", "--json")[1])["id"] == store.find("1").id


def test_a_tag_is_taken_away_and_its_session_stays(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    code, out, _ = mlx_tune_command("tag", "--delete", "best")
    assert (code, out) == (0, "✓ the tag best is gone; its session stays\n")
    assert mlx_tune_command("tag", "best", "--delete") == (
        2, "", 'error: no tag "best"; there are none\n',
    )  # fmt: skip
    assert len(store.sessions()) == 4
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
    dining = store.find("dining")
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
    assert store.find("dining") == dining
    assert mlx_tune_command("verify")[0] == 0


def test_the_way_back_is_right_for_a_session_that_was_collected_twice(store, mlx_tune_command):
    dining = store.find("dining")
    for _ in range(2):
        mlx_tune_command("rm", "dining")
        collected = json.loads(mlx_tune_command("gc", "--json")[1])
        assert collected["moved"] == [dining.folder_name]
        files = {**adapter_files("x"), "data.jsonl": b"{}\n"}
        again = store.commit(
            name="dining", parent=store.find("cs"), record=record(20, 7, "ask"), files=files
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


@pytest.mark.parametrize("command", ["gc", "verify", "tag", "rm cs", "promote cs"])
def test_a_folder_that_is_no_store_is_named_and_nothing_is_made(
    tmp_path, mlx_tune_command, command
):
    code, out, error = mlx_tune_command(*command.split(), "--store", tmp_path / "typo")
    assert (code, out) == (2, "")
    assert error == (
        f"error: {tmp_path / 'typo'}: no store is there; name another with --store, or train a "
        "first session with `mlx-tune train data/cs.json`\n"
    )
    assert list(tmp_path.iterdir()) == []


def id_of(folder_name: str) -> str:
    return folder_name[-8:]


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
    was, housing, dining = (folder(store, ref) for ref in (LONG, "housing", "dining"))
    code, out, error = mlx_tune_command("promote", "dining")
    assert (code, error) == (0, "")
    assert out.splitlines() == [
        f"✓ HEAD is {dining} (was {was}, which is kept)",
        "this overrules the gate, which said ask:",
        f"  {REASONS[0]}",
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
        "reasons": REASONS,
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
    cs, dining = store.find("cs").path, store.find("dining").path
    damage(cs / "data.jsonl")
    damage(dining / "adapters.safetensors")
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
    damage(store.find("cs").path / "data.jsonl")
    code, out, error = mlx_tune_command("gc")
    assert (code, out) == (4, "")
    assert error.startswith("error: gc moved nothing, for something is damaged: adapters/sessions/")
    assert store.find("dining").path.is_dir()


def test_log_shows_tags_removed_and_held_back_sessions(store, mlx_tune_command):
    mlx_tune_command("tag", "v1", "cs")
    mlx_tune_command("tag", "best", "cs")
    mlx_tune_command("rm", "dining")
    lines = [line.split("  ") for line in mlx_tune_command("log")[1].splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    ids = {s.name: s.id[:8] for s in store.sessions()}
    assert cells == [
        ["session", "id", "rows", "recall", "trained", "on"],
        ["*", "3", LONG, ids[LONG], "1200", "1188/1200", "2026-11-25", ids["housing"]],
        *sorted(
            [
                ["2", "dining (held back: ask, removed)", ids["dining"], "20", "7/20", "2026-11-21",
                 ids["cs"]],
                ["│", "2", "housing", ids["housing"], "60", "60/60", "2026-11-05", ids["cs"]],
            ],
            key=lambda line: line[-5],
            reverse=True,
        ),
        ["│", "1", "cs (best, v1)", ids["cs"], "106", "105/106", "2026-11-23", "base"],
        ["│", "smollm2-135m"],
    ]  # fmt: skip


def test_log_fits_a_terminal_of_80_columns_and_cuts_nothing(store, mlx_tune_command, monkeypatch):
    from rich.console import Console

    from mlx_tune.cli import lineage_view

    mlx_tune_command("tag", "the-best-so-far-of-all-we-had-and-more", LONG)
    mlx_tune_command("tag", "best", LONG)
    monkeypatch.setattr(lineage_view, "console", lambda: Console(width=80, highlight=False))
    out = mlx_tune_command("log")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    lines = out.splitlines()
    end = lines[0].index("id  ")  # of the one column that gives way
    column = "".join(line[6:end] for line in lines[1:5]).replace(" ", "")
    assert column == f"{LONG}(best,the-best-so-far-of-all-we-had-and-more)"
    assert "1188/1200  2026-11-25" in out


def test_log_as_json_is_complete(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    mlx_tune_command("rm", "dining")
    logged = json.loads(mlx_tune_command("log", "--json")[1])
    cs, top = store.find("cs"), store.head()
    assert logged.keys() == {"head", "base", "sessions", "damaged", "moves"}
    assert (logged["head"], logged["base"], logged["damaged"]) == (top.id, BASE, [])
    assert logged["sessions"][0] == {
        "id": cs.id,
        "folder": cs.folder_name,
        "number": 1,
        "name": "cs",
        "parent": None,
        "created": "2026-11-23T10:00:00+00:00",
        "rows": 106,
        "rehearsed": 212,
        "recall": {"right": 105, "asked": 106},
        "verdict": "promote",
        "tags": ["best"],
        "removed": False,
        "in_use": True,
    }
    dining = next(s for s in logged["sessions"] if s["name"] == "dining")
    assert (dining["removed"], dining["in_use"], dining["verdict"]) == (True, False, "ask")
    assert [move["why"] for move in logged["moves"]] == [
        "train cs",
        "train housing",
        f"train {LONG}",
    ]
    assert (logged["moves"][0]["old"], logged["moves"][0]["new"]) == ("base", cs.id)


def test_log_lists_a_damaged_session_in_a_line_and_ends_well_when_head_is_sound(
    store, mlx_tune_command
):
    path = store.find("dining").path
    damage(path / "session.json")
    code, out, error = mlx_tune_command("log")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1].startswith(f"✗ {path}/session.json: changed after it was written")
    assert "dining" not in out.splitlines()[2]
    (damaged,) = json.loads(mlx_tune_command("log", "--json")[1])["damaged"]
    assert damaged["folder"] == path.name
    assert damaged["problem"].startswith(f"{path}/session.json: ")


def test_log_of_a_damaged_head_names_it_and_marks_nothing(store, mlx_tune_command):
    top = store.head()
    damage(top.path / "session.json")
    code, out, error = mlx_tune_command("log")
    assert code == 4
    assert "*" not in out
    assert "✗" not in out  # the one problem is told once
    assert error.startswith(f"error: {top.path}/session.json: ")
    code, out, _ = mlx_tune_command("log", "--json")
    logged = json.loads(out)
    assert (code, logged["head"]) == (4, top.id)
    assert not any(session["in_use"] for session in logged["sessions"])


def test_log_of_a_damaged_ancestor_marks_the_chain_as_far_as_it_is_whole(store, mlx_tune_command):
    damage(store.find("housing").path / "session.json")
    code, out, error = mlx_tune_command("log", "--json")
    in_use = {s["name"]: s["in_use"] for s in json.loads(out)["sessions"]}
    assert (code, in_use) == (4, {LONG: True, "cs": False, "dining": False})
    assert error.startswith("error: adapters/sessions/0002-housing-")


def test_none_of_these_loads_mlx_or_transformers(store):
    """They are what is left when an installation is broken."""
    probe = (
        "import sys\nfrom mlx_tune.cli import main\n"
        "for words in (['log'], ['verify'], ['tag', 'best'], ['rm', 'dining'], ['gc']):\n"
        "    sys.argv = ['mlx-tune', *words]\n"
        "    try:\n        main.run()\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        "    heavy = {'mlx', 'mlx_lm', 'transformers', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
