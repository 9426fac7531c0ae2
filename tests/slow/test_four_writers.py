"""Four processes commit at once: with the lock they make one chain, without it nothing is lost."""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mlx_tune.store import snapshot
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

pytestmark = pytest.mark.slow

WRITERS, COMMITS = 4, 25
TRIES = 5
WRITER = """
import sys, time
from pathlib import Path
from mlx_tune.errors import LockedError
from mlx_tune.files import lock
from mlx_tune.store import store as store_module
from mlx_tune.store.store import SessionStore

root, writer, commits, locks = sys.argv[1:]
store_module.PATIENCE_SECONDS = 1e9  # however slow the disk
if locks == "no locks":
    lock.fcntl.flock = lambda *_: None
store = SessionStore.open(Path(root))
print("ready", flush=True)
sys.stdin.readline()
for index in range(int(commits)):
    name = f"w{writer}-{index}"
    with store.locked(f"train {name}"):
        parent = store.snapshot().head()
        time.sleep(0.002)  # as a training lies between the two
        files = {"notes.txt": name.encode() * 99, "data.jsonl": b"{}\\n"}
        session = store.commit(name=name, parent=parent, record={"verdict": "promote"}, files=files)
        print("committed", session.id, flush=True)
        try:
            store.move_head(session, expected=parent, why=f"train {name}")
            print("moved", session.id, flush=True)
        except LockedError:
            pass
print("notes", list(store.snapshot().notes), flush=True)
"""


def write_all_at_once(root: Path, locks: str) -> dict[str, list[str]]:
    """Let four processes write; return what they said, by the first word of each line."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(number), str(COMMITS), locks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said: dict[str, list[str]] = {"committed": [], "moved": [], "notes": []}
    for writer in writers:
        for line in writer.communicate()[0].splitlines():
            kind, rest = line.split(" ", 1)
            said[kind].append(rest)
        assert writer.returncode == 0
    return said


def test_with_the_lock_a_hundred_commits_are_one_chain(tmp_path):
    root = tmp_path / "s"
    said = write_all_at_once(root, "locks")
    store = SessionStore.open(root)
    chain = store.snapshot().chain(store.snapshot().head())
    assert [session.number for session in chain] == list(range(1, WRITERS * COMMITS + 1))
    assert {session.id for session in chain} == set(said["committed"]) == set(said["moved"])
    assert len(store.snapshot().sessions) == WRITERS * COMMITS
    moves = snapshot.head_moves(root)
    assert [move.new for move in moves] == [session.id for session in chain]
    assert [move.old for move in moves] == ["base", *(session.id for session in chain[:-1])]
    assert snapshot.torn_log_lines(root) == []
    assert verify(store.snapshot()).problems == []
    assert said["notes"] == ["[]"] * WRITERS


def test_without_the_lock_nothing_is_lost(tmp_path):
    """The control: where they wrote one chain here too, the test above would say nothing."""
    for attempt in range(TRIES):
        root = tmp_path / str(attempt)
        said = write_all_at_once(root, "no locks")
        store = SessionStore.open(root)
        found = verify(store.snapshot())
        assert (found.problems, found.sessions) == ([], WRITERS * COMMITS)
        assert set(store.snapshot().sessions) == set(said["committed"])
        assert store.snapshot().head().id in said["moved"]
        moves = snapshot.head_moves(root)
        assert sorted(move.new for move in moves) == sorted(said["moved"])
        assert snapshot.torn_log_lines(root) == []
        assert store.snapshot().notes == ()
        assert said["notes"] == ["[]"] * WRITERS
        parents = Counter(session.parent for session in store.snapshot().sessions.values())
        print(f"{sum(parents.values()) - len(parents)} forks")
        if max(parents.values()) > 1:
            break
    else:
        pytest.fail("no fork happened, so the lock was not seen to matter")
    broken = [a.new != b.old for a, b in itertools.pairwise(moves)]
    print(f"{sum(broken)} moves that others overtook")
