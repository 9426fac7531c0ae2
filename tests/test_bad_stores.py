"""Stores that are not as they were left.

Each at the command line: one line with its place and the fix, its exit code, and nothing lost.
"""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tiny
from helpers.training_lab import RecordingObserver, TrainingLab, facts, isolated_environment
from mlx_tune.files.sealed import seal, sha256
from mlx_tune.store.session import folder_name
from mlx_tune.store.store import SessionStore

FEW = ("--epochs", 1, "--rank", 2)
FILES = (
    "MANIFEST.sha256",
    "adapter_config.json",
    "adapters.safetensors",
    "data.jsonl",
    "session.json",
)
RECORDS = ("MANIFEST.sha256", "session.json")
WEIGHTS = (*RECORDS, "adapter_config.json", "adapters.safetensors")
COMMANDS = {
    "chat": ("chat", "-p", "Where?", "--max-tokens", 2),
    "log": ("log",),
    "train": ("train", "more.json", *FEW),
    "fuse": ("fuse", "--out", "fused"),
    "verify": ("verify",),
}
READS = {"chat": WEIGHTS, "log": RECORDS, "train": FILES, "fuse": WEIGHTS, "verify": FILES}
"""What each command reads of every session of HEAD's chain, and so is bound to check."""


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_base) -> Path:
    """A store of three sessions in a chain, HEAD at the last; tests copy it."""
    folder = tmp_path_factory.mktemp("made")
    with isolated_environment(folder):
        lab = TrainingLab(root=folder, base=tiny_base)
        for name in ("one", "two", "three"):
            lab.train(lab.data(name, facts(name, 2)), epochs=1, rank=2)
    return lab.store


@pytest.fixture
def store(made, tmp_path, monkeypatch) -> SessionStore:
    """A store `s` where one is, and `more.json` beside it."""
    shutil.copytree(made, tmp_path / "s", symlinks=True)
    (tmp_path / "more.json").write_text(json.dumps([{"instruction": "Why?", "response": "So."}]))
    monkeypatch.chdir(tmp_path)
    return SessionStore.open(Path("s"))


@pytest.fixture
def call(mlx_tune_command):
    """Call a command on the store `s`: exit code, standard output, what it complained of, notes.

    HEAD, the sessions and every checkpoint are as they were, whatever happens, or the test fails.
    """

    def call(*words: object, keeps: bool = True) -> tuple[int, str, str, str]:
        before = kept(Path("s"))
        code, out, said = mlx_tune_command(*words, "--store", "s")
        assert not keeps or kept(Path("s")) == before
        assert "Traceback" not in said
        lines = said.splitlines()
        errors = [line for line in lines if line.startswith(("error: ", "       "))]
        assert len(errors) == (0 if code == 0 else 1) or words[0] == "verify", errors
        notes = [line for line in lines if line not in errors]
        return code, out, "\n".join(errors).removeprefix("error: "), "\n".join(notes)

    return call


def kept(root: Path) -> dict[str, object]:
    """Return HEAD and all there is of sessions and checkpoints."""
    found = {path: content(path) for path in [root / "HEAD", *(root / "sessions").rglob("*")]}
    found |= {path: content(path) for path in root.glob("runs/*/checkpoints/**/*")}
    return {str(path.relative_to(root)): what for path, what in found.items()}


def content(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    if not path.exists():
        return None
    mode = path.lstat().st_mode
    return path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)


def flip(path: Path) -> None:
    """Change one bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def member(store: SessionStore, number: int) -> Path:
    return next((store.root / "sessions").glob(f"{number:04d}-*"))


def interrupted(lab: TrainingLab) -> Path:
    """Stop a run of the lab's store after its second epoch; return its folder."""
    observer = RecordingObserver(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        lab.train(lab.data("more", facts("more", 2)), observer=observer, epochs=3, rank=2)
    return observer.run.path


@pytest.fixture
def own(tmp_path, tiny_base, monkeypatch) -> TrainingLab:
    """A lab whose store is `s`, on a base of its own that a test may spoil."""

    class Here(TrainingLab):
        @property
        def store(self) -> Path:
            return Path("s")

    monkeypatch.chdir(tmp_path)
    lab = Here(root=tmp_path, base=shutil.copytree(tiny_base, tmp_path / "base"))
    lab.train(lab.data("one", facts("one", 2)), epochs=1, rank=2)
    return lab


@pytest.mark.parametrize("name", ["new.jsonl", "old.jsonl"])
def test_a_run_whose_rows_changed_since_its_checkpoint_is_not_resumed(own, call, name):
    run = interrupted(own)
    began = json.loads((run / "run.json").read_text())
    path = run / name
    path.write_text(path.read_text().replace("room 7", "room 8"))
    was = began["data_sha256" if name == "new.jsonl" else "old_sha256"]
    code, _, error, _ = call("resume")
    assert (code, error) == (
        5,
        f"{path}: sha256 {sha256(path.read_bytes())[:12]}…, the run began with {was[:12]}…; "
        "put the rows back; or give the run up with "
        f"`mlx-tune resume --discard {run.name} --store s`",
    )
    path.write_text(path.read_text().replace("room 8", "room 7"))
    assert call("resume", keeps=False)[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("place", "number"), [("HEAD", 3), ("ancestor", 2)])
def test_a_flipped_byte_is_found_by_every_command_that_reads_it(
    store, call, place, number, file, command
):
    good = store.snapshot().find(str(number - 1))
    spoilt = member(store, number)
    flip(spoilt / file)
    code, _, error, _ = call(*COMMANDS[command])
    if file not in READS[command]:
        assert (code, error) == (0, "")
        return
    assert code == 4
    # A manifest is found by what it names, which is no longer there.
    names = str(spoilt) if file == "MANIFEST.sha256" else f"{spoilt}/{file}: changed after it was"
    assert error.startswith(names)
    back = f"mlx-tune rollback --to {good.id[:8]} --store s"
    way_back = f"go back to {good.folder_name} with `{back}`"
    assert way_back in error


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("number", [3, 2])
def test_the_way_back_from_a_flipped_byte_leads_to_a_model_that_answers(store, call, number, file):
    flip(member(store, number) / file)
    assert call("rollback", "--to", number - 1, keeps=False)[0] == 0
    assert call(*COMMANDS["chat"])[0] == 0
    assert call(*COMMANDS["train"], keeps=False)[0] == 0


OTHERS = {
    "weights": {"seed": 1},
    "template": {"template": tiny.CHATML.replace("im_start", "start")},
    "tokenizer": {},
}


def spoil(base: Path, kind: str) -> Path:
    """Turn a base into another one, in its place."""
    tiny.base_folder(base, **OTHERS[kind])
    if kind == "tokenizer":
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        tokenizer["pre_tokenizer"]["add_prefix_space"] = True
        (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    return base


@pytest.mark.parametrize("command", ["chat", "train", "fuse"])
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("named", [True, False])
def test_another_base_tokenizer_or_template_is_refused(own, call, named, kind, command):
    was = SessionStore.open(own.store).snapshot().base()["fingerprint"]
    other = spoil(own.root / "other" if named else own.base, kind)
    words = ("--base", other) if named else ()
    shutil.copy("one.json", "more.json")
    code, _, error, _ = call(*COMMANDS[command], *words)
    assert code == 5
    found = re.fullmatch(
        rf"s: its sessions stand on the base {own.base} \({was[:12]}\), not on {other} "
        r"\(([0-9a-f]{12})\); a store holds one base, so name another with --store",
        error,
    )
    assert found, error
    assert found[1] != was[:12]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_resume_on_another_base_is_refused(own, call, kind):
    interrupted(own)
    was = SessionStore.open(own.store).snapshot().base()["fingerprint"]
    spoil(own.base, kind)
    code, _, error, _ = call("resume")
    assert code == 5
    assert f": began on the base {was[:12]}, {own.base} is now " in error


EVERY = {
    **COMMANDS,
    "resume": ("resume",),
    "eval": ("eval",),
    "show": ("show",),
    "plan": ("plan", "more.json"),
    "rollback": ("rollback",),
    "promote": ("promote", "1"),
    "tag": ("tag", "best"),
    "rm": ("rm", "1"),
    "gc": ("gc",),
}


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"version": 2, "requires": []},
            "the store has version 2, this mlx-tune reads up to 1; upgrade mlx-tune",
        ),
        (
            {"version": 1, "requires": ["removal", "thin-sessions"]},
            "the store requires thin-sessions, unknown here; upgrade mlx-tune",
        ),
    ],
)
def test_a_store_of_a_newer_version_is_refused(store, call, record, message, command):
    (store.root / "format.json").write_text(json.dumps(record))
    code, out, error, _ = call(*EVERY[command])
    assert (code, out, error) == (5, "", f"s/format.json: {message}")
    assert json.loads((store.root / "format.json").read_text()) == record


@pytest.mark.parametrize("command", EVERY)
def test_a_session_of_a_newer_version_is_refused(store, call, command):
    path = resealed(member(store, 3), schema=2)
    code, out, error, _ = call(*EVERY[command])
    assert (code, out) == (5, "")
    assert error == (
        f"{path}/session.json: schema 2 is newer than 1, which this version reads; upgrade mlx-tune"
    )


def resealed(path: Path, **changes: object) -> Path:
    """Forge a session: change its record, its manifest and its folder's name, all of a piece."""
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    record = {**json.loads(files["session.json"]), **changes}
    files["session.json"] = json.dumps(record).encode()
    files = seal({name: data for name, data in files.items() if name != "MANIFEST.sha256"})
    for name, data in files.items():
        (path / name).write_bytes(data)
    name = folder_name(record["number"], record["name"], sha256(files["MANIFEST.sha256"]))
    return path.rename(path.with_name(name))


def test_a_run_of_a_newer_version_is_not_resumed(own, call):
    run = interrupted(own)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "schema": 2}))
    code, _, error, _ = call("resume")
    assert (code, error) == (
        5,
        f"{run}/run.json: schema 2 is newer than 1, which this version reads; upgrade mlx-tune",
    )


GARBAGE = {
    "missing": None,
    "empty": b"",
    "noise": bytes(range(256)),
    "cut short": b"0123456789abcdef",
    "an id cut short": b"0" * 63 + b"\n",
}


LOG, PROMOTED = "the last sound line of HEAD.log", "the newest session that was promoted"
REBUILT = (
    "s/HEAD is missing or holds no session's id; going on from {}, by {}; if that is wrong, "
    "`mlx-tune rollback --to SESSION --store s`"
)


def lose_head(store: SessionStore, kind: str, source: str) -> Path:
    """Spoil HEAD after a rollback; return the session it is bound to be rebuilt at."""
    (store.root / "HEAD").unlink()
    if GARBAGE[kind] is not None:
        (store.root / "HEAD").write_bytes(GARBAGE[kind])
    if source == PROMOTED:
        (store.root / "HEAD.log").unlink()
    return member(store, 2 if source == LOG else 3)


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("source", [LOG, PROMOTED])
def test_a_head_that_is_missing_or_garbage_is_rebuilt(store, call, source, kind):
    """HEAD.log knows that a rollback followed the last training; without it nobody can."""
    assert call("rollback", keeps=False)[0] == 0
    head = lose_head(store, kind, source)
    code, out, _, said = call("log")
    assert (code, said) == (0, REBUILT.format(head.name, source))
    assert (
        next(line for line in out.splitlines() if line.startswith("*")).split()[3]
        == (head.name[-8:])
    )


@pytest.mark.parametrize("command", [c for c in EVERY if c not in ("rm", "gc", "resume")])
def test_every_command_works_without_a_head_and_says_so(store, call, command):
    (store.root / "HEAD").unlink()
    changes = command in ("train", "rollback", "promote")
    code, out, _, said = call(*EVERY[command], keeps=not changes)
    assert code == 0
    note = REBUILT.format(member(store, 3).name, LOG)
    assert note in (out if command == "verify" else said)
    if changes:
        assert "HEAD is missing" not in call("log")[3]


def test_gc_moves_nothing_while_head_is_garbage(store, call):
    lose_head(store, "noise", LOG)
    code, out, error, _ = call("gc")
    assert (code, out) == (4, "")
    assert error.startswith("gc moved nothing, for something is damaged: s/HEAD is missing or ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parent_that_is_missing_is_named_with_the_way_back(store, call, tmp_path, command):
    parent = store.snapshot().find("2")
    parent.path.rename(tmp_path / "away")
    code, _, error, _ = call(*COMMANDS[command])
    assert code == 4
    good = store.snapshot().find("1")
    assert error == (
        f"{member(store, 3)}: its parent {parent.id[:12]}… is missing from the store; "
        f"run `mlx-tune doctor --store s`; go back to {good.folder_name} with "
        f"`mlx-tune rollback --to {good.id[:8]} --store s`"
    )
    (tmp_path / "away").rename(parent.path)
    assert call("verify")[0] == 0


READERS = [name for name in EVERY if name not in ("rollback", "promote", "resume", "rm")]


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("left", [2, 0])
def test_a_head_that_is_missing_is_named_with_a_way_back_that_works(store, call, command, left):
    head, base = store.snapshot().head(), store.snapshot().base()["name"]
    sessions = [member(store, number) for number in (3, 2, 1)]
    for path in sessions[: 3 - left]:
        shutil.rmtree(path)
    code, _, error, _ = call(*EVERY[command])
    ref = sessions[1].name[-8:] if left else "base"
    assert code == 4
    assert f"s/sessions: {head.id[:12]}… is missing; HEAD names it, so go back to " in error
    back = f"rollback --to {ref} --store s"
    assert f"with `mlx-tune {back}`" in error
    assert call(*back.split()[:3], keeps=False)[0] == 0
    assert call("verify")[0] == 0
    assert call(*COMMANDS["chat"], "--base", base)[0] == 0


def test_a_store_that_lost_every_session_is_trained_on_after_the_way_back(store, call):
    name = store.snapshot().base()["name"]
    shutil.rmtree(store.root / "sessions")
    assert call(*COMMANDS["train"], "--base", name)[0] == 4
    assert call("rollback", "--to", "base", keeps=False)[0] == 0
    assert call(*COMMANDS["train"], "--base", name, keeps=False)[0] == 0
    assert [one.number for one in store.snapshot().sessions.values()] == [1]


def test_a_cycle_of_sessions_cannot_be_made(store, call):
    """An id covers the parent's id: whoever changes a parent has made another session."""
    one, two = store.snapshot().find("1"), store.snapshot().find("2")
    path, record = one.path / "session.json", json.loads((one.path / "session.json").read_text())
    path.write_text(json.dumps({**record, "parent": two.id}))
    code, _, error, _ = call("verify")
    assert code == 4
    assert f"{path}: changed after it was written" in error
    # With the manifest forged as well, the folder's name gives it away.
    forged = resealed(one.path, parent=two.id)
    forged.rename(one.path)
    code, _, error, _ = call("verify")
    assert code == 4
    assert f"{one.path}: its MANIFEST.sha256 and session.json belong to {forged.name}" in error
    # With that forged too, it is a new session on `two`, whose own parent is gone.
    one.path.rename(forged)
    code, _, error, _ = call("verify")
    assert code == 4
    assert f"{two.path}: its parent {one.id[:12]}… is missing from the store" in error


def symlink(path: Path) -> None:
    """Put a link to the very same bytes in a file's place."""
    path.symlink_to(path.rename(path.parent.parent.parent / f"moved-{path.name}").resolve())


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero never ends
    except PermissionError:
        pytest.skip("only root makes devices")


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))  # relative: an absolute one may be too long


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


KINDS = {"link": symlink, "FIFO": fifo, "device": device, "socket": unix_socket, "folder": folder}


@pytest.mark.parametrize("command", ["log", "chat", "verify"])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_session_file_that_is_no_regular_file_is_refused(store, call, kind, file, command):
    session = member(store, 3)
    KINDS[kind](session / file)
    code, _, error, _ = call(*COMMANDS[command])
    assert code == 4
    expected = (
        f"{session}/{file}: a link, FIFO, device or folder where a regular file belongs; "
        if file == "MANIFEST.sha256"
        else f"{session}: '{file}' is not a regular file; "
    )
    assert error.startswith(f"{expected}run `mlx-tune doctor`")


@pytest.mark.parametrize("name", ["extra", ".hidden", "session.json~"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_extra_entry_in_a_session_that_is_no_regular_file_is_refused(store, call, kind, name):
    session = member(store, 3)
    (session / name).touch()
    KINDS[kind](session / name)
    code, _, error, _ = call("log")
    assert code == 4
    assert error.startswith(f"{session}: '{name}' is not a regular file; run `mlx-tune doctor`")


def test_a_link_in_the_place_of_a_session_is_refused(store, call, tmp_path):
    session = member(store, 3)
    session.symlink_to(session.rename(tmp_path / "elsewhere"))
    code, _, error, _ = call("log")
    assert code == 4
    assert error.startswith(f"{session}: not a folder; run `mlx-tune doctor`")


HOLDER = """
import sys
from pathlib import Path
from mlx_tune.files import lock
with lock.hold(Path(sys.argv[1]), what="train cs"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """Another process that holds a lock of the store, as a training does; gives its pid."""
    command = [sys.executable, "-c", HOLDER, str(store.root / "training.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        yield child.pid
        child.stdin.close()
        assert child.wait() == 0


@pytest.mark.parametrize("command", ["train", "resume", "gc"])
def test_a_second_training_at_once_is_refused(store, call, holder, command):
    if command == "resume":  # there has to be a run to go on with
        run = next((store.root / "runs").glob("*-three"))
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, "phase": "train"}))
    runs = sorted((store.root / "runs").iterdir())
    code, _, error, _ = call(*EVERY[command])
    assert code == 6
    assert re.fullmatch(
        rf"s/training.lock: held for train cs by process {holder} on .+ since "
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ; nothing was changed, try again when it has ended",
        error,
    ), error
    assert sorted((store.root / "runs").iterdir()) == runs


def test_everything_else_works_beside_a_training(store, call, holder):
    for command in ("log", "chat", "verify", "fuse", "rollback", "tag"):
        assert call(*EVERY[command], keeps=command != "rollback")[0] == 0, command
