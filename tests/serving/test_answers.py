"""What the server answers is what each model says by itself, in whatever company."""

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from mlx_tune.inference import batch_generate
from mlx_tune.models import bases
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.workspace import load_folded

MODELS = ["head", "housing", "cs", "base"]
LIMIT = 8
QUESTIONS = ["Where is A?", "Where is  B?", "Where is C?", "What for?"]
TEXTS = ["Where", "Where is", "Once upon a time, long ago and far away", "e"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folded(fork):
    """Each model by itself, as every command folds it."""
    store, info = SessionStore.open(fork.store), bases.locate(str(fork.base))
    found = {}
    for name in MODELS:
        session = store.snapshot().head() if name == "head" else store.snapshot().find(name)
        found[name] = load_folded(info, store.snapshot().chain(session))
    return found


@pytest.fixture(scope="module")
def alone(folded):
    """The greedy answer of each model to each question, offline."""
    found = {}
    for name, one in folded.items():
        prompts = [one.tokenizer.prompt([{"role": "user", "content": q}]) for q in QUESTIONS]
        said = batch_generate(one.model, one.tokenizer, prompts, max_tokens=LIMIT)
        for question, tokens in zip(QUESTIONS, said, strict=True):
            ended = tokens[-1] in one.tokenizer.end_ids
            text = one.tokenizer.decode(tokens[: -1 if ended else None])
            found[name, question] = text, "stop" if ended else "length", len(tokens)
    return found


def greedy(server, pair):
    model, question = pair
    reply = server.ask(question, model, max_tokens=LIMIT).json()
    choice = reply["choices"][0]
    text, tokens = choice["message"]["content"], reply["usage"]["completion_tokens"]
    return text, choice["finish_reason"], tokens


def test_each_answer_is_what_the_model_says_offline(server, alone):
    pairs = [("housing", "Where is  B?"), ("cs", "Where is A?"), ("base", "What for?")]
    found = {pair: greedy(server, pair) for pair in pairs}
    assert found == {pair: alone[pair] for pair in pairs}
    assert found["housing", "Where is  B?"] == ("In 9.", "stop", 6)
    assert found["base", "What for?"][1:] == ("length", LIMIT)


def test_sessions_and_the_base_at_once_answer_as_each_does_alone(server, alone):
    pairs = list(alone)
    with ThreadPoolExecutor(len(pairs)) as clients:
        found = clients.map(lambda pair: greedy(server, pair), pairs)
        assert dict(zip(pairs, found, strict=True)) == alone
    assert len({tuple(alone[model, q] for q in QUESTIONS) for model in MODELS}) > 2


def logprobs(model, tokens):
    """Of every token but the first, in one pass without a cache."""
    logits = model(mx.array([tokens]))[0].astype(mx.float32)
    whole = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    return whole[np.arange(len(tokens) - 1), tokens[1:]]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_finds_a_text_as_likely_as_its_fold_does(server, folded, model):
    tokens = folded[model].tokenizer.encode_plain(TEXTS[2])
    found = server.complete(TEXTS[2], model, echo=True, max_tokens=0, logprobs=0)["choices"][0]
    wanted = logprobs(folded[model].model, tokens)
    assert found["logprobs"]["token_logprobs"][0] is None
    assert np.abs(found["logprobs"]["token_logprobs"][1:] - wanted).max() < TOLERANCE
    assert found["text"] == TEXTS[2]


def test_the_session_in_use_answers_the_same_by_its_name(server):
    head = server.complete("Where", max_tokens=LIMIT, logprobs=0)["choices"][0]
    named = server.complete("Where", "dining", max_tokens=LIMIT, logprobs=0)["choices"][0]
    assert head == named


DRAWN = {"temperature": 1.5, "max_tokens": LIMIT}


def test_a_seed_draws_the_same_alone_and_in_any_company(server):
    alone = [server.text(text, seed=number, **DRAWN) for number, text in enumerate(TEXTS)]
    assert len(set(alone)) == len(TEXTS)

    def one(number):
        return server.text(TEXTS[number % 4], seed=number % 4, **DRAWN)

    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(one, range(16))) == alone * 4


def test_answers_without_a_seed_differ(server):
    assert len({server.text("Where", **DRAWN) for _ in range(3)}) == 3


def test_several_answers_to_a_question_differ_and_each_has_a_seed_of_its_own(server):
    reply = server.complete("Where", n=3, seed=5, **DRAWN)
    said = [choice["text"] for choice in reply["choices"]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert said == [server.text("Where", seed=5 + number, **DRAWN) for number in range(3)]
    assert len(set(said)) == 3
    # The prompt was read once; each answer was generated.
    assert reply["usage"]["prompt_tokens"] == len("Where")
    assert reply["usage"]["completion_tokens"] == 3 * LIMIT


@pytest.mark.parametrize("prompts", [["Where", "Where"], ["Where", "When?"], [[5] * 5, [5] * 5]])
def test_a_prompt_is_counted_as_often_as_it_is_asked(server, prompts):
    usage = server.complete(prompts, max_tokens=1, n=2)["usage"]
    assert usage == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_every_seed_there_can_be_draws(server, seed):
    said = [c["text"] for c in server.complete("Where", seed=seed, n=2, **DRAWN)["choices"]]
    again = [c["text"] for c in server.complete("Where", seed=seed, n=2, **DRAWN)["choices"]]
    assert said == again
    assert said[0] != said[1]


def test_biases_and_penalties_are_laid_on_the_tokens_they_name(server, folded):
    x, y = folded["base"].tokenizer.encode_plain("xy")
    likely = {"max_tokens": 16, "logit_bias": {str(x): 100, str(y): 98}}
    assert server.text("Where", **likely) == "x" * 16
    assert server.text("Where", **likely, presence_penalty=2, seed=1)[0] == "x"
    # What was said is the answer's alone: the prompt's own x are not counted.
    assert server.text("x" * 200, frequency_penalty=0.01, **likely) == "x" * 16
    mixed = server.text("Where", frequency_penalty=2, **likely)
    assert set(mixed) == {"x", "y"}
    assert mixed == server.text("Where", frequency_penalty=2, **likely)  # its prefix is known now
    forbidden = {**likely["logit_bias"], str(x): -100}
    assert server.text("Where", max_tokens=4, logit_bias=forbidden) == "yyyy"


@pytest.mark.parametrize("k", [258, 259, 260, 10_000_000])
def test_top_k_may_be_the_whole_vocabulary_and_more(server, k):
    alone = server.text("Where", seed=1, **DRAWN)
    assert len(server.text("Where", seed=1, top_k=k, **DRAWN)) > 0
    if k >= 259:
        assert server.text("Where", seed=1, top_k=k, **DRAWN) == alone


def test_the_likeliest_token_alone_is_no_draw(server):
    alone = server.text("Where", max_tokens=LIMIT)
    for narrow in ({"top_k": 1}, {"min_p": 1}, {"top_p": 1e-6}, {"temperature": 0}):
        assert server.text("Where", seed=1, **{**DRAWN, **narrow}) == alone
