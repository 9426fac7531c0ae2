import pytest

from mlx_tune.data.tokenise import encode
from mlx_tune.inference import stream
from mlx_tune.models import bases
from mlx_tune.store.snapshot import read_snapshot
from mlx_tune.workflows.general import speaker, written_by
from mlx_tune.workflows.workspace import load_folded


@pytest.fixture(scope="module")
def folded(fork):
    """A model that was taught two short facts: it comes to an end after a question it knows."""
    store = read_snapshot(fork.store)
    return load_folded(bases.locate(str(fork.base)), store.chain(store.find("cs")))


def prompts(folded, *questions: str) -> list[list[int]]:
    return [folded.tokenizer.prompt([{"role": "user", "content": text}]) for text in questions]


def test_a_seed_gives_the_same_texts_and_another_gives_others(folded):
    speak = speaker(folded, max_tokens=8)
    three = prompts(folded, *["Who?"] * 3)
    first = speak(three, 1.0, 1)
    assert first == speak(three, 1.0, 1) != speak(three, 1.0, 2)
    assert len({said.text for said in first}) > 1


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_a_text_that_comes_to_an_end_is_told_from_one_that_is_cut(folded, temperature):
    known = prompts(folded, "Where is A?")
    whole, cut = (speaker(folded, max_tokens=n)(known, temperature, 0)[0] for n in (20, 4))
    assert (whole.text, whole.is_finished) == ("In 1.", True)
    assert (cut.text, cut.is_finished) == ("In 1", False)


def test_the_likeliest_texts_are_those_of_one_prompt_at_a_time(folded):
    several = prompts(folded, "Where is A?", "Who on earth?", "Where is B?")
    alone = [
        "".join(piece.text for piece in stream(folded.model, folded.tokenizer, p, max_tokens=20))
        for p in several
    ]
    speak = speaker(folded, max_tokens=20)
    assert [said.text for said in speak(several, 0.0, 1)] == alone
    assert speak(several, 0.0, 1) == speak(several, 0.0, 2)


def test_the_rows_can_be_trained_on_and_a_seed_decides_them(folded):
    rows = written_by(folded, 3, seed=3, longest=150)
    assert rows == written_by(folded, 3, seed=3, longest=150)
    assert 0 < len(rows) <= 3
    assert len(encode(rows, folded.tokenizer)) == len(rows)
