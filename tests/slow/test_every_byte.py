"""Every bit of a session flipped and every length it can be cut to: each is found and located."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.files.sealed import MANIFEST
from mlx_tune.settings import typed
from mlx_tune.store.session import SESSION_FILE, Session
from mlx_tune.store.store import SessionStore

pytestmark = pytest.mark.slow

FACTORS = {
    "model.layers.0.self_attn.q_proj.lora_a": np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2),
    "model.layers.0.self_attn.q_proj.lora_b": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4),
}
FILES = {
    "adapters.safetensors": save(FACTORS),
    "adapter_config.json": b'{"lora_parameters": {"rank": 2, "scale": 2.0}}\n',
    "data.jsonl": b'{"instruction": "Where?", "response": "Room 4."}\n',
}
EVERY_FILE = [*FILES, SESSION_FILE, MANIFEST]


@pytest.fixture
def sessions(tmp_path) -> tuple[Session, Session]:
    """Two sessions, the second trained on the first; HEAD is on the second."""
    store = SessionStore.open(tmp_path / "store")
    first = _train(store, "cs", None)
    return first, _train(store, "dining", first)


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what was done to some bytes, and what they are then."""
    for offset, byte in enumerate(data):
        for mask in (*(1 << bit for bit in range(8)), 0xFF):
            flipped = bytes([byte ^ mask])
            yield f"byte {offset} ^ {mask:#04x}", data[:offset] + flipped + data[offset + 1 :]
    for length in range(len(data)):
        yield f"cut to {length} bytes", data[:length]


def unfound(file: Path, check: Callable[[], str]) -> tuple[int, list[str]]:
    """Damage a file in every way; return in how many, and those after which a check is wrong.

    Args:
        file: Put back afterwards.
        check: Returns what is wrong with how the damage was reported, nothing where it is right.
    """
    sound = file.read_bytes()
    tried, wrong = 0, []
    for what, data in damages(sound):
        tried += 1
        file.unlink()  # a new file: ext4 flushes one that was emptied and written again
        file.write_bytes(data)
        if complaint := check():
            wrong.append(f"{what}: {complaint}")
    file.write_bytes(sound)
    return tried, wrong


def read_head(root: Path, skip: str | None = None) -> None:
    """Read HEAD's chain as a command does before it trains or chats, all files but one."""
    store = SessionStore.open(root)
    for session in store.snapshot().chain(store.snapshot().head()):
        for name in session.hashes:
            if name != skip:
                session.read(name)


def place(session: Session, name: str) -> tuple[str, str]:
    """Return what a message must hold; two files disagree where the manifest is damaged."""
    return (str(session.path), name) if name == MANIFEST else (f"{session.path / name}: ", "")


def reported(call: Callable[[], object], *expected: str) -> str:
    """Return what is missing from what a call says of the damage."""
    try:
        call()
    except DamagedStoreError as error:
        missing = [text for text in expected if text not in str(error)]
        return f"no word of {missing} in {str(error)!r}" if missing else ""
    return "not found"


@pytest.mark.parametrize("name", EVERY_FILE)
def test_damage_to_heads_session_is_found_and_its_file_named(sessions, name):
    child = sessions[1]
    root = child.path.parents[1]
    check = lambda: reported(lambda: read_head(root), *place(child, name))  # noqa: E731 one check, used once below
    assert check() == "not found"
    tried, wrong = unfound(child.path / name, check)
    print(f"{name}: {tried} kinds of damage")
    assert wrong == []


@pytest.mark.parametrize("name", EVERY_FILE)
def test_verify_finds_the_damage_and_names_its_file(sessions, name):
    child = sessions[1]
    check = lambda: reported(child.verify, *place(child, name))  # noqa: E731 as above
    assert check() == "not found"
    assert unfound(child.path / name, check)[1] == []


@pytest.mark.parametrize("name", [SESSION_FILE, MANIFEST])
def test_damage_that_hides_heads_session_comes_with_the_way_back(sessions, name):
    parent, child = sessions
    store = SessionStore.open(child.path.parents[1])
    command = typed(f"rollback --to {parent.id[:8]}", store.root)
    back = f"go back to {parent.folder_name} with `{command}`"
    check = lambda: reported(  # noqa: E731 as above
        lambda: store.snapshot().head(), *place(child, name), back
    )
    assert unfound(child.path / name, check)[1] == []


@pytest.mark.parametrize("name", EVERY_FILE)
def test_damage_to_a_parent_is_found_from_its_child(sessions, name):
    parent, child = sessions
    root = child.path.parents[1]
    check = lambda: reported(lambda: read_head(root), *place(parent, name))  # noqa: E731 as above
    assert unfound(parent.path / name, check)[1] == []


@pytest.mark.parametrize("name", [SESSION_FILE, MANIFEST])
def test_a_damaged_session_that_is_asked_for_is_not_found_and_a_note_says_why(sessions, name):
    parent, child = sessions
    root = child.path.parents[1]
    SessionStore.open(root).move_head(parent, expected=child, why="rollback")

    def check() -> str:
        store = SessionStore.open(root)
        try:
            store.snapshot().find("dining")
        except UsageError:
            notes = " ".join(store.snapshot().notes)
            missing = [text for text in place(child, name) if text not in notes]
            return f"no word of {missing} in {notes}" if missing else ""
        return "not found"

    assert check() == "not found"
    assert unfound(child.path / name, check)[1] == []


@pytest.mark.parametrize("name", FILES)
def test_a_reader_that_leaves_a_file_out_is_caught(sessions, name):
    child = sessions[1]
    root = child.path.parents[1]
    check = lambda: reported(lambda: read_head(root, skip=name), name)  # noqa: E731 as above
    tried, wrong = unfound(child.path / name, check)
    assert len(wrong) == tried


def _train(store: SessionStore, name: str, parent: Session | None) -> Session:
    session = store.commit(name=name, parent=parent, record={"verdict": "promote"}, files=FILES)
    store.move_head(session, expected=parent, why=f"train {name}")
    return session
