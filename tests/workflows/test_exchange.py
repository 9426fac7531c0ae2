"""Adapters that go to other programs and come from them: export and import."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFReader
from mlx_lm import load as load_with_mlx_lm

from helpers import tiny
from helpers.training_lab import RecordingObserver
from mlx_tune.continual.gate import Thresholds
from mlx_tune.errors import IncompatibleError, InputError, UsageError
from mlx_tune.models.bases import locate
from mlx_tune.store.session import ASK, PROMOTE
from mlx_tune.store.snapshot import read_store
from mlx_tune.training.peft import CONFIG_FILE, WEIGHTS_FILE, read_peft
from mlx_tune.workflows import import_adapter as importing
from mlx_tune.workflows.export_adapter import export_lora_gguf, export_peft
from mlx_tune.workflows.export_model import ExportRequest, export_gguf, export_ollama
from mlx_tune.workflows.import_adapter import ImportRequest, import_adapter
from mlx_tune.workflows.workspace import fold_to_write, load_folded, read_rows

TOKENS = mx.arange(3, 40)[None]


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """Let the gate promote: gibberish tells nothing of general ability."""
    loosest = Thresholds(
        kept=0, ask_kept=0, backward=1, ask_backward=1, general=1e9, ask_general=1e9
    )
    monkeypatch.setattr(importing, "Thresholds", lambda: loosest)


def logits(info, chain) -> np.ndarray:
    return np.array(load_folded(info, chain).model(TOKENS)[0])


def chain_of(root, ref="HEAD"):
    store = read_store(root)
    return store.chain(store.find(ref))


def export(fork, out, *, session="housing", separate=False):
    say = RecordingObserver().say
    return export_peft(
        fork.store, out=out, session=session, base=str(fork.base), separate=separate, say=say
    )


def take(lab, folder, *, observer=None, **options):
    request = ImportRequest(path=folder, store=lab.store, base=str(lab.base), **options)
    return import_adapter(request, observer or RecordingObserver())


@pytest.fixture
def exported(fork, tmp_path):
    """The chain cs → housing, which knows its three answers, as one adapter."""
    export(fork, tmp_path / "peft")
    return tmp_path / "peft"


@pytest.fixture
def taught(fork, tmp_path):
    """The rows of that chain, as a file."""
    rows = [row for session in chain_of(fork.store, "housing") for row in read_rows(session)]
    latest = {" ".join(row.question.split()): row.answer for row in rows}
    path = tmp_path / "taught.json"
    path.write_text(json.dumps([{"instruction": q, "response": a} for q, a in latest.items()]))
    return path


def test_a_chain_comes_home_as_one_session_that_answers_the_same(fork, lab, exported, taught):
    outcome = take(lab, exported, data=[taught], name="home")
    info, session = locate(str(lab.base), say=print), outcome.session
    first, second = logits(info, chain_of(fork.store, "housing")), logits(info, [session])
    assert np.abs(first - second).max() <= 1e-4
    assert outcome.is_head
    assert chain_of(lab.store) == [session]
    (recall,) = outcome.recall
    assert recall.verbatim.right == recall.verbatim.asked == len(json.loads(taught.read_text()))
    assert len(read_rows(session)) == recall.verbatim.asked
    kept = session.record["imported"]
    assert (kept["format"], kept["folder"]) == ("peft", str(exported))


def test_two_adapters_of_mlx_lm_come_in_as_a_chain(fork, lab, taught, tmp_path):
    chain = chain_of(fork.store, "housing")
    for session in chain:
        shutil.copytree(session.path, tmp_path / session.name)  # the files that mlx-lm writes
    take(lab, tmp_path / "cs", name="previous")
    assert take(lab, tmp_path / "housing", name="latest", onto="HEAD").is_head
    both = chain_of(lab.store)
    assert [session.name for session in both] == ["previous", "latest"]
    assert {session.record["imported"]["format"] for session in both} == {"mlx-lm"}
    info = locate(str(lab.base), say=print)
    assert np.abs(logits(info, chain) - logits(info, both)).max() <= 1e-4


def test_it_comes_home_from_llama_cpp_too(fork, lab, tmp_path, taught):
    path = tmp_path / "Home v2.gguf"
    export_lora_gguf(
        fork.store, out=path, session="housing", base=str(fork.base), say=RecordingObserver().say
    )
    session = take(lab, path, data=[taught]).session
    info = locate(str(lab.base), say=print)
    first, second = logits(info, chain_of(fork.store, "housing")), logits(info, [session])
    assert np.abs(first - second).max() <= 1e-4
    assert session.name == "home-v2"
    kept = session.record["imported"]
    assert (kept["format"], kept["folder"]) == ("gguf", str(path))
    with pytest.raises(UsageError, match=r"is already here as 0001-home-v2"):
        take(lab, path, name="again")


def test_mlx_lm_loads_an_imported_session_beside_the_base(lab, exported):
    session = take(lab, exported).session
    model, _ = load_with_mlx_lm(str(lab.base), adapter_path=str(session.path))
    ours = logits(locate(str(lab.base), say=print), [session])
    assert np.abs(np.array(model(TOKENS)[0]) - ours).max() <= 1e-4


def test_separate_adapters_are_the_sessions_own(fork, tmp_path):
    written = export(fork, tmp_path / "parts", separate=True)
    names = [session.folder_name for session in chain_of(fork.store, "housing")]
    assert [one.path.name for one in written] == names
    ranks = [read_peft(one.path).adapter.rank for one in written]
    assert sum(ranks) == export(fork, tmp_path / "whole")[0].rank
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(names)


def test_the_next_session_stands_on_it_and_rehearses_its_rows(lab, exported, taught):
    take(lab, exported, data=[taught], name="home")
    observer = RecordingObserver()
    outcome = lab.train(lab.data("more", {"Where is Z?": "In Z."}), observer=observer)
    assert observer.chains == [["home"]]
    assert len(observer.plans[0].old) == len(json.loads(taught.read_text()))
    assert [entry.name for entry in outcome.recall] == ["home", "more"]


def test_without_its_rows_the_gate_is_blind_and_says_so(lab, exported):
    observer = RecordingObserver()
    outcome = take(lab, exported, observer=observer)
    assert any("without --data nobody knows" in line for line in observer.lines)
    assert outcome.session.name == "peft"  # as its folder
    assert outcome.recall[0].verbatim is None
    more = lab.train(lab.data("more", {"Where is Z?": "In Z."}))
    assert more.session.record["gate"]["skipped"] == {
        "1 peft": "its rows were not kept, so nothing can be asked"
    }


def test_what_of_its_data_is_not_taken_is_said(lab, exported):
    folder = lab.root / "set"
    folder.mkdir()
    for name in ("train", "valid"):
        rows = [{"instruction": f"Where is {name}?", "response": "In 1.", "id": 7}]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    observer = RecordingObserver()
    outcome = take(lab, exported, data=[folder], observer=observer)
    assert [row.question for row in read_rows(outcome.session)] == ["Where is train?"]
    noted = [line for line in observer.lines if line.startswith("note:")]
    assert any("valid.json is left alone" in line for line in noted)
    assert any('passed over: "id"' in line for line in noted)


def test_on_top_of_a_chain_it_is_one_more_session(lab, exported):
    first = lab.train(lab.data("more", {"Where is Z?": "In Z."})).session
    observer = RecordingObserver()
    outcome = take(lab, exported, onto="HEAD", observer=observer)
    assert [s.id for s in chain_of(lab.store)] == [first.id, outcome.session.id]
    assert any(f"trained on the bare base, not on {first.folder_name}" in x for x in observer.lines)


def test_beside_a_chain_head_stays_where_it_is(lab, exported):
    first = lab.train(lab.data("more", {"Where is Z?": "In Z."})).session
    observer = RecordingObserver()
    outcome = take(lab, exported, observer=observer)
    assert not outcome.is_head
    assert outcome.session.record["verdict"] == PROMOTE
    assert read_store(lab.store).head() == first
    assert any("HEAD stays on" in line and "promote" in line for line in observer.lines)


def test_what_the_gate_holds_back_is_saved_and_head_stays(lab, exported, monkeypatch):
    never = Thresholds(general=-1e9, ask_general=1e9)
    monkeypatch.setattr(importing, "Thresholds", lambda: never)
    outcome = take(lab, exported)
    assert outcome.session.record["verdict"] == ASK
    assert not outcome.is_head
    assert read_store(lab.store).head() is None


def test_the_same_adapter_is_not_taken_twice(lab, exported):
    session = take(lab, exported).session
    with pytest.raises(UsageError, match=f"already here as {session.folder_name}; `.*promote"):
        take(lab, exported, name="again")
    assert len(read_store(lab.store).sessions) == 1


def test_the_base_it_was_trained_on_is_compared(lab, exported):
    def noted(name):
        config = json.loads((exported / CONFIG_FILE).read_text())
        (exported / CONFIG_FILE).write_text(json.dumps({**config, "base_model_name_or_path": name}))
        observer = RecordingObserver()
        with pytest.raises(UsageError, match="already here"):  # which is found last
            take(lab, exported, observer=observer)
        return [line for line in observer.lines if "trained on" in line and "bare" not in line]

    take(lab, exported)
    same = lab.base.name
    assert noted(f"unsloth/{same}-bnb-4bit") == []
    assert f"on other/model, and this store's base is {lab.base}" in noted("other/model")[0]
    assert "does not say which base" in noted(None)[0]


def test_another_shape_is_refused_and_nothing_is_written(lab, tmp_path, exported):
    lab.base = tiny.base_folder(tmp_path / "wider", hidden_size=64)
    with pytest.raises(IncompatibleError, match=f"{exported} does not fit the base model"):
        take(lab, exported)
    assert not lab.store.exists()


def test_nothing_is_written_over_and_the_base_has_no_adapter(fork, exported, tmp_path):
    with pytest.raises(UsageError, match="exists, and nothing is overwritten"):
        export(fork, exported)
    with pytest.raises(UsageError, match="the bare base has no adapter"):
        export(fork, tmp_path / "none", session="base")
    assert not (tmp_path / "none").exists()


def test_a_spoilt_adapter_leaves_no_store(lab, exported):
    data = (exported / WEIGHTS_FILE).read_bytes()
    (exported / WEIGHTS_FILE).rename(exported / "adapter_model.bin")
    with pytest.raises(InputError):
        take(lab, exported)
    assert not lab.store.exists()
    (exported / WEIGHTS_FILE).write_bytes(data)


def as_model(write, fork, out, kind, *, session=None, say=lambda line: None):
    base = str(fork.base)
    request = ExportRequest(store=fork.store, out=out, session=session, base=base, kind=kind)
    return write(request, say=say)


def test_a_model_is_written_as_gguf_with_what_its_type_kept(fork, tmp_path):
    whole = as_model(export_gguf, fork, tmp_path / "whole.gguf", "f32", session="housing")
    names = [session.folder_name for session in chain_of(fork.store, "housing")]
    assert [session.folder_name for session in whole.chain] == names
    folded = fold_to_write(locate(str(fork.base), say=print), whole.chain)[0].model
    (found,) = [
        one for one in GGUFReader(whole.path).tensors if one.name == "blk.1.ffn_down.weight"
    ]
    assert np.array_equal(found.data, np.array(folded.model.layers[1].mlp.down_proj.weight))
    few = as_model(export_gguf, fork, tmp_path / "few.gguf", "q8_0", session="housing")
    assert 0 < few.fidelity.whole.error < 1
    assert whole.fidelity.whole.error < few.fidelity.whole.error
    assert few.path.stat().st_size < whole.path.stat().st_size


def test_ollama_gets_weights_and_a_modelfile(fork, tmp_path):
    observer = RecordingObserver()
    written = as_model(export_ollama, fork, tmp_path / "notes", None, say=observer.say)
    assert written.kind == "f16"  # of a float32 base
    assert sorted(path.name for path in written.path.iterdir()) == ["Modelfile", "model.gguf"]
    text = (written.path / "Modelfile").read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """')
    assert not any("note:" in line for line in observer.lines)


def test_a_model_is_not_written_over_anything_nor_as_an_unknown_type(fork, tmp_path):
    (tmp_path / "there").write_text("mine")
    for write in (export_gguf, export_ollama):
        with pytest.raises(UsageError, match="exists, and nothing is overwritten"):
            as_model(write, fork, tmp_path / "there", None)
        with pytest.raises(UsageError, match="type 'q4' is not written; known: f32"):
            as_model(write, fork, tmp_path / "new", "q4")
    assert (tmp_path / "there").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
