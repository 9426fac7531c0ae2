"""One contract over architectures: train twice, gate, fold, chat, fuse, take out and take back."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import generate
from mlx_lm import load as load_with_mlx_lm

from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment
from mlx_tune import Store
from mlx_tune.errors import InputError
from mlx_tune.models.bases import locate
from mlx_tune.models.load import load
from mlx_tune.training.adapter import PROJECTIONS
from mlx_tune.workflows.workspace import load_folded, read_adapter

GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 16}
MODELS = {
    "llama": {},
    "mistral": {"tie_word_embeddings": False},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {**GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {**GEMMA, "sliding_window_pattern": 2},
    "phi3": {"rope_scaling": None, "original_max_position_embeddings": 2048},
    "smollm3": {"no_rope_layer_interval": 2},
}
QUICKLY = ("llama", "gemma3_text", "phi3")  # packed, called as a whole, merged projections
WRITTEN_AS_GGUF = {"llama", "mistral", "qwen2", "qwen3"}
QUICK = {"epochs": 3, "learning_rate": 0.01}
TOKENS = mx.arange(3, 60)[None]  # more than a sliding window


@pytest.fixture(
    scope="module",
    params=[
        name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
    ],
)
def taught(request, tmp_path_factory):
    """A store of two sessions on a tiny random model of the architecture."""
    root = tmp_path_factory.mktemp(request.param)
    with isolated_environment(root):
        base = tiny.base_folder(root / "base", model_type=request.param, **MODELS[request.param])
        lab = TrainingLab(root=root, base=base)
        lab.train(lab.data("first", {"Where is X?": "In A.", "Where is Y?": "In B."}), **QUICK)
        lab.train(lab.data("second", {"Where is Z?": "In C."}), **QUICK)
        yield lab


@pytest.fixture
def store(taught):
    return Store(taught.store, base=str(taught.base))


def kind(lab) -> str:
    return json.loads((lab.base / "config.json").read_text())["model_type"]


def logits(lab, *, session="HEAD") -> np.ndarray:
    snapshot = Store(lab.store).snapshot()
    chain = snapshot.chain(snapshot.find(session))
    return np.array(load_folded(locate(str(lab.base)), chain).model(TOKENS)[0])


def test_every_projection_of_every_layer_is_adapted(taught, store):
    head = store.snapshot().head()
    layers = {path.rpartition(".")[2] for path in read_adapter(head).factors}
    merged = {"qkv_proj", "gate_up_proj", "o_proj", "down_proj"}
    plain = {name.rpartition(".")[2] for name in PROJECTIONS}
    assert layers == (merged if kind(taught) == "phi3" else plain)
    assert len(read_adapter(head).factors) == 2 * len(layers)


def test_what_was_taught_is_measured_and_moves_the_model(taught, store):
    head = store.snapshot().head()
    assert [each["verbatim"]["asked"] for each in head.record["recall"]] == [2, 1]
    before, after = logits(taught, session="first"), logits(taught)
    assert np.abs(after - before).max() > 1e-3


def test_mlx_lm_loads_the_fused_model_and_computes_the_same(taught, store, tmp_path):
    store.fuse(tmp_path / "fused")
    model, tokenizer = load_with_mlx_lm(str(tmp_path / "fused"))
    assert np.abs(np.array(model(TOKENS)[0]) - logits(taught)).max() <= 1e-4
    assert tokenizer._tokenizer.chat_template == tiny.CHATML


def test_mlx_lm_loads_the_first_adapter_beside_the_base(taught, store):
    snapshot = store.snapshot()
    folder = snapshot.find("first").path
    model, _ = load_with_mlx_lm(str(taught.base), adapter_path=str(folder))
    assert np.abs(np.array(model(TOKENS)[0]) - logits(taught, session="first")).max() <= 1e-4


def test_chat_answers_as_the_fused_model_does(taught, store, tmp_path):
    store.fuse(tmp_path / "fused")
    model, tokenizer = load_with_mlx_lm(str(tmp_path / "fused"))
    messages = [{"role": "user", "content": "Where is X?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    theirs = generate(model, tokenizer, prompt, max_tokens=12)
    assert store.chat(max_tokens=12).ask("Where is X?") == theirs


def test_the_chain_goes_out_as_one_peft_adapter_and_comes_back(taught, store, tmp_path):
    store.export_peft(tmp_path / "peft")
    home = Store(tmp_path / "home", base=str(taught.base))
    home.import_adapter(tmp_path / "peft", name="home")
    lab = TrainingLab(root=tmp_path, base=taught.base)
    (tmp_path / "home").rename(lab.store)
    assert np.abs(logits(lab, session="home") - logits(taught)).max() <= 1e-4


def test_it_goes_out_as_gguf_or_is_refused_by_name(taught, store, tmp_path):
    path = tmp_path / "model.gguf"
    if kind(taught) not in WRITTEN_AS_GGUF:
        with pytest.raises(InputError, match=f"{kind(taught)} is not written as GGUF; known: lla"):
            store.export_gguf(path)
        assert not path.exists()
        return
    store.export_gguf(path, kind="f32")
    model = load(locate(str(path))).model
    assert np.abs(np.array(model(TOKENS)[0]) - logits(taught)).max() <= 1e-4


def test_rolling_back_twice_is_the_base(taught, tmp_path):
    lab = taught.copy(tmp_path)
    store = Store(lab.store, base=str(lab.base))
    store.rollback()
    assert np.array_equal(logits(lab), logits(taught, session="first"))
    store.rollback(to="base")
    plain, _ = load_with_mlx_lm(str(lab.base))
    assert np.abs(logits(lab, session="base") - np.array(plain(TOKENS)[0])).max() <= 1e-5
