"""Writes the folded model to a folder that mlx-lm, or anything that reads MLX models, can load."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.fidelity import Fidelity, Tally
from mlx_tune.continual.fold import fold, is_quantised
from mlx_tune.errors import UsageError
from mlx_tune.lineage.atomic import new_folder
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import Base, load
from mlx_tune.models.quantise import Quantisation
from mlx_tune.models.save import dequantise, save
from mlx_tune.workflows.folded import (
    choose_base,
    find_session,
    let_go,
    locate_base,
    need_sessions,
    read_adapters,
)
from mlx_tune.workflows.general import general_set
from mlx_tune.workflows.requantise import (
    Ask,
    Requantised,
    allow,
    judge,
    known_by,
    limits_of,
)

RECORD = "mlx-tune.json"
"""What was fused, beside the weights."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A folded model that was written.

    Attributes:
        base: What it was folded from.
        chain: The sessions folded into it, root first; none for the bare base.
        fidelity: What the written weights kept of the chain's change.
        requantised: What quantising cost, where that was asked for.
    """

    base: BaseInfo
    chain: tuple[Session, ...]
    fidelity: Fidelity
    requantised: Requantised | None

    @property
    def session(self) -> Session | None:
        """The session that was written, None for the bare base."""
        return self.chain[-1] if self.chain else None

    def to_json(self) -> dict[str, Any]:
        """Return what the folder's record keeps."""
        return {
            "base": self.base.source,
            "fingerprint": self.base.fingerprint,
            "session": self.session.folder_name if self.session else "base",
            "sessions": [session.id for session in self.chain],
            "fidelity": self.fidelity.to_json() if self.chain else None,
            "quantised": self.requantised.to_json() if self.requantised else None,
        }


def fuse(
    store_root: Path,
    *,
    out: Path,
    session: str | None,
    base: str | None,
    say: Say,
    quantise: Quantisation | None = None,
    anyway: bool = False,
    ask: Ask = lambda _: False,
) -> Fused:
    """Fold a session's chain into its base and write the model.

    The weights are those that `chat` and `serve` use, in the base's stored type; a quantised base
    is written in 16 bits, since re-quantising would lose most of what was learned. Where it is
    asked for, that loss is measured, and the gate says whether it may be.

    Args:
        store_root: The store's folder.
        out: A folder that does not exist yet.
        session: A session, ``base``, or None for HEAD.
        base: The base model, when not the store's own.
        say: Told, in a line, what takes long.
        quantise: Quantise the folded model to this.
        anyway: Write it whatever it forgot.
        ask: Asked whether to write it where it forgot a little.

    Raises:
        UsageError: The folder exists, or the base cannot be quantised so.
        HeldBack: Quantised, it forgets some of what it knew.
        Refused: Too much of it.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: exists, and nothing is overwritten; name a new folder")
    store = Store.open(store_root)
    if session is None:  # a mistyped store must not pass for a trained one
        need_sessions(store)
    info = locate_base(store, choose_base(store, base), say)
    chain = store.chain(find_session(store, session))
    for note in store.notes:
        say(note)
    exam = None
    if quantise is not None and chain:
        general = general_set(info, say=say)
        say("asking what it knows before…")
        exam = general, known_by(_folded(info, chain)[0], chain, general)
        let_go()
    tally = Tally(quantise.store, stored_as=f"{quantise.bits} bits") if quantise else Tally()
    if "quantization" in info.config and quantise is None:
        say("the base is quantised: writing 16-bit weights")
    say("folding and writing…")
    loaded, config = _folded(info, chain, tally)
    if quantise is not None:
        quantise.apply(loaded.model, config)
    with new_folder(out) as scratch:
        save(scratch, loaded, config)
        requantised = None
        if quantise is not None and exam is not None:
            say(f"asking the {quantise.bits}-bit model the same…")
            general, before = exam
            after = known_by(loaded, chain, general)
            requantised = judge(quantise, before, after, limits_of(chain[-1]))
            allow(requantised, anyway=anyway, ask=ask)
        fused = Fused(
            base=info, chain=tuple(chain), fidelity=tally.fidelity(), requantised=requantised
        )
        (scratch / RECORD).write_text(json.dumps(fused.to_json(), indent=2) + "\n")
    return fused


def _folded(
    info: BaseInfo, chain: Sequence[Session], tally: Tally | None = None
) -> tuple[Base, dict[str, Any]]:
    """Return the folded model with its weights in 16 bits, or as many as the base has, and config.

    A quantised layer has no type to round to: its weights become what they stand for.
    """
    loaded, config = load(info), dict(info.config)
    if is_quantised(loaded.model):
        dequantise(loaded.model, config)
    fold(loaded.model, read_adapters(chain), tally=tally)
    return loaded, config
