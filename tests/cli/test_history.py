"""log and show."""

import itertools
import json
import re

from rich.console import Console

from helpers.stores import flip, sessions_of
from mlx_tune.cli import history
from mlx_tune.store.store import start_head


def test_log_shows_tags_removed_and_held_back_sessions(store, mlx_tune_command):
    mlx_tune_command("tag", "v1", "cs")
    mlx_tune_command("tag", "best", "cs")
    mlx_tune_command("rm", "dining")
    long = store.snapshot().head().name
    lines = [line.split("  ") for line in mlx_tune_command("log")[1].splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    ids = {s.name: s.id[:8] for s in store.snapshot().sessions.values()}
    assert cells == [
        ["session", "id", "rows", "right", "reworded", "trained", "on"],
        ["*", "3", long, ids[long], "1200", "1188/1200", "–", "2026-11-25", ids["housing"]],
        *sorted(
            [
                ["2", "dining (held back: ask, removed)", ids["dining"], "20", "7/20", "–",
                 "2026-11-21", ids["cs"]],
                ["│", "2", "housing", ids["housing"], "60", "60/60", "–", "2026-11-05", ids["cs"]],
            ],
            key=lambda line: line[-6],
            reverse=True,
        ),
        ["│", "1", "cs (best, v1)", ids["cs"], "106", "105/106", "–", "2026-11-23", "base"],
        ["│", "smollm2-135m"],
    ]  # fmt: skip


def test_log_fits_a_terminal_of_80_columns_and_cuts_nothing(store, mlx_tune_command, monkeypatch):

    from mlx_tune.cli import history

    mlx_tune_command("tag", "the-best-so-far-of-all-we-had-and-more", store.snapshot().head().name)
    mlx_tune_command("tag", "best", store.snapshot().head().name)
    monkeypatch.setattr(history, "console", lambda: Console(width=80, highlight=False))
    out = mlx_tune_command("log")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    lines = out.splitlines()
    end = lines[0].index("id  ")  # of the one column that gives way
    more = itertools.takewhile(lambda line: not line[:6].strip(), lines[2:])
    column = "".join(line[6:end] for line in (lines[1], *more)).replace(" ", "")
    assert column == f"{store.snapshot().head().name}(best,the-best-so-far-of-all-we-had-and-more)"
    assert "1188/1200         –  2026-11-25" in out


def test_log_as_json_is_complete(store, mlx_tune_command):
    mlx_tune_command("tag", "best", "cs")
    mlx_tune_command("rm", "dining")
    logged = json.loads(mlx_tune_command("log", "--json")[1])
    cs, top = store.snapshot().find("cs"), store.snapshot().head()
    assert logged.keys() == {"head", "base", "sessions", "damaged", "moves"}
    assert (logged["head"], logged["base"], logged["damaged"]) == (top.id, top.record["base"], [])
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
        "as_taught": None,
        "other_words": None,
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
        f"train {store.snapshot().head().name}",
    ]
    assert (logged["moves"][0]["old"], logged["moves"][0]["new"]) == ("base", cs.id)


def test_log_lists_a_damaged_session_in_a_line_and_ends_well_when_head_is_sound(
    store, mlx_tune_command
):
    path = store.snapshot().find("dining").path
    flip(path / "session.json")
    code, out, error = mlx_tune_command("log")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1].startswith(f"✗ {path}/session.json: changed after it was written")
    assert "dining" not in out.splitlines()[2]
    (damaged,) = json.loads(mlx_tune_command("log", "--json")[1])["damaged"]
    assert damaged["folder"] == path.name
    assert damaged["problem"].startswith(f"{path}/session.json: ")


def test_log_of_a_damaged_head_names_it_and_marks_nothing(store, mlx_tune_command):
    top = store.snapshot().head()
    flip(top.path / "session.json")
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
    flip(store.snapshot().find("housing").path / "session.json")
    code, out, error = mlx_tune_command("log", "--json")
    in_use = {s["name"]: s["in_use"] for s in json.loads(out)["sessions"]}
    assert (code, in_use) == (4, {store.snapshot().head().name: True, "cs": False, "dining": False})
    assert error.startswith("error: adapters/sessions/0002-housing-")


def test_log_lists_sessions_newest_first_with_head_marked(trained_store, mlx_tune_command):
    code, out, _ = mlx_tune_command("log")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].startswith("*  2  housing  ")
    assert lines[2].startswith("│  1  cs ")
    mlx_tune_command("rollback")
    lines = mlx_tune_command("log")[1].splitlines()
    assert lines[1].startswith("   2  housing")
    assert lines[2].startswith("*  1  cs")
    logged = json.loads(mlx_tune_command("log", "--json")[1])
    assert [s["folder"][:8] for s in logged["sessions"]] == ["0001-cs-", "0002-hou"]
    assert logged["head"] == logged["sessions"][0]["id"]


def test_log_before_the_first_session_is_no_error(tmp_path, mlx_tune_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mlx_tune_command("log")[:2] == (0, "adapters: no sessions yet\n")


def test_log_lists_what_is_sound_before_it_complains(trained_store, mlx_tune_command):
    session = next((trained_store / "sessions").glob("0002-*"))
    (session / "session.json").write_text("{}")
    code, out, error = mlx_tune_command("log")
    assert code == 4
    assert "1  cs" in out
    assert "`mlx-tune rollback --to " in error
    code, out, _ = mlx_tune_command("rollback", "--to", 1)
    assert code == 0
    assert out.startswith("✓ HEAD is 0001-cs-")
    assert "(was a damaged session, which is kept)" in out


def test_a_leading_tilde_is_the_home_folder(tmp_path, mlx_tune_command, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    start_head(tmp_path / "mine")
    assert mlx_tune_command("log", "--store=~/mine")[1] == f"{tmp_path}/mine: no sessions yet\n"


def test_a_narrow_terminal_gets_each_session_in_lines_of_its_own(
    store, mlx_tune_command, monkeypatch
):
    monkeypatch.setattr(history, "console", lambda: Console(width=40, force_terminal=True))
    out = re.sub("\x1b\\[[0-9;]*m", "", mlx_tune_command("log")[1])
    assert max(map(len, out.splitlines())) <= 40
    head, *others = reversed(sessions_of(store))
    assert out.startswith("*  3")
    assert head.name in out
    assert all(session.id[:8] in out for session in (head, *others))
    assert out.splitlines()[-1].split() == ["│", "smollm2-135m"]


def test_show_describes_a_session(trained_store, mlx_tune_command):
    code, out, _ = mlx_tune_command("show", "cs")
    assert code == 0
    assert out.startswith("session    1 cs, ")
    assert "cs.json · 5 rows, 0 rehearsed" in out
    assert "rank 2 — as you asked (--rank)" in out
    assert "(default)" not in out
    assert re.search("setting +[0-9]+ more have their defaults; --all shows them\n", out)
    every = mlx_tune_command("show", "cs", "--all")[1]
    assert "setting    seed 0 — the same number repeats the run (default)\n" in every
    assert "--all" not in every
    shown = json.loads(mlx_tune_command("show", "--json")[1])
    assert (shown["name"], shown["number"]) == ("housing", 2)


def test_a_session_is_listed_and_shown_with_how_right_it_is(reworded_store, mlx_tune_command):
    """Two rows of a name and one in prose, each with one other wording."""
    (session,) = json.loads(mlx_tune_command("log", "--json")[1])["sessions"]
    taught, reworded = session["as_taught"], session["other_words"]
    assert (taught["asked"], reworded["asked"]) == (3, 3)
    line = mlx_tune_command("log")[1].splitlines()[1].split()
    assert line[5:7] == [f"{taught['right']}/3", f"{reworded['right']}/3"]
    lines = mlx_tune_command("show")[1].splitlines()
    (told,) = [line for line in lines if line.startswith("right ")]
    confused = taught["confused"] + reworded["confused"]
    assert told == (
        f"right      cs: {taught['right']} of 3 as taught, {reworded['right']} of 3 in other words"
        + (f", confused {confused}" if confused else "")
    )
    assert any(line.startswith("recall     cs: ") for line in lines)


def test_an_unknown_session_lists_what_there_is(trained_store, mlx_tune_command):
    code, _, error = mlx_tune_command("show", "dining")
    assert code == 2
    assert "dining" in error
    assert "0001-cs-" in error


def test_show_tells_it_where_the_session_has_it():
    session = {
        "number": 1, "name": "cs", "created": "today", "parent": None, "sizing": {}, "recall": [],
        "base": {"name": "b", "fingerprint": "f" * 64},
        "data": {"sources": ["cs.json"], "rows": 1, "rehearsed": 0},
        "training": {"steps": 1, "seconds": 1, "last_loss": 1.0, "peak_memory_bytes": 1},
    }  # fmt: skip
    assert "kept" not in dict(history._lines(session, every=False))
    share = {"relative": 0.01, "error": 0.0, "lost": 0.0, "along": 1.0}
    session["fidelity"] = {"stored": ["apart"], **share, "layers": {"model.layers.0": share}}
    assert dict(history._lines(session, every=False))["change"].startswith("1 % of the weights")
