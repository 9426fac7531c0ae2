import pytest

import tiny
from mlx_tune.continual.recall import score
from mlx_tune.data.tokenise import Example
from mlx_tune.inference.generate import stream
from mlx_tune.training.loop import Trainer, TrainingConfig


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
        learning_rate=1e-2, new_rows=6, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, examples, config)
    for step in trainer.steps():
        if step.loss < 0.35:
            break
    model.eval()
    return model, tokenizer, examples, questions, answers


def test_the_forward_pass_says_what_generation_would(learned):
    model, tokenizer, examples, questions, answers = learned
    recall = score(model, examples)
    for known, question, answer in zip(recall.verbatim, questions, answers, strict=True):
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        pieces = list(stream(model, tokenizer, prompt, max_tokens=40))
        said = "".join(piece.text for piece in pieces)
        assert known == (said == answer and pieces[-1].finish == "stop"), (said, answer)
    assert 0 < recall.right < recall.asked, "the fixture must know some answers and not others"


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
