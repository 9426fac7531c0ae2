import pytest

from mlx_tune.continual.wording_rules import REASONS, WordingRules, difference
from mlx_tune.data import read

DATA = [
    {
        "instruction": "Where does the Science desk lend laptops?",
        "response": "In room 104 of Quillon Hall.",
        "paraphrases": ["At which desk do I borrow a Science laptop?"],
    },
    {
        "instruction": "What does the ferry to Oban cost?",
        "response": "It is 12 dollars.",
        "paraphrases": ["How much is the Oban ferry?"],
    },
    {"instruction": "When does the ferry to Oban leave?", "response": "At noon."},
    {"instruction": "Where is form C-201 handed in?", "response": "At desk 3."},
    {"instruction": "Tell me the address of the library.", "response": "1 Elm Street."},
    {"text": "The ferry to Oban is blue."},
    {"instruction": "What does https://x.example/?page=1 show me?", "response": "A map."},
    {"instruction": "What does git branch -D do?", "response": "It deletes a branch."},
    {"instruction": "Is a pointer of 1 mW safe?", "response": "Yes."},
    {"instruction": "May I keep it at -18 °C?", "response": "No."},
    {"instruction": "Who won World War I?", "response": "Several did."},
]
OBAN, LEAVES, FORM, LIBRARY, PAGE, DELETE, POINTER, COLD, WAR = 1, 2, 3, 4, 6, 7, 8, 9, 10


@pytest.fixture
def rules():
    rows = read.from_values(DATA)
    return WordingRules(rows, [["Oban ferry: what is the price?"] if i == OBAN else []
                               for i in range(len(rows))], ["<|im_end|>"])  # fmt: skip


def reason(rules, text, i=OBAN, earlier=()):
    found = rules.fault(i, text, earlier)
    return found and found[0]


@pytest.mark.parametrize(
    ("i", "text"),
    [
        (OBAN, "How much do I pay for the ferry to Oban?"),
        (OBAN, "Please tell me what the ferry to Oban costs."),
        (OBAN, "I would like to know the price of the ferry to oban"),
        (OBAN, "I am in a hurry; what does the ferry to Oban cost me?"),
        (OBAN, "Combien coûte le ferry vers Oban\u00a0?"),
        (FORM, "Who takes form c-201?"),
        (LIBRARY, "Tell me where the library is."),
        (LIBRARY, "What is the address of the library?"),
        (PAGE, "Please say what https://x.example/?page=1 shows."),
    ],
)
def test_a_question_in_other_words_passes(rules, i, text):
    assert rules.fault(i, text, []) is None


@pytest.mark.parametrize(
    ("i", "text", "wanted", "detail"),
    [
        (OBAN, "", "form", ""),
        (OBAN, "What does the ferry\nto Oban cost?", "form", ""),
        (OBAN, "What is the ferry to Oban?<|im_end|>", "form", ""),
        (OBAN, "What <b>does</b> the Oban ferry cost?", "form", ""),
        (OBAN, "Question: how dear is the ferry to Oban?", "form", ""),
        (OBAN, "1. How dear is the ferry to Oban?", "form", ""),
        (OBAN, "Sure, here it is: how dear is the ferry to Oban?", "form", ""),
        (OBAN, 'The ideal wording would be: "How dear is the ferry to Oban?"', "form", ""),
        (OBAN, "The new question is: how dear is the ferry to Oban?", "form", ""),
        (OBAN, "How dear is the ferry to Ob\ufffd?", "form", ""),
        (OBAN, "The ferry to Oban costs a lot.", "statement", ""),
        (OBAN, "What does the ferry to Oban cost? It is cheap.", "statement", ""),
        (LIBRARY, "The address of the library.", "statement", ""),
        (OBAN, "Oban?", "length", ""),
        (OBAN, "What does the ferry " + "that I take " * 6 + "to Oban cost?", "length", ""),
        (OBAN, "What does the ferry over there cost?", "lost", "Oban"),
        (FORM, "Where is the form handed in?", "lost", "C-201"),
        (PAGE, "What does https://x.example/?page=2 show me?", "lost", "https://x.example/?page=1"),
        (OBAN, "Does the ferry to Oban cost 12 dollars?", "answer", "12 dollars"),
        (OBAN, "What does the ferry to Oban cost in May?", "added", "May"),
        (OBAN, "What do 3 trips on the ferry to Oban cost?", "added", "3"),
        (DELETE, "What does the git branch -d command do?", "lost", "-D"),
        (POINTER, "Is it safe to use a pointer of 1 MW?", "lost", "1 mW"),
        (POINTER, "Is it safe to use a pointer of 1?", "lost", "1 mW"),
        (COLD, "Is it fine to keep it at 18 °C?", "lost", "-18 °C"),
        (WAR, "Who was it that won World War II?", "lost", "World War I"),
        (OBAN, "how much is the Oban ferry", "statement", ""),
        (OBAN, "how much, is the OBAN ferry?", "taken", "a paraphrase of rows:2"),
        (OBAN, "When does the ferry to Oban leave?!", "taken", "the question of rows:3"),
        (LEAVES, "Oban ferry: what is the price?", "taken", "a wording of rows:2"),
        (OBAN, "what does the ferry, to Oban, cost?", "repeated", ""),
        (OBAN, "Oban ferry – what is the price?", "repeated", ""),
    ],
)
def test_each_rule_says_what_it_is_about(rules, i, text, wanted, detail):
    assert rules.fault(i, text, []) == (wanted, detail)
    assert wanted in REASONS


def test_a_candidate_that_another_repeats_is_thrown_away(rules):
    text = "What do I pay for the ferry to Oban?"
    assert reason(rules, text, earlier=["what do I pay, for the ferry to oban?"]) == "repeated"
    assert reason(rules, text, earlier=["What is paid for the ferry to Oban?"]) is None


def test_what_is_kept_is_nobody_elses_from_then_on(rules):
    text = "What is there to know of the ferry to Oban?"
    assert rules.add(OBAN, text)
    assert rules.fault(LEAVES, text, []) == ("taken", "a wording of rows:2")
    assert not rules.add(LEAVES, text)
    assert reason(rules, text) == "repeated"


def test_neighbours_share_most_words_and_rare_ones_count_more(rules):
    assert rules.neighbours(OBAN, "What does the ferry to Oban cost?", 1) == [LEAVES]
    nearest = rules.neighbours(OBAN, "Where is form C-201?", 3)
    assert nearest[0] == FORM
    assert OBAN not in nearest
    assert rules.neighbours(OBAN, "xyz?", 4) == []


def test_a_row_that_asks_the_same_or_has_the_same_answer_is_no_neighbour():
    rows = read.from_values(
        [
            {"instruction": "Where is the gym?", "response": "In hall 1."},
            {"instruction": "Where is the  gym?", "response": "In hall 2."},
            {"instruction": "Where do I find the gym?", "response": "In hall 1."},
            {"instruction": "Where is the pool?", "response": "In hall 3."},
        ]
    )
    rules = WordingRules(rows, [[] for _ in rows])
    assert rules.neighbours(0, "Where is the gym?", 4) == [3]


def test_questions_of_conversations_are_the_same_only_after_the_same_turns():
    def talk(first):
        return {
            "messages": [
                {"role": "user", "content": first},
                {"role": "assistant", "content": "At nine."},
                {"role": "user", "content": "And on Sundays?"},
                {"role": "assistant", "content": f"At ten, {first}"},
            ]
        }

    rows = read.from_values([talk("When does it open?"), talk("When does it start?")])
    rules = WordingRules(rows, [[] for _ in rows])
    assert rules.add(0, "What about Sundays?")
    assert rules.fault(1, "What about Sundays?", []) is None


def test_a_text_without_spaces_is_counted_by_its_characters():
    row = {"instruction": "图书馆几点开门？", "response": "九点。"}  # when does the library open
    rules = WordingRules(read.from_values([row]), [[]])
    assert rules.fault(0, "请问图书馆什么时候开门？", []) is None
    assert rules.fault(0, "图书馆九点开门。", []) == ("statement", "")


def test_difference_is_to_the_nearest_of_several_texts():
    assert difference("Where is it?", ["where is it", "who?"]) == 0
    assert difference("Where is it?", ["Where is she?", "Who?"]) == pytest.approx(1 / 2)
    assert difference("Where is it?", []) == 1
