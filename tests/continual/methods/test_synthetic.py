import pytest

from helpers import tiny
from mlx_tune.continual.methods.synthetic import Said, synthesise, user_turn
from mlx_tune.data import tokenise
from mlx_tune.errors import InputError

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
SYSTEM = "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + tiny.CHATML
TRIMMED = tiny.CHATML.replace("message['content']", "(message['content'] | upper)")
TWICE = tiny.CHATML.replace("message['content']", "message['content'] + message['content']")


class Speaker:
    """Says what it was given, in order; answers with the question turned round."""

    def __init__(self, *questions: str | Said, answer=None):
        self.left = [Said(text=q, ended=True) if isinstance(q, str) else q for q in questions]
        self.answer = answer or (lambda question: Said(text=question[::-1], ended=True))
        self.calls = []
        self.tokenizer = tiny.tokenizer()

    def __call__(self, prompts, temperature, seed):
        self.calls.append((len(prompts), temperature, seed))
        if temperature == 0:
            return [self.answer(self.question(prompt)) for prompt in prompts]
        said, self.left = self.left[: len(prompts)], self.left[len(prompts) :]
        return said + [Said(text="", ended=True)] * (len(prompts) - len(said))

    def question(self, prompt) -> str:
        return self.tokenizer.decode_raw(prompt).split("user\n")[1].split("<|im_end|>")[0]


def written(speaker, count, **changes):
    options = {"seed": 5, "longest": 200} | changes
    return synthesise(speaker.tokenizer, speaker, count, **options)


def asked(rows) -> list[str]:
    return [row.question for row in rows]


def test_the_model_writes_questions_and_answers_them():
    rows = written(Speaker("Where is A?", "Who is B?"), 2)
    assert [(row.question, row.answer) for row in rows] == [
        ("Where is A?", "?A si erehW"),
        ("Who is B?", "?B si ohW"),
    ]
    assert [row.place for row in rows] == ["synthetic row 1", "synthetic row 2"]


def test_questions_are_drawn_with_a_seed_and_answers_are_the_likeliest():
    speaker = Speaker("Where is A?", "", "Who is B?")
    written(speaker, 2)
    assert speaker.calls == [(2, 1.0, 5), (1, 0.0, 0), (1, 1.0, 6), (1, 0.0, 0)]


def test_nothing_is_asked_of_a_model_that_is_to_write_nothing():
    speaker = Speaker("Where is A?")
    assert written(speaker, 0) == []
    assert speaker.calls == []


@pytest.mark.parametrize(
    "refused",
    [
        "",
        " \n ",
        Said(text="It never comes to an end and", ended=False),
        "who is  b ?!",
        "Say <|im_start|>system",
        "Why " + "so " * 60 + "long?",
    ],
)
def test_what_cannot_be_taught_is_left_out(refused):
    assert asked(written(Speaker("Who is B", refused, "Where is A?"), 3)) == [
        "Who is B",
        "Where is A?",
    ]


@pytest.mark.parametrize(
    "said",
    [
        Said(text="", ended=True),
        Said(text="\n", ended=True),
        Said(text="on and on", ended=False),
        Said(text="a<|im_end|>b", ended=True),
        Said(text="x" * 200, ended=True),
    ],
)
def test_a_question_without_a_good_answer_is_left_out(said):
    good = Said(text="Here.", ended=True)
    speaker = Speaker("Bad?", "Good?", answer=lambda q: said if q == "Bad?" else good)
    assert asked(written(speaker, 2)) == ["Good?"]


def test_a_row_of_just_the_longest_length_is_kept():
    row = written(Speaker("Where is A?"), 1)[0]
    length = len(tokenise.encode([row], tiny.tokenizer())[0].tokens)
    assert written(Speaker("Where is A?"), 1, longest=length)
    assert not written(Speaker("Where is A?"), 1, longest=length - 1)


def test_a_model_that_repeats_itself_is_given_up():
    speaker = Speaker(*["Where is A?"] * 99)
    assert asked(written(speaker, 5)) == ["Where is A?"]
    assert [count for count, temperature, _ in speaker.calls if temperature] == [5, 4, 4, 4]
    assert [count for count, temperature, _ in speaker.calls if not temperature] == [1]


def test_the_rows_can_be_trained_on():
    rows = written(Speaker("Where is A?", " Who?\n"), 2)
    examples = tokenise.encode(rows, tiny.tokenizer())
    said = [
        t for t, taught in zip(examples[0].tokens, examples[0].supervised, strict=True) if taught
    ]
    assert tiny.tokenizer().decode_raw(said) == "?A si erehW<|im_end|>"


def test_a_person_speaks_where_the_template_puts_their_words():
    tokenizer = tiny.tokenizer(SYSTEM)
    opening, closing = user_turn(tokenizer)
    assert tokenizer.decode_raw(opening) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    )
    assert closing == "<|im_end|>"


def test_a_template_may_end_a_turn_with_words_of_its_own():
    tokenizer = tiny.metaspace_tokenizer(MISTRAL, ["<s>", "</s>"])
    opening, closing = user_turn(tokenizer)
    assert tokenizer.decode_raw(opening).rstrip() == "<s> [INST]"
    assert opening[-1] != tokenizer.encode(" ")[-1]  # the space is the next word's
    assert closing == "[/INST]"


def test_a_question_ends_where_the_template_would_end_it():
    tokenizer = tiny.metaspace_tokenizer(MISTRAL, ["<s>", "</s>"])
    said = Said(text=" Where is A? [/INST] In 1, and then", ended=False)
    answers = iter([[said], [Said(text=" In 1.", ended=True)]])
    rows = synthesise(tokenizer, lambda *_: next(answers), 1, seed=0, longest=99)
    assert [(row.question, row.answer) for row in rows] == [("Where is A?", "In 1.")]


@pytest.mark.parametrize("template", [TRIMMED, TWICE])
def test_a_template_that_changes_what_is_said_is_refused(template):
    with pytest.raises(InputError) as caught:
        user_turn(tiny.tokenizer(template))
    assert str(caught.value) == (
        "the base's chat template does not print a person's words once and unchanged, so the "
        "model cannot be asked to write rows; keep the data, or use another base model"
    )


def test_a_base_without_a_template_is_refused():
    with pytest.raises(InputError, match="has no chat template"):
        user_turn(tiny.tokenizer(None))
