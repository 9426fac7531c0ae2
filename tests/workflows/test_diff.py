import shutil
import weakref

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.continual.change import change_norms
from mlx_tune.continual.fold import fold
from mlx_tune.errors import DamagedStoreError, UsageError
from mlx_tune.models import bases
from mlx_tune.models.load import load
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.diff import diff
from mlx_tune.workflows.workspace import load_folded, read_adapter


def compare(lab, a="housing", b="dining", *, ask=False, shown=None, said=None):
    say = (lambda _: None) if said is None else said.append
    return diff(lab.store, a, b, base=None, ask=ask, shown=shown, say=say)


def names(sessions):
    return [session.name for session in sessions]


def test_two_branches_share_what_both_stand_on(fork):
    found = compare(fork)
    assert names(found.shared) == ["cs"]
    assert names(found.a.chain) == ["cs", "housing"]
    assert names(found.b.chain) == ["cs", "dining"]
    assert not found.is_none
    assert found.answers is None
    assert names(compare(fork, "cs", "housing").shared) == ["cs"]
    assert compare(fork, "base", "HEAD").shared == ()


def test_settings_that_differ_are_named_with_both_values(fork):
    assert compare(fork).settings == {"alpha": (16, 8), "epochs": (40, 1), "rank": (8, 4)}
    assert compare(fork, "cs", "housing").settings == {}
    assert compare(fork, "base", "cs").settings["rank"] == (None, 8)


def test_a_row_is_alike_changed_or_only_one_sides(fork):
    found = compare(fork)
    assert [(x.row.question, x.place) for x in found.only_a] == [
        ("Where is C?", "2 housing, line 2")
    ]
    assert [x.place for x in found.only_b] == [f"2 dining, line {i}" for i in range(1, 8)]
    ((had, has),) = found.changed
    assert (had.row.question, had.says, had.place) == ("Where is  B?", "In 9.", "2 housing, line 1")
    assert (has.row.question, has.says, has.place) == ("Where is B?", "In 2.", "1 cs, line 2")


def test_the_other_way_round_is_the_mirror_image(fork):
    there, back = compare(fork), compare(fork, "dining", "housing")
    assert back.only_a == there.only_b
    assert back.only_b == there.only_a
    assert back.changed == [(has, had) for had, has in there.changed]
    assert back.change.norms == {p: pytest.approx(n) for p, n in there.change.norms.items()}


def test_a_question_in_other_spaces_with_the_same_answer_is_no_change(lab):
    lab.train(lab.data("cs", {"Where is A?": "In 1."}))
    lab.train(lab.data("again", {" Where is  A?": "In 1."}))
    found = compare(lab, "cs", "again")
    assert (found.changed, found.only_a, found.only_b) == ([], [], [])


def test_a_question_in_other_letters_is_another_question(lab):
    lab.train(lab.data("cs", {"Where is A?": "In 1."}), epochs=1)
    lab.train(lab.data("small", {"where is a": "In 9."}), epochs=1)
    found = compare(lab, "cs", "small")
    assert (found.changed, found.only_a) == ([], [])
    assert [(x.row.question, x.says) for x in found.only_b] == [("where is a", "In 9.")]


def test_a_question_that_replaced_another_is_that_one_changed(lab):
    lab.train(lab.data("cs", {"Where is A?": "In 1."}), epochs=1)
    lab.train(lab.data("small", {"where is a": "In 9."}), epochs=1, replace=True)
    for a, b, says in (("cs", "small", ("In 1.", "In 9.")), ("small", "cs", ("In 9.", "In 1."))):
        found = compare(lab, a, b)
        assert [(had.says, has.says) for had, has in found.changed] == [says]
        assert (found.only_a, found.only_b) == ([], [])


def test_rows_of_text_are_compared_by_their_text_as_it_stands(lab, tmp_path):
    texts = ("Quillon Hall", "quillon hall.", "Quillon  Hall", "Quillon Hall")
    for name, text in zip(("one", "two", "three", "four"), texts, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{text}"}}\n')
        lab.train(tmp_path / f"{name}.jsonl")
    found = compare(lab, "one", "four")
    assert (found.changed, found.only_a) == ([], [])
    assert [x.says for x in found.only_b] == ["quillon hall.", "Quillon  Hall"]


def test_the_metrics_are_those_of_the_records(fork):
    found = compare(fork)
    for side in (found.a, found.b):
        assert side.training == side.session.record["training"]
        assert list(side.recall.values()) == side.session.record["recall"]
    assert [x.id for x in found.a.chain] == list(found.a.recall)
    base = compare(fork, "base", "cs").a
    assert (base.settings, base.training, base.recall, base.taught) == ({}, {}, {}, {})


def weights(lab, chain) -> dict[str, np.ndarray]:
    base = load(bases.locate(str(lab.base)))
    fold(base.model, [read_adapter(s) for s in chain], rounded=False)
    return {
        path: np.array(module.weight.astype(mx.float32)).astype(np.float64)
        for path, module in base.model.named_modules()
        if path.endswith("_proj")
    }


def test_the_weights_differ_by_the_norm_between_the_folded_models(fork):
    found = compare(fork, ask=True)
    a, b, base = (weights(fork, chain) for chain in (found.a.chain, found.b.chain, []))
    assert found.change.norms.keys() == base.keys()
    for path in base:
        wanted = np.linalg.norm(b[path] - a[path])
        assert found.change.norms[path] == pytest.approx(wanted, rel=1e-4), path
        assert found.change.base_norms[path] == pytest.approx(np.linalg.norm(base[path]), rel=1e-6)


def test_the_base_that_was_measured_is_gone_before_a_model_is_asked(fork, monkeypatch):
    measured, asked = [], []

    def watched(info):
        base = load(info)
        measured.append(weakref.ref(base.model))
        return base

    def folded(info, chain):
        asked.append([model() for model in measured])
        return load_folded(info, chain)

    monkeypatch.setattr("mlx_tune.workflows.diff.load", watched)
    monkeypatch.setattr("mlx_tune.workflows.diff.load_folded", folded)
    compare(fork, ask=True, shown=0)
    assert asked
    assert all(models == [None] for models in asked)


def test_what_both_stand_on_is_left_out_exactly(fork):
    found = compare(fork, "cs", "housing")
    assert found.change.norms == change_norms([], [read_adapter(found.b.session)])
    assert compare(fork, "base", "base").change.norm == 0.0


def test_a_session_and_itself_differ_in_nothing_and_no_model_is_loaded(fork, monkeypatch):
    monkeypatch.setattr(bases, "locate", lambda *_, **__: pytest.fail("a base was looked for"))
    found = compare(fork, "HEAD", "dining", ask=True)
    assert found.is_none
    assert (found.settings, found.changed, found.only_a, found.only_b) == ({}, [], [], [])
    assert found.change.norm == 0.0
    assert found.answers.probes == ()


def test_without_answers_no_model_is_loaded_and_nothing_is_relative(fork, monkeypatch):
    monkeypatch.setattr(bases, "locate", lambda *_, **__: pytest.fail("a base was looked for"))
    found = compare(fork)
    assert found.change.norm > 0
    assert found.change.of_base is None


def test_a_store_without_sessions_and_a_session_that_is_not_there(lab, fork):
    with pytest.raises(DamagedStoreError, match="no store is there"):
        compare(lab, "1", "2")
    with pytest.raises(UsageError, match='no session "nobody" in '):
        compare(fork, "cs", "nobody")


def test_rows_that_were_changed_on_disk_are_an_error_that_names_the_file(fork, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(fork.store, store, symlinks=True)
    session = SessionStore.open(store).snapshot().find("housing")
    path = session.path / "data.jsonl"
    path.write_text(path.read_text().replace("In 9.", "In 8."))
    with pytest.raises(DamagedStoreError) as error:
        diff(store, "cs", "housing", base=None, ask=False, shown=None, say=lambda _: None)
    assert str(error.value).startswith(f"{path}: changed after it was written: sha256 is ")
