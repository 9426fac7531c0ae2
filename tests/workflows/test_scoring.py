"""A model's answers to the questions of sessions: which are asked, generated, and how graded."""

from dataclasses import replace

import pytest

from helpers.stores import sessions_of
from mlx_tune.continual.answers import AnswerKey, AnswerScore
from mlx_tune.continual.key_facts import own_facts, present_facts
from mlx_tune.inference import MARGIN_TOKENS, stream
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import scoring
from mlx_tune.workflows.scoring import (
    SessionRecall,
    ask_questions,
    grade_answers,
    prepare_questions,
    sample,
    sample_size,
)
from mlx_tune.workflows.workspace import load_folded, read_history


@pytest.fixture(scope="module")
def asked(fork):
    """The model after cs and housing, and rows it was and was not taught, each in other words."""
    store = SessionStore.open(fork.store)
    chain = store.snapshot().chain(store.snapshot().find("housing"))
    rows = [row for rows in read_history(sessions_of(store)) for row in rows]
    rows = [rows[0], *(row for row in rows if "?" in row.question)]
    unique = {row.question: row for row in rows}.values()
    rows = [replace(row, paraphrases=(row.question.lower(),)) for row in unique]
    folded = load_folded(bases.locate(str(fork.base)), chain)
    (questions,) = prepare_questions([(1, "all")], [rows], folded.tokenizer)
    return folded, rows, questions, ask_questions(folded, questions)


def graded(asked, *, most=64):
    folded, rows, questions, recall = asked
    (found,) = grade_answers(folded, [questions], [recall], AnswerKey(rows), most=most)
    return found


def said(folded, row, question):
    """The greedy answer, generated from its beginning and by itself."""
    prompt = folded.tokenizer.prompt([{"role": "user", "content": question}])
    limit = len(folded.tokenizer.encode(row.answer)) + 1 + MARGIN_TOKENS
    pieces = stream(folded.model, folded.tokenizer, prompt, max_tokens=limit)
    return "".join(piece.text for piece in pieces)


def test_answers_are_those_that_are_generated_one_by_one_from_their_beginning(asked):
    folded, rows, _, recall = asked
    found = graded(asked)
    key = AnswerKey(rows)
    for score, wordings in (
        (found.as_taught, [row.question for row in rows]),
        (found.other_words, [row.paraphrases[0] for row in rows]),
    ):
        answers = [said(folded, row, asks) for row, asks in zip(rows, wordings, strict=True)]
        verdicts = [
            key.grade(row, asks, answer)
            for row, asks, answer in zip(rows, wordings, answers, strict=True)
        ]
        assert score.grades == tuple(verdict.grade for verdict in verdicts)
        facts = [
            present_facts(own_facts(row.answer, row.question, asks), answer)
            for row, asks, answer in zip(rows, wordings, answers, strict=True)
        ]
        assert score.facts_asked == sum(map(len, facts))
        assert score.facts_found == sum(map(sum, facts))
        whole = {one.question: one.said for one in score.wrong}
        assert whole == {
            asks: answer
            for asks, answer, verdict in zip(wordings, answers, verdicts, strict=True)
            if verdict.grade != "right"
        }
    assert 0 < found.as_taught.right < len(rows), "the fixture must know some and not all"
    assert recall.verbatim.right <= found.as_taught.right


def test_only_what_is_not_known_is_generated_and_from_where_it_is_not(asked, monkeypatch):
    folded, _, questions, recall = asked
    begun = []

    def none(model, tokenizer, prompts, *, max_tokens):
        begun.extend(zip(prompts, max_tokens, strict=True))
        return [[] for _ in prompts]

    monkeypatch.setattr(scoring, "batch_generate", none)
    found = graded(asked)
    examples = (*questions.verbatim, *questions.paraphrases)
    misses = (*recall.verbatim.misses, *recall.paraphrases.misses)
    ends = folded.tokenizer.end_ids
    wanted = [
        ([*example.tokens[: miss.at], miss.token], len(example.tokens) + 15 - miss.at)
        for example, miss in zip(examples, misses, strict=True)
        if miss is not None and miss.token not in ends
    ]
    assert begun == wanted
    assert MARGIN_TOKENS == 16  # of which one is known
    assert 0 < len(begun) < len(examples)
    assert found.as_taught.right >= recall.verbatim.right


def test_an_answer_ends_where_the_model_can_read_no_further(asked, monkeypatch):
    folded, _, questions, recall = asked
    missed = [
        (example, miss)
        for example, miss in zip(questions.verbatim, recall.verbatim.misses, strict=True)
        if miss is not None
    ]
    whole = scoring.complete_answers(folded, missed)
    monkeypatch.setattr(scoring, "context_tokens", lambda model: missed[0][1].at + 1)
    cut = scoring.complete_answers(folded, missed[:1])
    assert whole[0].startswith(cut[0])
    assert len(cut[0]) < len(whole[0])


def test_above_a_number_of_questions_a_sample_is_asked(asked):
    whole, part = graded(asked), graded(asked, most=3)
    for every, some in ((whole.as_taught, part.as_taught), (whole.other_words, part.other_words)):
        assert len(some.grades) == len(every.grades)
        assert some.asked == 3
        pairs = zip(every.grades, some.grades, strict=True)
        assert all(grade in (None, always) for always, grade in pairs)
        assert some.facts_asked < every.facts_asked


def test_a_sample_is_the_same_whatever_other_questions_there_are():
    wordings = [f"Where is {i}?" for i in range(200)]
    chosen = {wordings[i] for i in sample(wordings, 64)}
    assert len(chosen) == 64
    assert {wordings[i] for i in sample(wordings, 16)} < chosen
    shuffled = wordings[100:] + wordings[:100]
    assert {shuffled[i] for i in sample(shuffled, 64)} == chosen
    kept = [wording for wording in wordings if wording != min(chosen)]
    assert chosen - {min(chosen)} < {kept[i] for i in sample(kept, 64)}
    assert sample(wordings[:5], 64) == set(range(5))


def test_of_many_sessions_each_is_asked_less():
    assert [sample_size(count) for count in (0, 1, 8, 9, 16, 64, 1000)] == [
        64, 64, 64, 56, 32, 8, 8,
    ]  # fmt: skip


def test_scores_are_what_a_record_gives_back(asked):
    found = graded(asked, most=3)
    again = SessionRecall.from_json(found.to_json())
    assert again.as_taught == replace(found.as_taught, wrong=())
    assert again.other_words == replace(found.other_words, wrong=())
    older = {k: v for k, v in found.to_json().items() if k not in ("as_taught", "other_words")}
    assert SessionRecall.from_json(older).as_taught is None
    record = found.as_taught.to_json()
    assert AnswerScore.from_json({**record, "rules": record["rules"] + 1}) is None
    with pytest.raises(ValueError, match="no grades"):
        AnswerScore.from_json({**record, "outcomes": ["good"]})


def test_nothing_asked_is_nothing_answered(asked):
    folded = asked[0]
    (none,) = prepare_questions([(1, "texts")], [[]], folded.tokenizer)
    recall = ask_questions(folded, none)
    (found,) = grade_answers(folded, [none], [recall], AnswerKey([]), most=64)
    assert (found.as_taught, found.other_words) == (None, None)
