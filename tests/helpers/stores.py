"""A small store of made-up sessions, and what tests ask about one."""

import errno
import json
import os
import random
import struct
from pathlib import Path

import pytest

from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore

BASE = {"name": "small", "fingerprint": "f" * 64}
PROMOTED = {"verdict": "promote", "base": BASE}
REFUSED = {"verdict": "refuse", "base": BASE}


def commit(
    store: SessionStore, name: str, parent: Session | None = None, **record: object
) -> Session:
    files = {**adapter_files(name), "data.jsonl": b"{}\n"}
    return store.commit(name=name, parent=parent, record=record or PROMOTED, files=files)


def adapter_files(name: str, width: int = 2) -> dict[str, bytes]:
    """Return the two files of an adapter of rank 1 on one layer, its numbers drawn from a name."""
    numbers = random.Random(name)
    half = 4 * width
    header = {
        f"model.layers.0.q_proj.{leaf}": {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        for leaf, shape, offsets in (
            ("lora_a", [width, 1], [0, half]),
            ("lora_b", [1, width], [half, 2 * half]),
        )
    }
    text = json.dumps(header).encode()
    data = b"".join(struct.pack("<f", numbers.random()) for _ in range(2 * width))
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 1, "scale": 2.0}}
    return {
        "adapters.safetensors": struct.pack("<Q", len(text)) + text + data,
        "adapter_config.json": json.dumps(config).encode(),
    }


def train(store: SessionStore, name: str, **record: object) -> Session:
    """Commit on HEAD and promote, as `mlx-tune train` does."""
    parent = store.snapshot().head()
    session = commit(store, name, parent, **record)
    store.move_head(session, expected=parent, why=f"train {name}")
    return session


def sessions_of(store: SessionStore) -> list[Session]:
    """Return the sound sessions, by number, then id."""
    return list(store.snapshot().sessions.values())


def start_run(store: SessionStore, parent: Session | None, phase: str = "train") -> Run:
    record = {"phase": phase, "parent": parent.id if parent else None}
    return Run.create(store.root, name="cs", record=record, files={"new.jsonl": b"{}\n"})


def state(root: Path) -> dict[str, bytes | str]:
    """Return everything in a store: bytes of files, targets of links, folders by a slash.

    The files of locks are left out: whoever asks for one makes it, and signs it.
    """
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name in {"lock", "training.lock"}:
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name + "/"] = ""
        else:
            found[name] = path.read_bytes() if path.is_file() else "no regular file"
    return found


def names(folder: Path) -> list[str]:
    """Return what lies in a folder; nothing where there is none."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_huge(path: Path) -> None:
    """Make a file eight terabytes long, which take no room: reading it would take all memory."""
    with path.open("ab") as file:
        try:
            file.truncate(1 << 43)
        except OSError:
            pytest.skip("no sparse files here")


def flip(path: Path, index: int = 0) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def message(kind: type[Exception], call) -> str:
    """Return the whole line that a call is refused with."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def fail_with(code: int):
    """Return a system call that always fails so."""

    def failing(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return failing


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list that takes every flush, rename and deletion, with the path it was about."""
    calls: list[tuple[str, str]] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "unlink")}

    def fsync(descriptor: int) -> None:
        calls.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real["fsync"](descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        real["rename"](source, target)

    def unlink(path: Path, **kwargs: object) -> None:
        calls.append(("unlink", str(path)))
        real["unlink"](path, **kwargs)

    for name, call in (("fsync", fsync), ("rename", rename), ("unlink", unlink)):
        monkeypatch.setattr(os, name, call)
    return calls


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="descriptors are named by Linux"
)


def unlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let file locks be unknown, as on a network disk that has none."""
    from mlx_tune.files import lock

    monkeypatch.setattr(lock.fcntl, "flock", fail_with(errno.ENOLCK))


def scored_record(rows: int, right: int, verdict: str = "promote") -> dict[str, object]:
    """Return the record of a session that answers some of its own questions."""
    reason = (
        "1 cs keeps 90 % of its score (54 of 60 right, 60 when learned); at least 95 % is wanted"
    )
    return {
        "created": f"2026-11-{rows % 28 + 1:02d}T10:00:00+00:00",
        "verdict": verdict,
        "base": {"name": "smollm2-135m", "source": "wheel:small", "fingerprint": "f" * 64},
        "data": {"rows": rows, "rehearsed": 2 * rows},
        "recall": [{"verbatim": {"right": right, "asked": rows}}],
        **({} if verdict == "promote" else {"gate": {"reasons": [reason]}}),
    }
