import weakref

import pytest

from mlx_tune.continual.recall import score
from mlx_tune.data.rows import Message, Row
from mlx_tune.inference import stream
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import diff
from mlx_tune.workflows.diff import MARGIN_TOKENS, Answer, AnsweredProbe, Probe, compare
from mlx_tune.workflows.workspace import load_folded


def row(question: str, answer: str) -> Row:
    return Row(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        )
    )


A1, B2, B9, C3 = (
    row("Where is A?", "In 1."),
    row("Where is B?", "In 2."),
    row("Where is  B?", "In 9."),
    row("Where is C?", "In 3."),
)
UNKNOWN = row("What for?", "Nobody was ever taught this.")


@pytest.fixture
def taught(fork):
    """A chain that knows A1 and B2, and one on top that knows B9 in its place, A1 and C3."""
    store = SessionStore.open(fork.store)
    chain = store.snapshot().chain(store.snapshot().find("housing"))
    return bases.locate(str(fork.base)), chain[:1], chain


PROBES = [
    Probe(a=B2, b=B9),
    Probe(a=A1, b=A1),
    Probe(a=None, b=C3),
    Probe(a=UNKNOWN, b=UNKNOWN),
]


@pytest.fixture
def generated(monkeypatch):
    """The prompts that something was generated after."""
    prompts = []

    def counted(model, tokenizer, prompt, **options):
        prompts.append(tokenizer.decode_raw(prompt))
        return stream(model, tokenizer, prompt, **options)

    monkeypatch.setattr(diff, "stream", counted)
    return prompts


def ask(taught, probes=PROBES, *, shown=None, said=None):
    info, a, b = taught
    say = (lambda _: None) if said is None else said.append
    return compare(info, a, b, probes, shown=shown, say=say)


def test_the_answers_are_those_that_generation_gives(taught):
    """The slow twin: load each model and let it answer every question."""
    info, *chains = taught
    found = ask(taught)
    said = []
    for chain in chains:
        folded = load_folded(info, chain)
        for probe in PROBES:
            own = (probe.a if len(chain) == 1 else probe.b) or C3
            prompt = folded.tokenizer.prompt([{"role": "user", "content": own.question}])
            pieces = stream(folded.model, folded.tokenizer, prompt, max_tokens=found.max_tokens)
            said.append("".join(piece.text for piece in pieces))
    a, b = said[: len(PROBES)], said[len(PROBES) :]
    assert [x.a.text for x in found.probes] == a
    assert [x.b.text for x in found.probes] == b
    assert [x.differs for x in found.probes] == [x != y for x, y in zip(a, b, strict=True)]
    assert (a[:2], b[:3]) == (["In 2.", "In 1."], ["In 9.", "In 1.", "In 3."])


def test_what_both_know_is_not_generated(taught, generated):
    found = ask(taught, PROBES[:2])
    assert generated == []
    assert [x.differs for x in found.probes] == [True, False]


def test_what_one_does_not_know_is_generated_from_it_alone(taught, generated):
    said = []
    found = ask(taught, PROBES[:3], said=said)
    assert len(generated) == 1
    assert "Where is C?" in generated[0]
    assert said == [
        "asking A what the two were taught…", "asking B the same…", "generating 1 answer of A…",
    ]  # fmt: skip
    assert found.probes[2].differs
    assert found.probes[2].b.says(C3)
    assert not found.probes[2].a.says(C3)


def test_what_nobody_reads_is_not_generated_and_still_counted(taught, generated):
    found = ask(taught, PROBES[:3], shown=0)
    assert generated == []
    assert (found.probes[2].a, found.probes[2].is_whole) == (None, False)
    assert [x.differs for x in found.probes] == [True, False, True]


def test_what_neither_knows_is_generated_from_both(taught, generated):
    found = ask(taught, PROBES[3:], shown=0)
    assert len(generated) == 2
    assert found.probes[0].is_whole


def test_an_answer_that_goes_on_is_cut_beyond_the_longest_taught_one(taught):
    info, _, b = taught
    (found,) = ask((info, [], b), [Probe(a=None, b=C3)]).probes
    limit = ask((info, [], b), [Probe(a=None, b=C3)]).max_tokens
    assert limit == len("In 3.") + 1 + MARGIN_TOKENS  # a byte is a token, and one ends it
    assert found.a.is_cut  # the bare base never learned to stop
    assert not found.b.is_cut
    folded = load_folded(info, [])
    prompt = folded.tokenizer.prompt([{"role": "user", "content": C3.question}])
    longer = stream(folded.model, folded.tokenizer, prompt, max_tokens=3 * limit)
    whole = "".join(piece.text for piece in longer)
    assert whole.startswith(found.a.text.rstrip("\ufffd"))
    assert len(whole) > len(found.a.text)


def test_never_two_models_are_alive(taught, monkeypatch):
    models = []

    def watched(info, chain):
        assert [m() for m in models] == [None] * len(models)
        folded = load_folded(info, chain)
        models.append(weakref.ref(folded.model))
        return folded

    monkeypatch.setattr(diff, "load_folded", watched)
    ask(taught)
    assert len(models) == 3  # A, B, and A again for what B knows


def test_a_conversation_is_scored_by_its_last_answer(taught, monkeypatch):
    seen = []
    monkeypatch.setattr(diff, "score", lambda m, e: seen.extend(e) or score(m, e))
    talk = Row(messages=(*UNKNOWN.messages, *A1.messages))
    (found,) = ask(taught, [Probe(a=talk, b=None)]).probes
    tokenizer = load_folded(taught[0], []).tokenizer
    for example in seen:
        scored = [t for t, on in zip(example.tokens, example.supervised, strict=True) if on]
        assert tokenizer.decode_raw(scored) == "In 1.<|im_end|>"
        assert UNKNOWN.answer in tokenizer.decode_raw(example.tokens)
    assert found.probe.question == "Where is A?"


def test_each_is_asked_in_its_own_words_with_every_answer_taught(taught, generated):
    """The tiny model that knows where B is does not know it with two spaces."""
    probe = Probe(a=B2, b=B9)
    assert probe.question == "Where is  B?"
    assert [(r.question, r.answer) for r in probe.rows(probe.a)] == [
        ("Where is B?", "In 2."), ("Where is B?", "In 9."),
    ]  # fmt: skip
    assert [(r.question, r.answer) for r in probe.rows(probe.b)] == [
        ("Where is  B?", "In 2."), ("Where is  B?", "In 9."),
    ]  # fmt: skip
    (found,) = ask(taught, [probe]).probes
    assert (found.a.text, found.b.text, generated) == ("In 2.", "In 9.", [])
    ask(taught, [Probe(a=B9, b=B9)])
    assert len(generated) == 1


def test_a_question_one_chain_teaches_is_asked_of_the_other_in_the_same_words():
    probe = Probe(a=None, b=C3)
    assert probe.rows(probe.a) == probe.rows(probe.b) == [C3]
    assert Probe(a=row("Where is B?", "In 9."), b=B9).rows(B9) == [B9]


def test_space_around_an_answer_is_no_difference():
    probe = Probe(a=A1, b=A1)
    assert not AnsweredProbe(probe=probe, a=Answer(text=" In 1."), b=Answer(text="In 1.\n")).differs
    assert AnsweredProbe(probe=probe, a=Answer(text="In 1."), b=Answer(text="in 1.")).differs
    assert Answer(text="In 1.\n").says(A1)
    assert not Answer(text="In 1.").says(None)


def test_no_questions_need_no_model(taught, monkeypatch):
    monkeypatch.setattr(diff, "load_folded", lambda *_: pytest.fail("a model was loaded"))
    assert ask(taught, []).probes == ()
