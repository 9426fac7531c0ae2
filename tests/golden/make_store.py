"""Write the golden stores: small stores as this version writes them, kept for every later one.

When the layout of a store changes, give the new ones a name of their own, and leave those there are
as they are: they stand for the stores that people have::

    python tests/golden/make_store.py

``store-v1`` has a chain of two sessions, a branch that was held back, a run that became a session
and one that was interrupted; ``store-v1-removal`` has a tag and a mark for removal besides. Each
holds keys that this version does not know, as a newer minor version would write them.
"""

import argparse
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from mlx_tune.store import runs
from mlx_tune.store import store as store_module
from mlx_tune.store.labels import mark_removed, tag
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore

UNKNOWN = {"of_a_newer_minor_version": {"kept": ["as it is", 1, 0.5, None, True]}}
BASE = {"name": "tiny", "fingerprint": "5" * 64}
START = datetime(2026, 11, 23, 10, 15, 7, tzinfo=UTC)
CONFIG = {
    "fine_tune_type": "lora",
    "num_layers": 1,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
}


@contextmanager
def fixed_clock() -> Iterator[None]:
    """Let each look at the clock be one second after the last."""
    moments = (START + timedelta(seconds=count) for count in range(10**6))
    clock = mock.Mock(wraps=datetime, **{"now.side_effect": lambda _zone: next(moments)})
    with (
        mock.patch.object(store_module, "datetime", clock),
        mock.patch.object(runs, "datetime", clock),
    ):
        yield


def adapter(seed: int) -> bytes:
    """Return a whole safetensors file of two factors, float32, made by hand."""
    factors = {"lora_a": (4, 2), "lora_b": (2, 4)}
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    data = b""
    for name, shape in factors.items():
        values = [(seed + index) / 8 for index in range(8)]
        header[f"model.layers.0.self_attn.q_proj.{name}"] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + 32],
        }
        data += struct.pack("<8f", *values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def train(store: SessionStore, name: str, seed: int, verdict: str = "promote") -> Session:
    """Commit a session on HEAD, and promote it if that is the verdict."""
    parent = store.snapshot().head()
    rows = [{"question": f"Where is {name}?", "answer": f"Room {seed}."}]
    session = store.commit(
        name=name,
        parent=parent,
        record={
            "verdict": verdict,
            "base": BASE,
            "created": f"2026-11-23T10:0{seed}:00",
            **UNKNOWN,
        },
        files={
            "adapters.safetensors": adapter(seed),
            "adapter_config.json": json.dumps(CONFIG).encode() + b"\n",
            "data.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        },
    )
    if verdict == "promote":
        store.move_head(session, expected=parent, why=f"train {name}")
    return session


def attempt(store: SessionStore, name: str, parent: Session | None, phase: str) -> Run:
    """Make a run with three checkpoints, the second of which was the best."""
    record = {"phase": "train", "parent": parent.id if parent else None, "base": BASE, **UNKNOWN}
    run = Run.create(store.root, name=name, record=record, files={"new.jsonl": b'{"text": "a"}\n'})
    for step in (1, 2, 3, 4):
        run.log(number=step, loss=1 / step)
        files = {
            "adapters.safetensors": adapter(step),
            "state.json": b'{"steps_done": %d}\n' % step,
        }
        run.save_checkpoint(step, files, best=2)
    run.set(phase=phase)
    return run


def make(root: Path) -> SessionStore:
    """Write store-v1."""
    store = SessionStore.open(root)
    first = train(store, "cs", 1)
    attempt(store, "cs", None, "done").set(session=first.id)
    train(store, "tennis", 2, "hold")
    train(store, "dining", 3)
    attempt(store, "chess", store.snapshot().head(), "train")
    place = root / "format.json"
    known = json.loads(place.read_bytes())
    place.write_text(json.dumps({**known, **UNKNOWN}, indent=2, sort_keys=True) + "\n")
    return store


def make_removal(root: Path) -> SessionStore:
    """Write store-v1-removal."""
    store = make(root)
    tag(store, "good", store.snapshot().find("1"))
    held = store.snapshot().find("tennis")
    assert held is not None
    mark_removed(store, held)
    return store


MAKERS = {"store-v1": make, "store-v1-removal": make_removal}


def write(folder: Path, name: str) -> Path:
    """Write one golden store into a folder."""
    with fixed_clock():
        MAKERS[name](folder / name)
    (folder / name / ".tmp").rmdir()  # it is empty, and git keeps no empty folders
    return folder / name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    for name in MAKERS:
        print(write(parser.parse_args().out, name))
