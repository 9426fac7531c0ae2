import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load

from helpers import tiny
from helpers.stores import sessions_of
from helpers.training_lab import TrainingLab, facts, isolated_environment
from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore, start_head
from mlx_tune.workflows.diff import diff
from mlx_tune.workflows.doctor import examine
from mlx_tune.workflows.evaluate import evaluate
from mlx_tune.workflows.fuse import fuse
from mlx_tune.workflows.plan import plan_training
from mlx_tune.workflows.store_commands import rollback
from mlx_tune.workflows.workspace import describe_base, load_folded

TOKENS = mx.array([[40, 50, 60, 70]])


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_base):
    """A store of two sessions, trained once."""
    with isolated_environment(tmp_path_factory.getbasetemp()):
        made = TrainingLab(root=tmp_path_factory.mktemp("taught"), base=tiny_base)
        made.train(made.data("cs", facts("Lab")), learning_rate=0.02)
        made.train(made.data("housing", facts("Hall")), learning_rate=0.02)
    return made.store


@pytest.fixture
def two(lab, taught):
    """A lab with two sessions."""
    shutil.copytree(taught, lab.store, symlinks=True)
    return lab, *(SessionStore.open(lab.store).snapshot().sessions.values())


def logits(lab, chain) -> np.ndarray:
    return np.array(load_folded(bases.locate(str(lab.base)), chain).model(TOKENS))


def test_rollback_goes_one_step_back_exactly_and_deletes_nothing(two):
    lab, first, second = two
    after_first = logits(lab, [first])
    rollback(lab.store, None)
    store = SessionStore.open(lab.store)
    assert store.snapshot().head() == first
    assert np.array_equal(logits(lab, store.snapshot().chain(store.snapshot().head())), after_first)
    assert sessions_of(store) == [first, second]


def test_rollback_from_the_first_session_reaches_the_base_and_no_further(two):
    lab, first, _ = two
    rollback(lab.store, None)
    assert rollback(lab.store, None).before == first
    assert SessionStore.open(lab.store).snapshot().head() is None
    with pytest.raises(UsageError, match="HEAD is the base model already"):
        rollback(lab.store, None)


def test_a_session_can_be_taken_up_again(two):
    lab, _, second = two
    rollback(lab.store, "base")
    assert rollback(lab.store, "2").after == second
    assert SessionStore.open(lab.store).snapshot().head() == second


def test_training_after_a_rollback_starts_a_branch(two):
    lab, first, second = two
    rollback(lab.store, None)
    third = lab.train(lab.data("dining", facts("Cafe")))
    store = SessionStore.open(lab.store)
    assert [s.name for s in store.snapshot().chain(store.snapshot().head())] == ["cs", "dining"]
    assert third.session.parent == first.id
    assert store.snapshot().find("housing") == second


def test_fuse_writes_what_mlx_lm_loads_with_the_same_logits(two, tmp_path):
    lab, first, second = two
    out = tmp_path / "fused"
    fused = fuse(lab.store, out=out, session=None, base=None, say=lambda _: None)
    assert fused.session == second
    theirs, wrapper = mlx_lm_load(str(out))
    assert np.array_equal(np.array(theirs(TOKENS)), logits(lab, [first, second]))
    assert wrapper._tokenizer.chat_template == tiny.CHATML
    assert json.loads((out / "mlx-tune.json").read_text())["session"] == second.folder_name


def test_a_fused_folder_serves_as_a_base(two, tmp_path):
    lab, first, _ = two
    out = tmp_path / "fused"
    fuse(lab.store, out=out, session="1", base=None, say=lambda _: None)
    info = bases.locate(str(out))
    assert np.array_equal(np.array(load_folded(info, []).model(TOKENS)), logits(lab, [first]))


def test_fuse_overwrites_nothing(two, tmp_path):
    lab, _, _ = two
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    with pytest.raises(UsageError) as error:
        fuse(lab.store, out=tmp_path / "mine", session=None, base=None, say=lambda _: None)
    assert str(error.value) == (
        f"{tmp_path / 'mine'}: exists, and nothing is overwritten; name another"
    )
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["precious"]


def test_fuse_that_fails_leaves_nothing(two, tmp_path, monkeypatch):
    lab, _, _ = two

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("mlx_tune.workflows.fuse.save", fail)
    with pytest.raises(DiskError, match="nothing was written"):
        fuse(lab.store, out=tmp_path / "out" / "f", session=None, base=None, say=lambda _: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_eval_before_the_first_session_says_what_to_do(lab):
    lab.store.mkdir(parents=True)
    start_head(lab.store)
    with pytest.raises(UsageError, match="no sessions yet; train the first"):
        evaluate(lab.store, session=None, base=str(lab.base), on=None, say=lambda _: None)


def test_doctor_finds_a_sound_store_sound(two):
    lab, _, _ = two
    findings = {f.about: f for f in examine(lab.store)}
    assert findings["store"].text == f"{lab.store}: 2 sessions whole, HEAD cs → housing"
    assert not any(f.error for f in findings.values())


def test_doctor_finds_a_flipped_byte_and_names_the_file(two):
    lab, first, _ = two
    path = first.path / "adapters.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (found,) = [f for f in examine(lab.store) if f.error]
    assert "adapters.safetensors" in found.text
    assert first.folder_name in found.text


def test_doctor_says_that_there_is_no_compiler(lab, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = next(finding for finding in examine(lab.store) if finding.about == "compiler")
    assert not found.good
    assert "g++" in found.text


def test_doctor_warns_of_the_other_mlx_tune(lab, monkeypatch):
    from mlx_tune.workflows import doctor

    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.4" if name == "mlx-tune" else real(name))
    (found,) = [f for f in examine(lab.store) if f.about == "package"]
    assert not found.good
    assert "another project's `mlx-tune` 0.4" in found.text


def test_a_damaged_head_names_the_way_back_and_rollback_takes_it(two):
    lab, first, second = two
    with (second.path / "session.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DamagedStoreError) as error:
        rollback(lab.store, None)
    way = (
        f"go back to {first.folder_name} with "
        f"`mlx-tune rollback --to {first.id[:8]} --store {lab.store}`"
    )
    assert way in str(error.value)
    # Everything that does not need the damaged session still works.
    found = evaluate(lab.store, session="1", base=None, on=None, say=lambda _: None)
    assert found.answering.session == first
    assert (
        SessionStore.open(lab.store).snapshot().base()["fingerprint"]
        == first.record["base"]["fingerprint"]
    )
    move = rollback(lab.store, first.id[:8])
    assert (move.was_damaged, move.after) == (True, first)
    assert SessionStore.open(lab.store).snapshot().head() == first


def test_rolling_back_to_where_head_is_moves_nothing(two):
    lab, _, second = two
    before = (lab.store / "HEAD.log").read_bytes()
    assert rollback(lab.store, "2").after == second
    assert (lab.store / "HEAD.log").read_bytes() == before


def test_an_editors_backup_file_damages_nothing(two):
    lab, _, second = two
    for name in ("session.json~", ".session.json.swp", ".DS_Store"):
        (second.path / name).write_text("x")
    assert SessionStore.open(lab.store).snapshot().head() == second


def test_fuse_of_a_store_without_sessions_is_refused_unless_the_base_is_meant(lab, tmp_path):
    lab.store.mkdir(parents=True)
    start_head(lab.store)

    def written(session):
        return fuse(
            lab.store, out=tmp_path / "f", session=session, base=str(lab.base), say=lambda _: None
        )

    with pytest.raises(UsageError, match="no sessions yet"):
        written(None)
    assert written("base").session is None
    assert json.loads((tmp_path / "f" / "mlx-tune.json").read_text())["fidelity"] is None
    assert (tmp_path / "f" / "model.safetensors").exists()


def test_what_is_wrong_beside_the_sessions_is_told_before_a_plan_and_a_comparison(two):
    lab, first, second = two
    label = lab.store / "tags" / "broken"
    label.parent.mkdir(exist_ok=True)
    label.write_text("nonsense")
    note = f"{label}: holds no session's id and is passed over; delete it"
    planned, compared = [], []
    plan_training(lab.request(lab.data("more", facts("More"))), say=planned.append)
    assert planned.count(note) == 1
    diff(lab.store, first.id, second.id, base=None, ask=False, shown=None, say=compared.append)
    assert compared.count(note) == 1


def test_a_base_is_recorded_by_what_will_find_it_again(lab):
    info = replace(bases.locate(str(lab.base)), name="./tiny")
    assert describe_base(info)["name"] == str(lab.base)  # from another folder too
    assert describe_base(replace(info, source="wheel:tiny==1"))["name"] == "./tiny"
