"""One continual session: plan, then fold, rehearse, train, score, commit, and move HEAD."""

import hashlib
from typing import Any

from mlx_tune.data import read
from mlx_tune.data.rows import canonical_json
from mlx_tune.errors import IncompatibleError, LockedError
from mlx_tune.lineage.runs import TRAIN, Run, runs
from mlx_tune.sizing import Sizing
from mlx_tune.workflows import space
from mlx_tune.workflows.carry_out import Outcome, carry_out
from mlx_tune.workflows.folded import describe_base
from mlx_tune.workflows.job import GUARDS, HELD_OUT_ROWS, NEW_ROWS, OLD_ROWS, Job, Watch
from mlx_tune.workflows.plan import Plan
from mlx_tune.workflows.prepare import Request, prepare
from mlx_tune.workflows.resume import go_on


def train(request: Request, watch: Watch) -> Outcome:
    """Train one session from the data to the store.

    Raises:
        LockedError: Another training is going on in this store.
        Interrupted: Somebody asked to stop; `resume` goes on.
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    plan = prepare(request, say=watch.say)
    with plan.store.training(f"train {plan.name}"):
        _check_head(plan)
        twin = _unfinished_twin(plan)
        if twin is not None and watch.offered(twin, _other_settings(twin, plan)):
            return go_on(plan.store, twin, watch)
        watch.planned(plan)
        space.check(plan.disk, plan.store.root)
        return carry_out(_begin(plan), watch)


def _check_head(plan: Plan) -> None:
    """Refuse a plan that stands on a HEAD of before: another training may just have ended."""
    if plan.store.head() != plan.head:
        raise LockedError(
            f"{plan.store.root}: HEAD moved while this training was planned; run it again"
        )


def _unfinished_twin(plan: Plan) -> Run | None:
    """Return the newest unfinished run of the same data in the same place."""
    of_newest = reversed(runs(plan.store.root))
    return next((r for r in of_newest if r.is_unfinished and _same_place(r, plan)), None)


def _other_settings(run: Run, plan: Plan) -> dict[str, Any]:
    """Return the values of a run's settings that a plan has otherwise."""
    began = Sizing.from_json(run.record["sizing"])
    return {
        name: chosen.value
        for name, chosen in began.items()
        if chosen.value != getattr(plan.sizing, name).value
    }


def _same_place(run: Run, plan: Plan) -> bool:
    """Tell whether a run is of the same data in the same place, and of this version's settings."""
    kept = run.record
    wanted = {
        "data_sha256": read.fingerprint(plan.taught),
        "parent": plan.parent.id if plan.parent else None,
        "replaces": [session.id for session in plan.replaced],
        "without": [session.id for session in plan.without],
    }
    try:
        Sizing.from_json(kept["sizing"])
        same_base = kept["base"]["fingerprint"] == plan.info.fingerprint
    except (IncompatibleError, KeyError, TypeError):
        return False
    return same_base and all(kept.get(name) == value for name, value in wanted.items())


def _begin(plan: Plan) -> Job:
    """Write down all that a run needs, so that it can be gone on with from its folder alone."""
    rows = {
        NEW_ROWS: plan.taught,
        OLD_ROWS: plan.rehearsal.old,
        HELD_OUT_ROWS: plan.held_out,
    }
    guards = plan.examples[len(plan.taught) + len(plan.rehearsal.old) :]
    lines = "".join(canonical_json(guard.to_json()) + "\n" for guard in guards).encode()
    run = Run.create(
        plan.store.root,
        name=plan.name,
        record={
            "phase": TRAIN,
            "base": describe_base(plan.info),
            "parent": plan.parent.id if plan.parent else None,
            "replaces": [session.id for session in plan.replaced],
            "without": [session.id for session in plan.without],
            "mixture": plan.mixture.to_json(),
            "sizing": plan.sizing.to_json(),
            "sources": list(plan.sources),
            "data_sha256": read.fingerprint(plan.taught),
            "old_sha256": read.fingerprint(plan.rehearsal.old),
            "held_out_sha256": read.fingerprint(plan.held_out),
            "guards_sha256": hashlib.sha256(lines).hexdigest(),
        },
        files={**{name: read.dump(kept) for name, kept in rows.items()}, GUARDS: lines},
    )
    return Job(
        name=plan.name,
        info=plan.info,
        store=plan.store,
        chain=plan.chain,
        replaced=plan.replaced,
        without=plan.without,
        method=plan.method,
        sizing=plan.sizing,
        mixture=plan.mixture,
        new=plan.taught,
        old=plan.rehearsal.old,
        held_out=plan.held_out,
        examples=plan.examples,
        validation=plan.validation,
        run=run,
    )
