"""Answers side by side, with prompts that begin alike: a known prefix is not read again."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from helpers import tiny
from mlx_tune.inference import Batcher, PrefixCache, Sampling, batch_generate
from mlx_tune.training.packed import can_pack

LIMIT = 6
ENDLESS = replace(tiny.tokenizer(), end_ids=frozenset())
BYTES_A_TOKEN = 2 * 2 * 8 * 4 * 2  # keys and values, heads, their size, float32, layers


def prompts(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, 250, length).tolist() for length in lengths]


def say(batcher, *several, sampling=None):
    """The answers to prompts that are given at once, by number."""
    chosen = sampling or [Sampling()] * len(several)
    numbers = [
        batcher.add(
            prompt,
            max_tokens=LIMIT,
            sampler=drawn.sampler(),
            processors=drawn.processors(len(prompt)),
        )
        for prompt, drawn in zip(several, chosen, strict=True)
    ]
    answers = {number: [] for number in numbers}
    while len(batcher):
        for token in batcher.step():
            answers[token.uid].append(token.token)
    return [answers[number] for number in numbers]


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def greedy(model, *several):
    return batch_generate(model, ENDLESS, several, max_tokens=LIMIT)


def test_answers_side_by_side_are_those_of_each_alone(model):
    several = prompts(1, 40, 7, 600, 3)
    wanted = [greedy(model, prompt)[0] for prompt in several]
    assert say(Batcher(model, ENDLESS), *several) == wanted
    assert [say(Batcher(model, ENDLESS), prompt)[0] for prompt in several] == wanted


def test_one_that_joins_later_and_one_that_is_taken_out_change_no_other(model):
    first, second, third = prompts(9, 30, 4)
    batcher = Batcher(model, ENDLESS)
    options = {"max_tokens": LIMIT, "sampler": Sampling().sampler()}
    numbers = [batcher.add(first, **options), batcher.add(second, **options)]
    answers = {number: [] for number in numbers}

    def step():
        for token in batcher.step():
            answers[token.uid].append(token.token)

    step()
    step()
    numbers.append(batcher.add(third, **options))
    answers[numbers[2]] = []
    batcher.remove([numbers[1]])
    while len(batcher):
        step()
    wanted = greedy(model, first, second, third)
    assert [answers[numbers[0]], answers[numbers[2]]] == [wanted[0], wanted[2]]
    assert answers[numbers[1]] == wanted[1][: len(answers[numbers[1]])]
    assert len(answers[numbers[1]]) < LIMIT


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2"])
def test_a_known_prefix_changes_no_answer(model_type):
    model = tiny.model(model_type=model_type)
    (first,) = prompts(40)
    several = {
        "the very same": first,
        "one that goes on": [*first, *prompts(9, seed=1)[0]],
        "its beginning": first[:17],
        "one that parts from it": [*first[:20], *prompts(25, seed=2)[0]],
        "its first token": first[:1],
        "another": prompts(12, seed=3)[0],
    }
    batcher = Batcher(model, ENDLESS, prefix_bytes=1 << 20)
    assert say(batcher, first) == greedy(model, first)
    for what, prompt in several.items():
        assert say(batcher, prompt) == greedy(model, prompt), what
    at_once = list(several.values())
    assert say(batcher, *at_once) == [greedy(model, prompt)[0] for prompt in at_once]
    saved = batcher.prefixes.tokens_saved
    assert saved >= 39 + 40 + 16 + 20 if can_pack(model) else saved == 0


def test_a_conversation_reads_only_what_is_new(model):
    batcher = Batcher(model, ENDLESS, prefix_bytes=1 << 20)
    (turn,) = prompts(30)
    (answer,) = say(batcher, turn)
    say(batcher, [*turn, *answer, *prompts(5, seed=1)[0]])
    assert batcher.prefixes.tokens_saved == 30 + LIMIT


def test_a_known_prefix_changes_no_draw_and_no_penalty(model):
    (prompt,) = prompts(40)
    drawn = [
        Sampling(temperature=1.5, seed=3),
        Sampling(temperature=1.5, seed=3, frequency_penalty=2, presence_penalty=2),
        Sampling(temperature=1.0, seed=4, top_k=20, top_p=0.9, min_p=0.01, logit_bias={70: 4}),
    ]
    alone = [say(Batcher(model, ENDLESS), prompt, sampling=[one])[0] for one in drawn]
    batcher = Batcher(model, ENDLESS, prefix_bytes=1 << 20)
    for _ in range(2):
        assert say(batcher, prompt, prompt, prompt, sampling=drawn) == alone
    assert batcher.prefixes.tokens_saved >= 3 * 39


def test_what_is_kept_stays_below_its_bytes_and_the_longest_unused_goes_first(model):
    room = 3 * (20 + LIMIT) * BYTES_A_TOKEN
    batcher = Batcher(model, ENDLESS, prefix_bytes=room)
    several = prompts(20, 20, 20, 20)
    for prompt in several[:3]:
        say(batcher, prompt)
    assert batcher.prefixes.nbytes == room
    assert batcher.prefixes.fetch([*several[0], 5])[1] == 20  # so the second is the oldest now
    say(batcher, several[3])
    assert batcher.prefixes.nbytes <= room
    lengths = [batcher.prefixes.fetch([*prompt, 5])[1] for prompt in several]
    assert lengths == [20, 0, 20, 20]
    batcher.close()
    assert batcher.prefixes.nbytes == 0
    assert batcher.prefixes.fetch([*several[0], 5]) == (None, 0)


def test_what_is_kept_is_all_that_its_arrays_hold(model):
    """A view of a batch would hold the keys of all its answers."""
    batcher = Batcher(model, ENDLESS, prefix_bytes=1 << 30)
    mx.clear_cache()
    before = mx.get_active_memory()
    say(batcher, *prompts(*[500] * 8))
    mx.clear_cache()
    held = mx.get_active_memory() - before
    assert batcher.prefixes.nbytes == 8 * (500 + LIMIT) * BYTES_A_TOKEN
    assert held < 1.2 * batcher.prefixes.nbytes


def test_what_is_larger_than_the_room_is_not_kept(model):
    batcher = Batcher(model, ENDLESS, prefix_bytes=100 * BYTES_A_TOKEN)
    say(batcher, *prompts(20, 200))
    assert batcher.prefixes.nbytes == (20 + LIMIT) * BYTES_A_TOKEN
    assert Batcher(model, ENDLESS).prefixes.nbytes == 0


def test_nothing_is_known_of_an_empty_cache():
    assert PrefixCache(100).fetch([5, 6]) == (None, 0)
