"""What session.json says of a training, beside what the store writes itself."""

from collections.abc import Sequence
from typing import Any

from mlx_tune.continual.best import Score, best
from mlx_tune.models import runtime
from mlx_tune.workflows.folded import describe_base, folding
from mlx_tune.workflows.job import Job
from mlx_tune.workflows.judge import Judged
from mlx_tune.workflows.steps import Trained


def session_record(job: Job, trained: Trained, judged: Judged) -> dict[str, Any]:
    """Return the record of a session."""
    # A resumed run takes the steps after its checkpoint again; the later line counts.
    metrics = list({line["number"]: line for line in job.run.metrics()}.values())
    return {
        "created": job.run.record["created"],
        "verdict": judged.verdict,
        "gate": judged.to_json(),
        "base": describe_base(job.info),
        "note": (
            "This adapter holds its own session alone. Used without mlx-tune it needs the model "
            "it was trained on: `mlx-tune fuse --session PARENT --out FOLDER`."
            if job.chain
            else "The first session: this adapter goes directly onto the base."
        ),
        "sizing": job.sizing.to_json(),
        "data": {
            "sources": job.run.record["sources"],
            "rows": len(job.new),
            "sha256": job.run.record["data_sha256"],
            "rehearsed": len(job.old) if job.mixture.kinds[1].places else 0,
            "held_out": len(job.held_out),
            **({} if job.keeps_data else {"traces": [row.trace.to_json() for row in job.new]}),
        },
        **({"replaces": [session.id for session in job.replaced]} if job.replaced else {}),
        **({"without": [session.id for session in job.without]} if job.without else {}),
        **({"folds": [session.id for session in job.stands_on]} if _folds_less(job) else {}),
        "training": {
            "run": job.run.path.name,
            "steps": len(metrics),
            "epochs": metrics[-1]["epoch"],
            "is_learned": trained.is_learned,
            "last_loss": metrics[-1]["loss"],
            "tokens": sum(line["tokens"] for line in metrics),
            "seconds": round(sum(line["seconds"] for line in metrics), 1),
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in metrics),
        },
        **_validation(trained.scores),
        "recall": [entry.to_json() for entry in judged.recall],
        **({"fidelity": judged.fidelity.to_json()} if judged.fidelity else {}),
        "versions": runtime.versions(),
    }


def _folds_less(job: Job) -> bool:
    return job.stands_on != tuple(folding(job.chain))


def _validation(scores: Sequence[Score]) -> dict[str, Any]:
    if not scores:
        return {}
    chosen = best(scores)
    return {
        "validation": {
            "scores": [vars(score) for score in scores],
            "best_step": chosen.step if chosen else None,
        }
    }
