import pytest

from helpers import tiny
from mlx_tune.continual.synthetic import Continuation, synthesise, user_turn
from mlx_tune.data import tokenise
from mlx_tune.errors import InputError

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
SYSTEM = "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + tiny.CHATML
TRIMMED = tiny.CHATML.replace("message['content']", "(message['content'] | upper)")
TWICE = tiny.CHATML.replace("message['content']", "message['content'] + message['content']")


class ScriptedModel:
    """Generates the given questions in order; answers with the question reversed."""

    def __init__(self, *questions: str | Continuation, answer=None):
        self.left = [
            Continuation(text=q, is_finished=True) if isinstance(q, str) else q for q in questions
        ]
        self.answer = answer or (
            lambda question: Continuation(text=question[::-1], is_finished=True)
        )
        self.calls = []
        self.tokenizer = tiny.tokenizer()

    def __call__(self, prompts, temperature, seed):
        self.calls.append((len(prompts), temperature, seed))
        if temperature == 0:
            return [self.answer(self.question(prompt)) for prompt in prompts]
        said, self.left = self.left[: len(prompts)], self.left[len(prompts) :]
        return said + [Continuation(text="", is_finished=True)] * (len(prompts) - len(said))

    def question(self, prompt) -> str:
        return self.tokenizer.decode_raw(prompt).split("user\n")[1].split("<|im_end|>")[0]


def written(model, count, **changes):
    options = {"seed": 5, "longest": 200} | changes
    return synthesise(model.tokenizer, model, count, **options)


def questions(rows) -> list[str]:
    return [row.question for row in rows]


def test_the_model_writes_questions_and_answers_them():
    rows = written(ScriptedModel("Where is A?", "Who is B?"), 2)
    assert [(row.question, row.answer) for row in rows] == [
        ("Where is A?", "?A si erehW"),
        ("Who is B?", "?B si ohW"),
    ]
    assert [row.place for row in rows] == ["synthetic row 1", "synthetic row 2"]


def test_questions_are_drawn_with_a_seed_and_answers_are_the_likeliest():
    model = ScriptedModel("Where is A?", "", "Who is B?")
    written(model, 2)
    assert model.calls == [(2, 1.0, 5), (1, 0.0, 0), (1, 1.0, 6), (1, 0.0, 0)]


def test_nothing_is_asked_of_a_model_that_is_to_write_nothing():
    model = ScriptedModel("Where is A?")
    assert written(model, 0) == []
    assert model.calls == []


@pytest.mark.parametrize(
    "refused",
    [
        "",
        " \n ",
        Continuation(text="It never comes to an end and", is_finished=False),
        " Who  is B\n",
        "Say <|im_start|>system",
        "Why " + "so " * 60 + "long?",
    ],
)
def test_what_cannot_be_taught_is_left_out(refused):
    assert questions(written(ScriptedModel("Who is B", refused, "Where is A?"), 3)) == [
        "Who is B",
        "Where is A?",
    ]


@pytest.mark.parametrize(
    "said",
    [
        Continuation(text="", is_finished=True),
        Continuation(text="\n", is_finished=True),
        Continuation(text="on and on", is_finished=False),
        Continuation(text="a<|im_end|>b", is_finished=True),
        Continuation(text="x" * 200, is_finished=True),
    ],
)
def test_a_question_without_a_good_answer_is_left_out(said):
    good = Continuation(text="Here.", is_finished=True)
    model = ScriptedModel("Bad?", "Good?", answer=lambda q: said if q == "Bad?" else good)
    assert questions(written(model, 2)) == ["Good?"]


def test_a_row_of_just_the_longest_length_is_kept():
    row = written(ScriptedModel("Where is A?"), 1)[0]
    length = len(tokenise.encode([row], tiny.tokenizer())[0].tokens)
    assert written(ScriptedModel("Where is A?"), 1, longest=length)
    assert not written(ScriptedModel("Where is A?"), 1, longest=length - 1)


def test_a_model_that_repeats_itself_is_given_up():
    model = ScriptedModel(*["Where is A?"] * 99)
    assert questions(written(model, 5)) == ["Where is A?"]
    assert [count for count, temperature, _ in model.calls if temperature] == [5, 4, 4, 4]
    assert [count for count, temperature, _ in model.calls if not temperature] == [1]


def test_the_rows_can_be_trained_on():
    rows = written(ScriptedModel("Where is A?", " Who?\n"), 2)
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
    said = Continuation(text=" Where is A? [/INST] In 1, and then", is_finished=False)
    answers = iter([[said], [Continuation(text=" In 1.", is_finished=True)]])
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
