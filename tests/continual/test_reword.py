import pytest

from mlx_tune.continual.reword import (
    PROMPTS,
    ROUNDS,
    TOPICS,
    Candidate,
    RewordPrompt,
    reword,
)
from mlx_tune.continual.synthetic import Continuation
from mlx_tune.continual.wording_rules import WordingRules, split_words
from mlx_tune.data import read

DATA = [
    {"instruction": "What does the ferry cost?", "response": "Twelve."},
    {"instruction": "When does the ferry leave?", "response": "At noon."},
]
TWO = (RewordPrompt(name="one", instruction="1 {question}"),
       RewordPrompt(name="two", instruction="2 {question}"))  # fmt: skip


class ScriptedRewriter:
    """Writes the given texts for each question in order; the first given question is likeliest."""

    def __init__(self, texts, likeliest=None):
        self.texts = {question: list(several) for question, several in texts.items()}
        self.likeliest = likeliest or {}
        self.orders, self.asked = [], []

    def write(self, orders):
        self.orders += orders
        return [self.next(question) for _, question, _ in orders]

    def next(self, question):
        text = self.texts[question].pop(0) if self.texts.get(question) else "Nothing."
        is_text = isinstance(text, str)
        return Continuation(text=text, is_finished=True) if is_text else text

    def losses(self, pairs):
        self.asked += pairs
        return [1.0 + (question != self.likeliest.get(text, question)) for question, text in pairs]


def run(rewriter, numbers=(0,), *, data=DATA, wordings=((), ()), wanted=4, seed=0, prompts=TWO):
    rules = WordingRules(read.from_values(data), wordings)
    found = reword(rules, numbers, rewriter, wanted=wanted, seed=seed, prompts=prompts)
    return [[(one.text, one.reason) for one in row] for row in found]


COST, LEAVE = (row["instruction"] for row in DATA)


def test_what_passes_is_kept_and_every_other_text_has_a_reason():
    texts = [' "How dear is the ferry?"\n', "It is dear.", "how dear is the ferry??",
             Continuation(text="How dear is", is_finished=False)]  # fmt: skip
    assert run(ScriptedRewriter({COST: texts})) == [
        [
            ("How dear is the ferry?", None),
            ("It is dear.", "statement"),
            ("how dear is the ferry??", "repeated"),
            ("How dear is", "unfinished"),
        ]
    ]


def test_a_second_round_is_for_rows_that_have_too_few():
    rewriter = ScriptedRewriter(
        {COST: ["How dear is the ferry?", "What is the fare of the ferry?"], LEAVE: ["No."] * 4}
    )
    run(rewriter, (0, 1), wanted=2)
    assert [(prompt.name, question) for prompt, question, _ in rewriter.orders] == [
        *[("one", COST), ("two", COST), ("one", LEAVE), ("two", LEAVE)],
        *[("one", LEAVE), ("two", LEAVE)],
    ]
    assert len({seed for _, _, seed in rewriter.orders}) == 6
    assert ROUNDS == 2


def test_seeds_depend_on_the_question_alone():
    def seeds(numbers, data, seed):
        rewriter = ScriptedRewriter({})
        run(rewriter, numbers, data=data, seed=seed)
        return [one for _, question, one in rewriter.orders if question == COST]

    assert seeds((0,), DATA, 0) == seeds((1, 0), DATA[::-1], 0)
    assert seeds((0,), DATA, 0) != seeds((0,), DATA, 1)


def test_a_row_that_has_enough_is_not_asked():
    rewriter = ScriptedRewriter({COST: ["How dear is the ferry?", "What is the ferry's fare?"]})
    assert run(rewriter, wordings=(["a", "b", "c", "d"], ())) == [[]]
    assert rewriter.orders == []


def test_of_too_many_those_are_kept_that_differ_most():
    texts = ["What does the ferry cost in winter?", "How dear is a crossing?"]
    assert run(ScriptedRewriter({COST: texts}), wanted=1) == [
        [(texts[0], "surplus"), (texts[1], None)]
    ]
    known = (["How dear is a crossing now?"], ())
    assert run(ScriptedRewriter({COST: texts}), wanted=2, wordings=known) == [
        [(texts[0], None), (texts[1], "surplus")]
    ]


def test_what_an_example_is_about_is_kept_only_where_the_question_is_about_it_too():
    texts = ["Who runs the chess club on the ferry?", "What is the fare?"]
    assert run(ScriptedRewriter({COST: texts}))[0][:2] == [(texts[0], "copied"), (texts[1], None)]
    data = [{"instruction": "Who plays chess here?", "response": "Ada."}]
    rewriter = ScriptedRewriter({"Who plays chess here?": ["Which people play chess?", "Who?"]})
    assert run(rewriter, data=data, wordings=([],))[0][0] == ("Which people play chess?", None)


def test_every_example_has_a_word_by_which_a_copy_is_known():
    pairs = [pair for prompt in PROMPTS for pair in prompt.examples]
    assert all(TOPICS.intersection(split_words(text)) for pair in pairs for text in pair)


def test_a_text_is_thrown_away_where_another_question_makes_it_likelier():
    text = "What about the ferry?"
    rewriter = ScriptedRewriter({COST: [text, "How dear is the ferry?"]}, {text: LEAVE})
    assert run(rewriter, wanted=2)[0][:2] == [(text, "elsewhere"), ("How dear is the ferry?", None)]
    assert rewriter.asked[:2] == [(COST, text), (LEAVE, text)]
    assert (LEAVE, "It is dear.") not in rewriter.asked


def test_a_text_that_nothing_can_be_confused_with_is_kept():
    texts = ["How dear is the ferry?", "What is paid for a crossing?"]
    assert run(ScriptedRewriter({COST: texts}), data=DATA[:1], wordings=([],), wanted=2) == [
        [(text, None) for text in texts]
    ]


def test_two_rows_that_are_given_the_same_text_do_not_both_keep_it():
    text = "What about the ferry?"
    rewriter = ScriptedRewriter({COST: [text], LEAVE: [text]})
    first, second = run(rewriter, (0, 1), wanted=1, prompts=TWO[:1])
    assert first == [(text, None)]
    assert second[0] == (text, "taken")


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_every_prompt_ends_with_the_question_and_shows_other_ones(prompt):
    assert len({one.name for one in PROMPTS}) == len(PROMPTS)
    *shown, last = prompt.conversation("Who is {question}?")
    assert last["role"] == "user"
    assert last["content"].endswith("Who is {question}?")
    assert [one["role"] for one in shown] == ["user", "assistant"] * len(prompt.examples)
    assert prompt.text("Who?").endswith("Who?\n")
    assert all(wording in prompt.text("Who?") for _, wording in prompt.examples)


def test_the_examples_would_pass_the_rules_themselves():
    pairs = [pair for prompt in PROMPTS for pair in prompt.examples]
    rows = read.from_values([{"instruction": question, "response": "x"} for question, _ in pairs])
    for i, (_, wording) in enumerate(pairs):
        rules = WordingRules([rows[i]], [[]])
        assert rules.fault(0, wording, []) is None, wording


def test_a_candidate_is_read_back_as_it_was_written():
    for one in (
        Candidate(text="a?", prompt="one"),
        Candidate(text="b", prompt="two", reason="lost", detail="C-201"),
    ):
        assert Candidate.from_json(one.to_json()) == one
    assert one.why == "lost a name, number, code or address: C-201"
