import pytest

from helpers.stores import sessions_of
from mlx_tune.continual.key_facts import key_facts, present_facts
from mlx_tune.inference import stream
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.scoring import ask_questions, prepare_questions, score_facts
from mlx_tune.workflows.workspace import load_folded, read_history


@pytest.fixture(scope="module")
def asked(fork):
    """The model after cs and housing, and rows it was and was not taught."""
    store = SessionStore.open(fork.store)
    chain = store.snapshot().chain(store.snapshot().find("housing"))
    rows = [row for rows in read_history(sessions_of(store)) for row in rows]
    rows = [rows[0], *(row for row in rows if "?" in row.question)]
    reworded = [row.with_question(row.question.lower()) for row in rows]
    rows = [
        type(row)(messages=row.messages, paraphrases=(again.question,))
        for row, again in zip(rows, reworded, strict=True)
    ]
    folded = load_folded(bases.locate(str(fork.base)), chain)
    (questions,) = prepare_questions([(1, "all")], [rows], folded.tokenizer)
    return folded, rows, questions, ask_questions(folded, questions)


def said(folded, row, question):
    prompt = folded.tokenizer.prompt([{"role": "user", "content": question}])
    return "".join(p.text for p in stream(folded.model, folded.tokenizer, prompt, max_tokens=30))


def test_the_share_is_that_of_answers_generated_one_by_one(asked):
    folded, rows, questions, recall = asked
    scored = score_facts(folded, rows, questions, recall)
    for kind, wordings in (
        ("verbatim", [row.question for row in rows]),
        ("paraphrases", [row.paraphrases[0] for row in rows]),
    ):
        there = [
            present_facts(key_facts(row.answer), said(folded, row, question))
            for row, question in zip(rows, wordings, strict=True)
        ]
        assert scored[kind].asked == sum(map(len, there))
        assert scored[kind].found == sum(map(sum, there))
    both = scored["verbatim"]
    assert 0 < both.found < both.asked, "the fixture must know some and not all"


def test_answers_that_lack_a_fact_are_told_with_what_was_said(asked):
    folded, rows, questions, recall = asked
    missing = score_facts(folded, rows, questions, recall)["verbatim"].missing
    assert missing
    for one in missing:
        row = next(row for row in rows if row.question == one.question)
        assert set(one.facts) <= {fact.text for fact in key_facts(row.answer)}
        assert one.answer.strip() != row.answer
        for fact in one.facts:
            assert not present_facts(
                [f for f in key_facts(row.answer) if f.text == fact], one.answer
            )[0]


def test_what_is_known_word_for_word_is_not_generated(asked, monkeypatch):
    folded, rows, questions, recall = asked
    prompts = []

    def none(model, tokenizer, asked, *, max_tokens):
        prompts.extend(asked)
        return [[] for _ in asked]

    monkeypatch.setattr("mlx_tune.workflows.scoring.batch_generate", none)
    scored = score_facts(folded, rows, questions, recall)
    unknown = sum(not flag for flag in recall.verbatim.verbatim + recall.paraphrases.verbatim)
    assert len(prompts) == unknown
    assert scored["verbatim"].found == recall.verbatim.right


def test_no_questions_have_no_facts(asked):
    folded = asked[0]
    (none,) = prepare_questions([(1, "texts")], [[]], folded.tokenizer)
    nothing = score_facts(folded, [], none, ask_questions(folded, none))
    assert [(one.found, one.asked) for one in nothing.values()] == [(0, 0), (0, 0)]
