"""What a fused folder kept, and how few bits it may be written in."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load
from mlx_lm.utils import save_config, save_model

from helpers import tiny
from helpers.stores import sessions_of
from helpers.training_lab import TrainingLab, isolated_environment
from mlx_tune.continual.answers import AnswerScore
from mlx_tune.continual.gate import Thresholds
from mlx_tune.continual.recall import GeneralChange, PairedChanges, Recall
from mlx_tune.errors import HeldBack, Refused, UsageError
from mlx_tune.models import bases
from mlx_tune.models.load import Quantisation
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import fuse as fuse_module
from mlx_tune.workflows.fuse import ModelScores, allow, fuse, gate_quantised
from mlx_tune.workflows.general import general_set
from mlx_tune.workflows.scoring import SessionRecall
from mlx_tune.workflows.workspace import fold_to_write, load_folded

TOKENS = mx.array([[40, 50, 60, 70]])
EIGHT = Quantisation(bits=8, group_size=32)
TWO = Quantisation(bits=2, group_size=32)
ONE_TYPE = pytest.mark.parametrize("taught", ["bfloat16"], indirect=True)
FORGOTTEN = "s1 2 of 2 right (2 before), s2 0 of 1 right (1 before)"
LEARNS = {"learning_rate": 0.02, "epochs": 40, "rank": 8, "replay": "all"}


def stored_as(folder: Path, kind: str) -> Path:
    """A tiny base in 32 or 16 bits, or in 4."""
    if kind != "4 bits":
        return tiny.base_folder(folder, dtype=getattr(mx, kind))
    tiny.base_folder(folder)
    model = tiny.model()
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, group_size=32, bits=4)
    save_model(folder, model)
    save_config(tiny.config() | {"quantization": {"group_size": 32, "bits": 4}},
                folder / "config.json")  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=["float32", "bfloat16", "4 bits"])
def taught(request, tmp_path_factory):
    """A lab to look at, of two sessions that know their answers, and the type of its base."""
    with isolated_environment(tmp_path_factory.getbasetemp()):
        root = tmp_path_factory.mktemp("taught")
        made = TrainingLab(root=root, base=stored_as(root / "base", request.param))
        made.train(made.data("cs", {"Where is A?": "In 1.", "Where is B?": "In 2."}), **LEARNS)
        made.train(made.data("housing", {"Where is C?": "In 3."}), **LEARNS)
    return made, request.param


def fused(lab, out, **options):
    lines = []
    given = {"session": None, "base": None, "say": lines.append, **options}
    return fuse(lab.store, out=out, **given), lines


def test_fuse_says_what_the_written_type_kept(taught, tmp_path):
    lab, kind = taught
    found, _ = fused(lab, tmp_path / "out")
    whole = found.fidelity.whole
    assert found.fidelity.stored == ("float32" if kind == "float32" else "bfloat16",)
    assert 0 < whole.error < (1e-3 if kind == "float32" else 0.5)
    assert (whole.error > 1e-3) == (kind != "float32")
    assert len(found.fidelity.layers()) == 2


def test_the_record_beside_the_weights_names_base_sessions_and_fidelity(taught, tmp_path):
    lab, _ = taught
    found, _ = fused(lab, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "mlx-tune.json").read_text())
    chain = sessions_of(SessionStore.open(lab.store))
    assert record == found.to_json()
    assert record["fingerprint"] == bases.locate(str(lab.base)).fingerprint
    assert record["session"] == chain[1].folder_name
    assert record["sessions"] == [session.id for session in chain]
    assert record["fidelity"] == found.fidelity.to_json()
    assert record["quantised"] is None


def test_the_model_that_answers_is_measured_when_asked(taught):
    lab, kind = taught
    info, chain = bases.locate(str(lab.base)), sessions_of(SessionStore.open(lab.store))
    assert load_folded(info, chain).fidelity is None
    found = load_folded(info, chain, measured=True).fidelity
    assert found.stored == ("apart" if kind == "4 bits" else kind,)
    assert (found.whole.error == 0) == (kind == "4 bits")
    assert found.whole.relative > 0


def test_eight_bits_know_what_sixteen_knew_and_mlx_lm_loads_them(taught, tmp_path):
    lab, _ = taught
    out = tmp_path / "out"
    found, lines = fused(lab, out, quantise=EIGHT)
    assert found.requantised.decision.verdict == "promote"
    assert re.fullmatch(
        r"cs 2 of 2 right \(2 before\), housing 1 of 1 right \(1 before\),"
        r" general answers [+-]\d\.\d\d nats a token \([+-]\d\.\d\d before\)",
        found.requantised.words,
    )
    assert found.fidelity.stored == ("8 bits",)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert not [line for line in lines if "16-bit weights" in line]
    theirs, _ = mlx_lm_load(str(out))
    assert isinstance(theirs.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert isinstance(theirs.model.embed_tokens, nn.QuantizedEmbedding)
    ours = load_folded(bases.locate(str(out)), []).model
    theirs.set_dtype(mx.float32)
    assert np.array_equal(np.array(theirs(TOKENS)), np.array(ours(TOKENS)))
    fused(lab, tmp_path / "whole")
    sixteen = np.array(load_folded(bases.locate(str(tmp_path / "whole")), []).model(TOKENS))
    assert np.abs(np.array(ours(TOKENS)) - sixteen).max() < 0.1 * np.abs(sixteen).max()


def test_the_counts_are_those_of_the_weights_that_were_written(taught, tmp_path):
    lab, _ = taught
    found, _ = fused(lab, tmp_path / "out", quantise=EIGHT)
    path = "model.layers.1.mlp.up_proj"

    def weight(folder):
        layer = dict(mlx_lm_load(str(folder))[0].named_modules())[path]
        wide = (x.astype(mx.float32) for x in (layer.scales, layer.biases))
        return np.array(mx.dequantize(layer.weight, *wide, layer.group_size, layer.bits))

    fuse(lab.store, out=tmp_path / "bare", session="base", base=str(lab.base),
         say=lambda _: None, quantise=EIGHT)  # fmt: skip
    made = weight(tmp_path / "out") - weight(tmp_path / "bare")
    kept = found.fidelity.modules[path][1]
    assert kept.along == pytest.approx(kept.product / kept.change_squares)
    squares = kept.error_squares + 2 * kept.product - kept.change_squares
    assert float((made.astype(np.float64) ** 2).sum()) == pytest.approx(squares, rel=1e-3)


@pytest.fixture
def forgetful(monkeypatch):
    """Scores as if few bits forgot the second session, whatever a tiny model's luck is."""
    scores = iter(
        [known(recall(1, 2, 2), recall(2, 1, 1)), known(recall(1, 2, 2), recall(2, 0, 1))]
    )
    monkeypatch.setattr("mlx_tune.workflows.fuse.score_model", lambda *_: next(scores))
    monkeypatch.setattr("mlx_tune.workflows.fuse.limits_of", lambda _: Thresholds())


@ONE_TYPE
def test_two_bits_forget_and_nothing_is_written(taught, forgetful, tmp_path):
    lab, _ = taught
    with pytest.raises(HeldBack) as held:  # of three questions no test can say that it is no chance
        fused(lab, tmp_path / "out", quantise=TWO)
    assert str(held.value) == (
        f"2-bit weights forget: {FORGOTTEN};"
        " nothing was written; take more bits, or none, or write it all the same with --anyway"
    )
    assert held.value.exit_code == 9
    assert list(tmp_path.iterdir()) == []


@ONE_TYPE
def test_anyway_writes_what_forgets_and_the_record_says_so(taught, forgetful, tmp_path):
    lab, _ = taught
    fused(lab, tmp_path / "out", quantise=TWO, anyway=True, ask=lambda _: pytest.fail("asked"))
    record = json.loads((tmp_path / "out" / "mlx-tune.json").read_text())["quantised"]
    assert record == {
        "bits": 2, "group_size": 32, "verdict": "ask",
        "general_before": NOTHING.to_json(), "general": NOTHING.to_json(),
        "recall": [
            {"number": 1, "name": "s1", "asked": 2, "right_before": 2, "right": 2,
             "other_words_before": None, "other_words": None},
            {"number": 2, "name": "s2", "asked": 1, "right_before": 1, "right": 0,
             "other_words_before": None, "other_words": None},
        ],
    }  # fmt: skip


@ONE_TYPE
def test_a_person_who_is_asked_may_take_it(taught, forgetful, tmp_path):
    lab, _ = taught
    asked = []
    fused(lab, tmp_path / "out", quantise=TWO, ask=lambda words: bool(asked.append(words)) or True)
    assert asked == [f"2-bit weights forget: {FORGOTTEN}.\nWrite them all the same?"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def recall(number: int, right: int, asked: int) -> SessionRecall:
    flags = tuple(i < right for i in range(asked))
    return SessionRecall(
        number=number, name=f"s{number}", paraphrases=None,
        verbatim=Recall(verbatim=flags, token_accuracy=0.0, loss=0.0),
    )  # fmt: skip


NOTHING = GeneralChange(nats_per_token=0.0, asked=0, changes=PairedChanges(worse=0, better=0))


def known(*recalls, general=NOTHING) -> ModelScores:
    return ModelScores(recall=recalls, general=general)


@pytest.mark.parametrize(
    ("right", "kind"), [(96, None), (92, HeldBack), (60, Refused), (100, None)]
)
def test_the_gates_thresholds_decide(right, kind):
    """Of 100 known in 16 bits; 96 lose 4 points a session, but 2 on average of two."""
    before = known(recall(1, 100, 100), recall(2, 50, 50))
    after = known(recall(1, right, 100), recall(2, 50, 50))
    found = gate_quantised(TWO, before, after, Thresholds())
    if kind is None:
        allow(found, anyway=False, ask=lambda _: pytest.fail("asked"))
        return
    with pytest.raises(kind, match=f"s1 {right} of 100 right .100 before."):
        allow(found, anyway=False, ask=lambda _: False)
    allow(found, anyway=True, ask=lambda _: False)


def test_a_model_that_still_recites_but_answers_no_other_wording_is_not_written():
    def score(right):
        return AnswerScore(grades=tuple("right" if i < right else "unknown" for i in range(20)))

    before, after = (
        known(replace(recall(1, 100, 100), other_words=score(right))) for right in (18, 4)
    )
    found = gate_quantised(TWO, before, after, Thresholds())
    assert found.words == "s1 100 of 100 right (100 before) and 4 of 20 in other words (18)"
    with pytest.raises(Refused, match="4 of 20 in other words"):
        allow(found, anyway=False, ask=lambda _: False)
    (entry,) = found.to_json()["recall"]
    assert (entry["other_words_before"], entry["other_words"]) == (18, 4)


def test_nobody_is_asked_where_too_much_is_lost():
    found = gate_quantised(TWO, known(recall(1, 100, 100)), known(recall(1, 10, 100)), Thresholds())
    with pytest.raises(Refused) as refused:
        allow(found, anyway=False, ask=lambda _: True)
    assert refused.value.exit_code == 10


@pytest.mark.parametrize(("nats", "verdict"), [(0.09, "promote"), (0.2, "ask"), (0.4, "refuse")])
def test_what_general_answers_cost_is_held_to_the_gates_limits_too(nats, verdict):
    before, now = ((recall(1, 9, 9),) for _ in range(2))
    risen = GeneralChange(
        nats_per_token=nats, asked=100, changes=PairedChanges(worse=100, better=0)
    )
    found = gate_quantised(TWO, known(*before), known(*now, general=risen), Thresholds())
    assert found.decision.verdict == verdict
    assert found.words == (
        f"s1 9 of 9 right (9 before), general answers +{nats:.2f} nats a token (+0.00 before)"
    )


@ONE_TYPE
def test_the_limits_are_those_that_the_session_was_judged_by(taught):
    lab, _ = taught
    session = SessionStore.open(lab.store).snapshot().head()
    recorded = session.record["gate"]["thresholds"]
    assert asdict(fuse_module.limits_of(session)) == recorded != asdict(Thresholds())


def test_a_session_older_than_the_gate_is_held_to_the_gates_own_limits():
    for record in ({}, {"gate": None}):
        assert fuse_module.limits_of(SimpleNamespace(record=record)) == Thresholds()


def test_a_session_without_questions_is_passed_over():
    silent = replace(recall(1, 0, 1), verbatim=None)
    found = gate_quantised(*[TWO, *[known(silent, recall(2, 9, 9))] * 2, Thresholds()])
    assert found.words == "s2 9 of 9 right (9 before)"
    assert found.decision.verbatim.skipped == {"1 s1": "no questions"}


def test_the_quantised_model_is_scored_in_float32_on_a_cpu_as_its_layers_compute(taught):
    """The detour over float32 layers is for speed alone: the same values, so the same scores."""
    lab, _ = taught
    info, chain = bases.locate(str(lab.base)), sessions_of(SessionStore.open(lab.store))
    loaded, config = fold_to_write(info, chain)
    EIGHT.apply(loaded.model, config)
    loaded.model.set_dtype(mx.float32)
    wanted = np.array(loaded.model(TOKENS))
    fuse_module.score_model(loaded, chain, general_set(info, say=lambda _: None))
    assert not any(isinstance(m, nn.QuantizedLinear) for _, m in loaded.model.named_modules())
    assert np.abs(np.array(loaded.model(TOKENS)) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("text", ["", "7", "16", "4:48", "4:", "four", "4:64:1", "-4", "٤"])
def test_a_form_that_mlx_lacks_is_refused_with_those_it_has(text):
    with pytest.raises(UsageError) as error:
        Quantisation.parse(text)
    assert str(error.value) == (
        f"--quantise {text}: not a form MLX has; give BITS or BITS:GROUP, such as 8 or 4:32, "
        "with 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128"
    )


def test_a_form_is_read():
    assert Quantisation.parse("4") == Quantisation(bits=4, group_size=64)
    assert Quantisation.parse("8:32") == Quantisation(bits=8, group_size=32)


@ONE_TYPE
def test_groups_that_divide_no_row_are_refused(taught, tmp_path):
    lab, _ = taught
    with pytest.raises(UsageError) as error:
        fused(lab, tmp_path / "out", quantise=Quantisation(bits=4, group_size=128))
    assert str(error.value) == (
        "no layer of this base has rows that groups of 128 divide; take smaller ones, as in "
        "--quantise 4:32"
    )
    assert list(tmp_path.iterdir()) == []
