"""What `diff --json` prints of two sessions: the same as on a terminal, and all of it."""

from typing import Any

from mlx_tune.continual.change import Change
from mlx_tune.workflows.diff import Answer, ComparedAnswers, Difference, Side, TaughtRow


def diff_json(found: Difference) -> dict[str, Any]:
    """Return a difference for ``--json``."""
    alike = len(found.shared)
    return {
        "a": _side(found.a),
        "b": _side(found.b),
        "common": found.shared[-1].folder_name if alike else "base",
        "only_a": [session.folder_name for session in found.a.chain[alike:]],
        "only_b": [session.folder_name for session in found.b.chain[alike:]],
        "settings": {n: {"a": a, "b": b} for n, (a, b) in found.settings.items()},
        "rows": {
            "a": len(found.a.taught),
            "b": len(found.b.taught),
            "only_a": list(map(_taught, found.only_a)),
            "only_b": list(map(_taught, found.only_b)),
            "changed": [{"a": _taught(had), "b": _taught(has)} for had, has in found.changed],
        },
        "metrics": {"a": _metrics(found.a), "b": _metrics(found.b)},
        "weights": _change(found.change),
        "answers": None if found.answers is None else _answers(found.answers),
    }


def _side(side: Side) -> dict[str, Any]:
    session = side.session
    return {
        "session": session.folder_name if session else "base",
        "id": session.id if session else None,
        "chain": [s.folder_name for s in side.chain],
    }


def _taught(one: TaughtRow) -> dict[str, Any]:
    return {"session": one.session.folder_name, "place": one.row.place, **one.row.to_json()}


def _metrics(side: Side) -> dict[str, Any] | None:
    if side.session is None:
        return None
    return {**side.training, "recall": list(side.recall.values())}


def _change(change: Change) -> dict[str, Any]:
    return {
        "norm": change.norm,
        "of_base": change.of_base,
        "layers": [dict(vars(layer)) for layer in change.layers()],
    }


def _answers(answers: ComparedAnswers) -> dict[str, Any]:
    return {
        "asked": len(answers.probes),
        "differ": len(answers.differing),
        "max_tokens": answers.max_tokens,
        "differing": [
            {
                "question": answered.probe.question,
                "a": _answer(answered.a, answered.probe.a),
                "b": _answer(answered.b, answered.probe.b),
            }
            for answered in answers.differing
        ],
    }


def _answer(answer: Answer | None, row: Any) -> dict[str, Any] | None:
    if answer is None:
        return None
    return {
        "text": answer.text,
        "is_cut": answer.is_cut,
        "taught": row.answer if row else None,
        "as_taught": answer.says(row),
    }
