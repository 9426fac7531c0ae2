import pytest

from helpers.stores import BASE, commit, flip, message, state, train
from mlx_tune.continual.gate import Thresholds, decide
from mlx_tune.continual.retained import Retained, SessionOutcomes
from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.store import snapshot
from mlx_tune.store.labels import mark_removed
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.store_commands import promote


def refused(asked: int = 60, lost: int = 20) -> dict:
    """The record of a session that the gate did not let through."""
    cs = SessionOutcomes(
        number=1, name="cs", before=(True,) * asked, after=tuple(i >= lost for i in range(asked))
    )
    decision = decide(Retained.of([cs], {}), general=None, thresholds=Thresholds())
    return {"verdict": decision.verdict, "gate": decision.to_json(), "base": BASE}


@pytest.fixture
def store(tmp_path):
    """The session cs, and on it dining, which the gate refused."""
    made = SessionStore.open(tmp_path / "store")
    commit(made, "dining", train(made, "cs"), **refused())
    return made


def test_a_refused_session_is_put_in_use_and_no_session_changes(store):
    cs, dining = store.snapshot().find("cs"), store.snapshot().find("dining")
    before = {name: data for name, data in state(store.root).items() if "sessions/" in name}
    done = promote(store.root, "dining")
    assert (done.session, done.before, done.left) == (dining, cs, ())
    assert (done.verdict, done.is_overruled) == ("refuse", True)
    assert done.reasons == tuple(dining.record["gate"]["reasons"])
    assert len(done.reasons) == 2
    assert SessionStore.open(store.root).snapshot().head() == dining
    after = {name: data for name, data in state(store.root).items() if "sessions/" in name}
    assert after == before
    last = snapshot.head_moves(store.root)[-1]
    assert (last.old, last.new) == (cs.id, dining.id)
    assert last.why == "promote dining, though the gate said refuse"


def test_a_session_on_another_branch_leaves_behind_what_it_does_not_stand_on(store):
    housing = train(store, "housing")
    tennis = train(store, "tennis")
    done = promote(store.root, "dining")
    assert (done.before, done.left) == (tennis, (housing, tennis))
    back = promote(store.root, "tennis")  # which the gate had let through
    assert (back.is_overruled, back.reasons) == (False, ())
    assert [one.name for one in back.left] == ["dining"]
    assert snapshot.head_moves(store.root)[-1].why == "promote tennis"
    assert store.snapshot().head() == tennis


def test_from_the_base_a_session_is_taken_up(store):
    store.move_head(None, expected=store.snapshot().head(), why="rollback")
    done = promote(store.root, "cs")
    assert (done.before, done.left, store.snapshot().head()) == (None, (), done.session)


def test_a_record_older_than_verdicts_has_nothing_to_overrule(store):
    commit(store, "old", store.snapshot().head(), base=BASE)
    done = promote(store.root, "old")
    assert (done.verdict, done.is_overruled, done.reasons) == ("promote", False, ())


def test_what_cannot_be_promoted_is_refused_and_head_stays(store):
    cs = store.snapshot().head()
    assert message(UsageError, lambda: promote(store.root, "cs")) == (
        f"{cs.folder_name} is HEAD already; there is nothing to promote"
    )
    assert message(UsageError, lambda: promote(store.root, "base")) == (
        f"the base model is no session to promote; "
        f"`mlx-tune rollback --to base --store {store.root}` puts it in use"
    )
    with pytest.raises(UsageError, match='no session "nobody" in'):
        promote(store.root, "nobody")
    with pytest.raises(DamagedStoreError, match="no store is there"):
        promote(store.root / "typo", "cs")
    dining = store.snapshot().find("dining")
    mark_removed(store, dining)
    assert message(UsageError, lambda: promote(store.root, "dining")) == (
        f"{dining.folder_name} is removed; "
        f"`mlx-tune rm --undo {dining.id[:8]} --store {store.root}` keeps it"
    )
    assert store.snapshot().head() == cs
    assert len(snapshot.head_moves(store.root)) == 1


def test_a_damaged_session_is_never_put_in_use(store):
    """One byte of its weights, which HEAD's move alone would not read."""
    on_top = commit(store, "tennis", store.snapshot().find("dining"), **refused())
    flip(store.snapshot().find("dining").path / "adapters.safetensors", 200)
    before = state(store.root)
    for ref in ("dining", on_top.id):
        with pytest.raises(DamagedStoreError, match=r"dining-.*changed after it was written"):
            promote(store.root, ref)
    assert state(store.root) == before


def test_a_session_whose_parent_is_damaged_is_never_put_in_use(store):
    on_top = commit(store, "tennis", store.snapshot().find("dining"), **refused())
    flip(store.snapshot().find("dining").path / "session.json", 5)
    with pytest.raises(DamagedStoreError, match="dining"):
        promote(store.root, on_top.id)
    assert store.snapshot().head() == store.snapshot().find("cs")


def test_where_head_is_damaged_the_message_names_the_way_back(store):
    train(store, "housing")
    flip(store.snapshot().head().path / "session.json", 5)
    with pytest.raises(DamagedStoreError, match="mlx-tune rollback --to"):
        promote(store.root, "dining")
