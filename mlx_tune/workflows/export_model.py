"""Writes a merged model as one file for llama.cpp and what builds on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.fidelity import Fidelity, FidelityMeter
from mlx_tune.files.durable import check_new, new_file, new_folder
from mlx_tune.models import gguf_export
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.ollama import modelfile
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.store.session import Session
from mlx_tune.workflows.workspace import Workspace, fold_to_write, open_workspace


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A merged model that was written.

    Attributes:
        path: The file, or Ollama's folder.
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


OLLAMA_WEIGHTS, MODELFILE = "model.gguf", "Modelfile"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What a person asked for.

    Attributes:
        store: The store's folder.
        out: A file, or for Ollama a folder, that does not exist yet.
        session: A session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        kind: A type of `models/gguf_export.py`; None for bf16 where the base has it, else f16.
    """

    store: Path
    out: Path
    session: str | None = None
    base: str | None = None
    kind: str | None = None


def export_gguf(request: ExportRequest, *, say: Say) -> ExportedModel:
    """Fold a session's chain into its base and write the model as GGUF.

    Args:
        request: What, and where to.
        say: Called, in a line, with what takes long.

    Raises:
        UsageError: The file exists, or there is no such type.
        InputError: GGUF has no name for the architecture or the tokenizer.
    """
    opened = _opened(request, say)
    with new_file(request.out) as scratch:
        _, written = _write(scratch, request, opened)
    return written


def export_ollama(request: ExportRequest, *, say: Say) -> ExportedModel:
    """Write the same beside a Modelfile, for ``ollama create``.

    Args:
        request: What, and where to.
        say: Told as well where the chat template is none that Ollama's language can say.

    Raises:
        UsageError: The folder exists, or there is no such type.
        InputError: As for :func:`export_gguf`.
    """
    opened = _opened(request, say)
    with new_folder(request.out) as scratch:
        tokenizer, written = _write(scratch / OLLAMA_WEIGHTS, request, opened)
        text, has_template = modelfile(tokenizer, OLLAMA_WEIGHTS)
        (scratch / MODELFILE).write_text(text, encoding="utf-8")
    if not has_template and tokenizer.template is not None:
        say(
            f"note: the chat template does more than put texts around messages, so {MODELFILE} has "
            "no TEMPLATE; Ollama may know this model's, else write one"
        )
    return written


def _opened(request: ExportRequest, say: Say) -> Workspace:
    """Check everything that can be before anything is loaded."""
    check_new(request.out)
    if request.kind is not None:
        gguf_export.check_type(request.kind)
    opened = open_workspace(
        request.store,
        session=request.session,
        base=request.base,
        say=say,
        needs_sessions=request.session is None,  # a mistyped store must not pass for a trained one
    )
    say("folding and writing…")
    return opened


def _write(
    path: Path, request: ExportRequest, opened: Workspace
) -> tuple[Tokenizer, ExportedModel]:
    """Fold and write the weights; return the model's tokenizer too."""
    kind = request.kind or gguf_export.default_type(opened.info)
    meter = FidelityMeter(gguf_export.round_trip(kind), stored_as=kind)
    loaded, config = fold_to_write(opened.info, opened.chain, meter)
    gguf_export.write_gguf(path, loaded, config, kind)
    written = ExportedModel(
        path=request.out,
        base=opened.info,
        chain=opened.chain,
        kind=kind,
        fidelity=meter.fidelity(),
    )
    return loaded.tokenizer, written
