"""Writes what a chain of sessions learned as LoRA adapters that other programs load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.errors import UsageError
from mlx_tune.files.durable import check_new, new_file, new_folder
from mlx_tune.models.bases import Say
from mlx_tune.models.gguf_export import write_lora
from mlx_tune.store.session import Session
from mlx_tune.training.adapter import Adapter, joined
from mlx_tune.training.peft import peft_files
from mlx_tune.workflows.model_card import CARD, model_card
from mlx_tune.workflows.workspace import (
    Workspace,
    folding,
    open_workspace,
    read_adapter,
    read_adapters,
)


@dataclass(frozen=True, kw_only=True)
class ExportedAdapter:
    """An adapter that was written.

    Attributes:
        path: The folder or file.
        sessions: What it holds, root first.
        base: What its config calls the base model.
        rank: Of all its modules.
    """

    path: Path
    sessions: tuple[Session, ...]
    base: str
    rank: int

    def to_json(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        return {
            "path": str(self.path),
            "sessions": [session.folder_name for session in self.sessions],
            "base": self.base,
            "rank": self.rank,
        }


def export_peft(
    store_root: Path,
    *,
    out: Path,
    session: str | None,
    base: str | None,
    separate: bool,
    say: Say,
) -> list[ExportedAdapter]:
    """Write a session's chain as one PEFT adapter, or each of its sessions as one.

    One adapter has all factors side by side, so its rank is the sum of the chain's and it computes
    what the chain does. Separate ones do that only together: each was trained on top of those
    before it.

    Args:
        store_root: The store's folder.
        out: A folder that does not exist yet.
        session: A session, or None for HEAD.
        base: The base model, when not the store's own.
        separate: A folder for each session.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: The folder exists, or the bare base is to be written.
        DamagedStoreError: A session of the chain is damaged.
    """
    opened = _opened(store_root, out, session, base, say)
    found = folding(opened.chain)
    name = opened.info.name_elsewhere
    parts = _parts(found, out) if separate else [(out, tuple(found), joined(read_adapters(found)))]
    written = []
    with new_folder(out) as scratch:
        for folder, sessions, adapter in parts:
            place = scratch / folder.relative_to(out)
            place.mkdir(exist_ok=True)
            for file, data in peft_files(adapter, base=name).items():
                (place / file).write_bytes(data)
            card = model_card(opened.info, sessions, library="peft", title=folder.name)
            (place / CARD).write_text(card, encoding="utf-8")
            written.append(
                ExportedAdapter(path=folder, sessions=sessions, base=name, rank=adapter.rank)
            )
    return written


def export_lora_gguf(
    store_root: Path, *, out: Path, session: str | None, base: str | None, say: Say
) -> ExportedAdapter:
    """Write a session's chain as one LoRA adapter for llama.cpp, beside the base's own GGUF file.

    Args:
        store_root: The store's folder.
        out: A file that does not exist yet.
        session: A session, or None for HEAD.
        base: The base model, when not the store's own.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: The file exists, or the bare base is to be written.
        InputError: llama.cpp has no name for the architecture.
        DamagedStoreError: A session of the chain is damaged.
    """
    opened = _opened(store_root, out, session, base, say)
    adapter = joined(read_adapters(opened.chain))
    with new_file(out) as scratch:
        write_lora(scratch, adapter.factors, adapter.scale * adapter.rank, opened.info)
    return ExportedAdapter(
        path=out,
        sessions=tuple(folding(opened.chain)),
        base=opened.info.name_elsewhere,
        rank=adapter.rank,
    )


def _opened(root: Path, out: Path, session: str | None, base: str | None, say: Say) -> Workspace:
    """Check everything that can be before anything is read."""
    check_new(out)
    opened = open_workspace(root, session=session, base=base, say=say, needs_sessions=True)
    if not opened.chain:
        raise UsageError("the bare base has no adapter; name a session with --session")
    if "quantization" in opened.info.config:
        say("note: the sessions were trained on quantised weights; on others they differ a little")
    return opened


def _parts(
    sessions: Sequence[Session], out: Path
) -> list[tuple[Path, tuple[Session, ...], Adapter]]:
    return [(out / one.folder_name, (one,), read_adapter(one)) for one in sessions]
