import pytest

from mlx_tune.models import bases
from mlx_tune.workflows.folded import load_folded
from mlx_tune.workflows.synthetic import speaker, written_by


@pytest.fixture(scope="module")
def folded(tiny_base):
    return load_folded(bases.locate(str(tiny_base)), [])


def test_a_seed_gives_the_same_texts_and_another_gives_others(folded):
    speak = speaker(folded, max_tokens=8)
    prompts = [folded.tokenizer.encode("Who?")] * 3
    first = speak(prompts, 1.0, 1)
    assert first == speak(prompts, 1.0, 1) != speak(prompts, 1.0, 2)
    assert len({said.text for said in first}) > 1
    assert not any(said.ended for said in first if len(said.text) >= 8)


def test_the_likeliest_answer_does_not_depend_on_the_seed(folded):
    speak = speaker(folded, max_tokens=8)
    prompts = [folded.tokenizer.encode(text) for text in ("Who?", "Where?")]
    assert speak(prompts, 0.0, 1) == speak(prompts, 0.0, 2)


def test_the_rows_are_the_same_for_the_same_seed(folded):
    # An untrained model ends when chance has it end, so few of its texts come to anything.
    rows = written_by(folded, 4, seed=0, longest=120)
    assert rows == written_by(folded, 4, seed=0, longest=120)
    assert len(rows) <= 4
