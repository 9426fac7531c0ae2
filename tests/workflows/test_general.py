import json

import mlx.core as mx
import pytest

from helpers import tiny
from mlx_tune.continual.recall import general_change, score
from mlx_tune.data import general_questions
from mlx_tune.inference import batch_generate
from mlx_tune.models import bases, cache, runtime
from mlx_tune.workflows import general
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.workspace import load_folded


@pytest.fixture(autouse=True)
def own_answers(tmp_path, monkeypatch):
    """These tests look into the cache and damage it, so each has one of its own."""
    monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def info(tiny_base):
    return bases.locate(str(tiny_base))


def kept():
    """The file of the answers; there is one."""
    (path,) = (cache.cache_dir() / "general").iterdir()
    return path


def ask(info) -> tuple[GeneralSet, list[str]]:
    told = []
    return general_set(info, say=told.append), told


def asked_again(info) -> bool:
    return any("asking the base" in line for line in ask(info)[1])


def test_an_example_is_a_question_and_what_the_base_says_to_it(info):
    made, told = ask(info)
    assert told == ["asking the base 5 general questions (once a base)…"]
    assert (len(made.probes), len(made.replayed)) == (3, 2)
    folded = load_folded(info, [])
    shown = [
        *general_questions.evenly(general_questions.probes(), 3),
        *general_questions.evenly(general_questions.replay_questions(), 2),
    ]
    for example, question in zip([*made.probes, *made.replayed], shown, strict=True):
        prompt = folded.tokenizer.prompt([{"role": "user", "content": question.text}])
        (said,) = batch_generate(folded.model, folded.tokenizer, [prompt], max_tokens=40)
        assert example.tokens == (*prompt, *said)
        assert example.first_supervised == len(prompt)
        assert example.supervised[len(prompt) :] == (True,) * len(said)
        assert question.text in example.place


def test_the_losses_are_the_bases_own_so_it_has_not_risen(info):
    made, _ = ask(info)
    now = score(load_folded(info, []).model, made.probes).losses
    assert min(made.base_losses) > 0
    assert general_change(made.base_losses, now, made.tokens).nats_per_token == 0
    assert made.tokens == tuple(sum(probe.supervised) for probe in made.probes)


def test_a_base_is_asked_once(info, monkeypatch):
    first, _ = ask(info)
    monkeypatch.setattr(general, "load_folded", None)
    assert ask(info) == (first, [])


def test_the_answers_are_the_same_when_asked_again(info):
    first, _ = ask(info)
    data = kept().read_bytes()
    kept().unlink()
    assert ask(info)[0] == first
    assert kept().read_bytes() == data


DAMAGE = {
    "a byte more": lambda data: data.replace(b'"answer_tokens":', b'"answer_tokens":1', 1),
    "another loss": lambda data: data.replace(b'"base_losses":[', b'"base_losses":[1', 1),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no JSON": lambda data: b"\xff" + data,
    "another kind": lambda data: b"[1, 2]\n",
    "deep": lambda data: b"[" * 100_000,
    "no hash": lambda data: json.dumps({**json.loads(data), "sha256": None}).encode(),
    "another shape": lambda data: sealed({"key": json.loads(data)["key"], "probes": 7}),
}


def sealed(body) -> bytes:
    return json.dumps({**body, "sha256": general._hash(body)}).encode()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_made_anew(info, damage):
    first, _ = ask(info)
    whole = kept().read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    kept().write_bytes(damaged)
    found, told = ask(info)
    assert found == first
    assert len(told) == 1
    assert kept().read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(general, "RULES", general.RULES + 1),
        lambda patch: patch.setattr(general, "MAX_TOKENS", 7),
        lambda patch: patch.setattr(general, "PROBES", 2),
        lambda patch: patch.setattr(runtime, "compute_dtype", lambda: mx.bfloat16),
    ],
    ids=["rules", "length", "questions", "type"],
)
def test_what_decides_the_answers_asks_for_new_ones(info, monkeypatch, change):
    ask(info)
    assert not asked_again(info)
    change(monkeypatch)
    assert asked_again(info)


def test_a_file_of_another_base_is_not_believed(info, tmp_path):
    other = bases.locate(str(tiny.base_folder(tmp_path / "other", seed=7)))
    ask(other)
    theirs = kept()
    theirs.rename(theirs.with_name(theirs.name.replace(other.fingerprint, info.fingerprint)))
    assert asked_again(info)


def test_a_cut_answer_gets_no_end_and_one_that_ended_has_it(info, monkeypatch):
    end = 2
    said = [[70, 71, end], [70] * 40, [end], [], [80, 81]]
    monkeypatch.setattr(general, "batch_generate", lambda *_, **__: said)
    made, _ = ask(info)
    assert [probe.tokens[-2:] for probe in made.probes] == [(71, end), (70, 70)]
    assert made.tokens == (3, 40)
    assert [guard.tokens[-2:] for guard in made.replayed] == [(80, 81)]
    assert len(made.base_losses) == 2
    assert general_set(info, say=lambda _: None) == made


@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('a system message comes first') }}"]
)
def test_a_base_that_cannot_be_chatted_with_is_asked_in_plain_text(tmp_path, template):
    folder = tiny.base_folder(tmp_path / "plain", template=template)
    info = bases.locate(str(folder))
    made, _ = ask(info)
    plain = load_folded(info, []).tokenizer.encode_plain(general_questions.probes()[0].text)
    assert made.probes[0].tokens[: len(plain)] == tuple(plain)
    assert made.probes[0].first_supervised == len(plain)


def test_questions_that_a_small_base_cannot_read_are_left_out(tmp_path):
    folder = tiny.base_folder(tmp_path / "small")
    (folder / "config.json").write_text(json.dumps(tiny.config(max_position_embeddings=40)))
    made, _ = ask(bases.locate(str(folder)))
    assert made == GeneralSet(probes=(), replayed=(), base_losses=())


def test_answers_that_cannot_be_kept_are_used_all_the_same(info):
    first, _ = ask(info)
    kept().unlink()
    kept_in = cache.cache_dir() / "general"
    kept_in.rmdir()
    kept_in.write_text("a file in the way")
    found, told = ask(info)
    assert found == first
    assert "the base's answers are not kept" in told[-1]
    assert len(told) == 2
