"""Writes a merged model as one file for llama.cpp and what builds on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.fidelity import Fidelity, FidelityMeter
from mlx_tune.errors import UsageError
from mlx_tune.files.durable import new_file, new_folder
from mlx_tune.models import gguf_export
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import Base
from mlx_tune.models.ollama import modelfile
from mlx_tune.store.session import Session
from mlx_tune.workflows.workspace import fold_to_write, open_workspace


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A merged model that was written.

    Attributes:
        path: The file.
        base: What it was merged from.
        chain: The sessions merged into it, root first; none for the bare base.
        kind: What its matrices are stored as.
        fidelity: What they kept of the chain's change.
    """

    path: Path
    base: BaseInfo
    chain: tuple[Session, ...]
    kind: str
    fidelity: Fidelity

    def to_json(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        return {
            "path": str(self.path),
            "base": self.base.source,
            "sessions": [session.folder_name for session in self.chain],
            "type": self.kind,
            "fidelity": self.fidelity.to_json() if self.chain else None,
        }


def export_gguf(
    store_root: Path,
    *,
    out: Path,
    session: str | None,
    base: str | None,
    kind: str | None,
    say: Say,
) -> ExportedModel:
    """Fold a session's chain into its base and write the model as GGUF.

    Args:
        store_root: The store's folder.
        out: A file that does not exist yet.
        session: A session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        kind: A type of `models/gguf_export.py`; None for bf16 where the base has it, else f16.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: The file exists, or there is no such type.
        InputError: GGUF has no name for the architecture or the tokenizer.
    """
    plan = _Export.of(store_root, out=out, session=session, base=base, kind=kind, say=say)
    with new_file(out) as scratch:
        _, written = plan.write(scratch)
    return written


OLLAMA_WEIGHTS, MODELFILE = "model.gguf", "Modelfile"


def export_ollama(
    store_root: Path,
    *,
    out: Path,
    session: str | None,
    base: str | None,
    kind: str | None,
    say: Say,
) -> ExportedModel:
    """Write the same beside a Modelfile, for ``ollama create``.

    Args:
        store_root: The store's folder.
        out: A folder that does not exist yet.
        session: As for :func:`export_gguf`.
        base: Likewise.
        kind: Likewise.
        say: Told as well where the chat template is none that Ollama's language can say.

    Raises:
        UsageError: The folder exists, or there is no such type.
        InputError: As for :func:`export_gguf`.
    """
    plan = _Export.of(store_root, out=out, session=session, base=base, kind=kind, say=say)
    with new_folder(out) as scratch:
        loaded, written = plan.write(scratch / OLLAMA_WEIGHTS)
        text, has_template = modelfile(loaded.tokenizer, OLLAMA_WEIGHTS)
        (scratch / MODELFILE).write_text(text, encoding="utf-8")
    if not has_template and loaded.tokenizer.template is not None:
        say(
            f"note: the chat template does more than put texts around messages, so {MODELFILE} has "
            "no TEMPLATE; Ollama may know this model's, else write one"
        )
    return written


@dataclass(frozen=True, kw_only=True)
class _Export:
    """What is to be written where.

    Attributes:
        out: The file or folder, as a person named it.
        info: The base.
        chain: The sessions to merge into it.
        kind: A type of `models/gguf_export.py`.
    """

    out: Path
    info: BaseInfo
    chain: tuple[Session, ...]
    kind: str

    @staticmethod
    def of(
        root: Path, *, out: Path, session: str | None, base: str | None, kind: str | None, say: Say
    ) -> "_Export":
        """Check everything before anything is loaded."""
        if out.exists() or out.is_symlink():
            raise UsageError(f"{out}: exists, and nothing is overwritten; name another")
        if kind is not None:
            gguf_export.check_type(kind)
        needs = session is None  # a mistyped store must not pass for a trained one
        opened = open_workspace(root, session=session, base=base, say=say, needs_sessions=needs)
        say("folding and writing…")
        stored = kind or gguf_export.default_type(opened.info)
        return _Export(out=out, info=opened.info, chain=opened.chain, kind=stored)

    def write(self, path: Path) -> tuple[Base, ExportedModel]:
        """Fold and write the weights; return the folded model, whose tokenizer is wanted still."""
        meter = FidelityMeter(gguf_export.round_trip(self.kind), stored_as=self.kind)
        loaded, config = fold_to_write(self.info, self.chain, meter)
        gguf_export.write_gguf(path, loaded, config, self.kind)
        written = ExportedModel(
            path=self.out,
            base=self.info,
            chain=self.chain,
            kind=self.kind,
            fidelity=meter.fidelity(),
        )
        return loaded, written
