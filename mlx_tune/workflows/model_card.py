"""The model card of what is exported: a README.md as the Hugging Face hub shows it.

It is made of the sessions' records alone: no row, no path and no answer is in it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.catalogue import KNOWN
from mlx_tune.store.session import Session

CARD = "README.md"

_SCORES = {
    "as_taught": "Asked as it was taught",
    "other_words": "Asked in other words, which were never trained on",
}
_SHOWN = ("rank", "alpha", "epochs", "batch_size", "learning_rate", "method", "seed")


def model_card(
    info: BaseInfo, chain: Sequence[Session], *, library: Literal["mlx", "peft"], title: str
) -> str:
    """Return a model card.

    Args:
        info: The base.
        chain: The sessions that the model or adapter holds, root first.
        library: What loads it, in the hub's words.
        title: Its heading.
    """
    return "\n".join([*_front_matter(info, library), f"# {title}", "", *_body(info, chain)]) + "\n"


def _front_matter(info: BaseInfo, library: str) -> Iterator[str]:
    licence = _licence(info)
    yield "---"
    yield f"base_model: {_base(info)}"
    yield f"base_model_relation: {'adapter' if library == 'peft' else 'finetune'}"
    yield f"library_name: {library}"
    yield f"license: {licence or 'other'}"
    yield "pipeline_tag: text-generation"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("mlx-tune", "continual-learning", library))
    yield "---"
    yield ""


def _base(info: BaseInfo) -> str:
    """Return what the base is called; of a local one nothing of where it lies."""
    name = info.name_elsewhere
    return Path(name).name if Path(name).is_absolute() else name


def _licence(info: BaseInfo) -> str | None:
    """Return the hub's name of a known base's licence."""
    return next((known.licence for known in KNOWN.values() if known.source == info.source), None)


def _body(info: BaseInfo, chain: Sequence[Session]) -> Iterator[str]:
    own = _licence(info)
    licence = f"its licence is {own}" if own else "its licence applies"
    yield f"Base: {_base(info)} (fingerprint `{info.fingerprint[:12]}`); {licence}."
    if not chain:
        yield ""
        yield "Nothing was taught on top of it."
        return
    sessions = f"{len(chain)} session{'s' * (len(chain) != 1)}"
    yield f"Taught in {sessions} with mlx-tune, one after another:"
    yield ""
    yield "| session | taught on | rows | sha256 of the rows | verdict |"
    yield "|---|---|---|---|---|"
    for session in chain:
        data = session.record["data"]
        yield (
            f"| {_named(session)} | {session.record['created'][:10]} | {data['rows']} | "
            f"`{data['sha256'][:16]}` | {session.record['verdict']} |"
        )
    for score, heading in _SCORES.items():
        yield from _matrix(chain, score, heading)
    yield from _general(chain)
    yield from _settings(chain)


def _named(session: Session) -> str:
    return f"{session.number} {session.name}"


def _matrix(chain: Sequence[Session], score: str, heading: str) -> Iterator[str]:
    """Yield how many questions of each session were answered right after each one."""
    rows = []
    for session in chain:
        found = {each["number"]: each.get(score) for each in session.record["recall"]}
        cells = [_cell(found.get(column.number)) for column in chain]
        rows.append(f"| {_named(session)} | {' | '.join(cells)} |")
    if all(set(row.split("|")[2:-1]) == {" - "} for row in rows):
        return
    yield ""
    yield f"## {heading}"
    yield ""
    yield f"| after session | {' | '.join(f'questions of {_named(column)}' for column in chain)} |"
    yield "|---" * (len(chain) + 1) + "|"
    yield from rows


def _cell(score: dict[str, Any] | None) -> str:
    return f"{score['right']} of {score['asked']} right" if score and score["asked"] else "-"


def _general(chain: Sequence[Session]) -> Iterator[str]:
    """Yield what the last session says of general ability, where it was measured."""
    general = (chain[-1].record.get("gate") or {}).get("general") or {}
    if general.get("asked"):
        yield ""
        cost = f"{general['nats_per_token']:+.3f} nats a token more than the base itself"
        yield f"General questions: the base's own answers cost {cost} ({general['asked']} asked)."


def _settings(chain: Sequence[Session]) -> Iterator[str]:
    """Yield what each session was trained with."""
    yield ""
    yield "## Settings"
    yield ""
    yield f"| session | {' | '.join(_SHOWN)} |"
    yield "|---" * (len(_SHOWN) + 1) + "|"
    for session in chain:
        sizing = session.record["sizing"]  # empty for one that was trained elsewhere
        values = [str(sizing[name]["value"]) if name in sizing else "-" for name in _SHOWN]
        yield f"| {_named(session)} | {' | '.join(values)} |"
