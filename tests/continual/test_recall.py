"""Verbatim recall, and the change of the loss on general answers."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from mlx_tune.continual.recall import GeneralChange, PairedChanges, general_change, score
from mlx_tune.data.tokenise import Example
from mlx_tune.inference import batch_generate, stream
from mlx_tune.training.batches import shared_prefix
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.generic import attach
from mlx_tune.training.loop import Trainer
from mlx_tune.training.loss import cross_entropy


@pytest.fixture(scope="module")
def learned():
    """A tiny model that was taught a few answers, well enough to know some and not all."""
    tokenizer = tiny.tokenizer()
    questions = [f"what is the code of room {n}?" for n in range(6)]
    answers = ["red fox", "blue", "green owl 7", "x", "red hen", "blue jay"]
    examples = []
    for question, answer in zip(questions, answers, strict=True):
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        taught = tokenizer.encode(answer + "<|im_end|>")
        examples.append(
            Example(
                tokens=(*prompt, *taught),
                supervised=(False,) * len(prompt) + (True,) * len(taught),
            )
        )
    model = tiny.model()
    config = TrainingConfig(
        rank=8, scale=2.0, epochs=60, batch_size=6, grad_accumulation=1,
        learning_rate=1e-2, new_rows=6, seed=0, compile=False,
    )  # fmt: skip
    trainer = Trainer(model, examples, config)
    for step in trainer.steps():
        if step.loss < 0.35:
            break
    adapter = trainer.adapter()
    attach(model, adapter.factors, adapter.scale)
    return model, tokenizer, examples, questions, answers


def test_the_forward_pass_says_what_generation_would(learned):
    model, tokenizer, examples, questions, answers = learned
    recall = score(model, examples)
    for known, question, answer in zip(recall.verbatim, questions, answers, strict=True):
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        pieces = list(stream(model, tokenizer, prompt, max_tokens=40))
        said = "".join(piece.text for piece in pieces)
        assert known == (said == answer and pieces[-1].finish_reason == "stop"), (said, answer)
    assert 0 < recall.right < recall.asked, "the fixture must know some answers and not others"


def test_a_miss_is_where_the_greedy_answer_leaves_the_taught_one(learned):
    model, tokenizer, examples, questions, _ = learned
    recall = score(model, examples)
    assert [miss is None for miss in recall.misses] == list(recall.verbatim)
    for example, miss, question in zip(examples, recall.misses, questions, strict=True):
        if miss is None:
            continue
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        (said,) = batch_generate(model, tokenizer, [prompt], max_tokens=40)
        until = miss.at - example.last_answer
        assert tuple(said[:until]) == example.tokens[example.last_answer : miss.at]
        assert said[until] == miss.token != example.tokens[miss.at]


def test_a_miss_in_an_earlier_answer_of_a_conversation_is_none(learned):
    """It is given, as it is in use; only the last answer is looked at."""
    model, _, examples, _, _ = learned
    known = examples[score(model, examples).verbatim.index(True)]
    middle = len(known.tokens) // 4
    conversation = Example(
        tokens=known.tokens,
        supervised=(False, True, *known.supervised[2:middle], *known.supervised[middle:]),
    )
    recall = score(model, [conversation])
    assert (recall.verbatim, recall.misses) == ((False,), (None,))


def test_the_order_of_examples_does_not_change_who_is_right(learned):
    model, _, examples, _, _ = learned
    assert score(model, examples[::-1]).verbatim == score(model, examples).verbatim[::-1]


def test_rates_are_counted_over_what_was_asked(learned):
    model, _, examples, _, _ = learned
    recall = score(model, examples)
    assert recall.asked == 6
    assert recall.rate == pytest.approx(recall.right / 6)
    assert 0 < recall.token_accuracy <= 1
    assert recall.loss > 0


def test_one_wrong_token_is_not_verbatim(learned):
    model, _, examples, _, _ = learned
    recall = score(model, examples)
    known = examples[recall.verbatim.index(True)]
    changed = Example(
        tokens=(*known.tokens[:-2], (known.tokens[-2] + 1) % 256, known.tokens[-1]),
        supervised=known.supervised,
    )
    assert score(model, [changed]).verbatim == (False,)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_flags_share_and_loss_are_those_of_the_models_own_logits(model_type):
    """Row by row, for a network that is walked, with its prefix, and for one called as a whole."""
    model = tiny.model(model_type=model_type)
    rows = tiny.rows(6)
    assert shared_prefix(rows)
    verbatim, hits, losses = [], [], []
    for row in rows:
        logits = model(mx.array([row.tokens[:-1]]))[0]
        at = np.flatnonzero(row.supervised)
        targets = np.array(row.tokens)[at]
        right = np.array(mx.argmax(logits, axis=-1))[at - 1] == targets
        verbatim.append(bool(right.all()))
        hits += right.tolist()
        losses.append(np.array(cross_entropy(logits[mx.array(at - 1)], mx.array(targets))))
    # One row that the model knows: it is taught what it says.
    first = rows[0]
    at = first.first_supervised
    said = list(first.tokens[:at])
    while len(said) < len(first.tokens):
        said.append(int(np.array(mx.argmax(model(mx.array([said]))[0, -1]))))
    recall = score(model, [*rows, Example(tokens=tuple(said), supervised=first.supervised)])
    alone = score(model, rows)
    assert recall.verbatim == (*verbatim, True)
    assert alone.token_accuracy == pytest.approx(np.mean(hits))
    assert alone.loss == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert alone.losses == pytest.approx([row.sum() for row in losses], rel=1e-5)
    assert alone.max_token_losses == pytest.approx([row.max() for row in losses], rel=1e-5)


def test_many_long_answers_are_scored_in_passes_of_bounded_size(monkeypatch):
    rows = tiny.rows(8)
    whole = score(tiny.model(), rows)
    monkeypatch.setattr("mlx_tune.continual.recall._LOGITS_BYTES", 4 * tiny.VOCABULARY * 7)
    parts = score(tiny.model(), rows)
    assert parts.verbatim == whole.verbatim
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_nothing_asked_is_nothing_known():
    recall = score(tiny.model(), [])
    assert (recall.asked, recall.rate, recall.token_accuracy, recall.loss) == (0, 0.0, 0.0, 0.0)


NATS = st.floats(0, 1e3)
PROBES = st.lists(st.tuples(NATS, NATS, st.integers(1, 40)), min_size=1, max_size=20)


def test_the_rise_is_that_of_the_mean_over_all_tokens():
    # (3 + 1 + 2) / (2 + 1 + 5) − (1 + 2 + 2) / 8
    found = general_change([1.0, 2.0, 2.0], [3.0, 1.0, 2.0], [2, 1, 5])
    assert found == GeneralChange(
        nats_per_token=0.125, asked=3, changes=PairedChanges(worse=1, better=1)
    )


def test_nothing_asked_is_no_rise():
    assert general_change([], [], []) == GeneralChange(
        nats_per_token=0.0, asked=0, changes=PairedChanges(worse=0, better=0)
    )


def test_lists_of_unlike_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        general_change([1.0, 2.0], [1.0, 2.0], [3])


@given(PROBES)
def test_the_way_back_is_the_same_rise_downward(probes):
    base, now, tokens = zip(*probes, strict=True)
    there, back = general_change(base, now, tokens), general_change(now, base, tokens)
    assert back.nats_per_token == -there.nats_per_token
    assert (back.changes.worse, back.changes.better) == (there.changes.better, there.changes.worse)


@given(PROBES)
def test_a_model_that_answers_as_the_base_does_has_not_risen(probes):
    base, _, tokens = zip(*probes, strict=True)
    assert general_change(base, base, tokens) == GeneralChange(
        nats_per_token=0.0, asked=len(base), changes=PairedChanges(worse=0, better=0)
    )


def test_the_rise_is_the_difference_of_two_scores():
    rows, other = tiny.rows(), tiny.model(seed=1)
    before, after = score(tiny.model(), rows), score(other, rows)
    found = general_change(before.losses, after.losses, [sum(row.supervised) for row in rows])
    assert found.nats_per_token == pytest.approx(after.loss - before.loss, abs=1e-9)
    assert found.changes.worse + found.changes.better == found.asked == len(rows)
