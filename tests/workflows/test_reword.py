import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from helpers import tiny
from mlx_tune.continual.reword import EXAMPLES, PROMPTS
from mlx_tune.continual.synthetic import Continuation
from mlx_tune.data import read
from mlx_tune.errors import IncompatibleError, InputError, UsageError
from mlx_tune.models import bases
from mlx_tune.workflows import reword as workflow
from mlx_tune.workflows.reword import reword_file
from mlx_tune.workflows.rewriter import ModelRewriter
from mlx_tune.workflows.workspace import FoldedModel, load_folded

WORDS = ("What about", "Who tells me of", "Where do I ask about", "What is known of")
ROWS = [
    {"response": "Four.", "instruction": "How many doors has hall 7?", "paraphrases": ["Hall 7?"]},
    {"text": "Halls have doors."},
    {"prompt": "Who built hall 8?", "completion": "Ada.", "wordings": ["Hall 8 was built by who?"]},
    {"instruction": "Is hall 9 open?", "response": "Yes.", "wordings": ["a?", "b?", "c?", "d?"]},
    *({"instruction": f"Is tower {i} open?", "response": f"Yes {i}."} for i in range(20, 26)),
]


class FakeRewriter:
    """Writes for each question one wording that passes and texts that do not; may be cut off."""

    calls = 0
    stops_after: int | None = None

    def __init__(self, folded):
        self.folded = folded

    def write(self, orders):
        if type(self).calls == self.stops_after:
            raise KeyboardInterrupt
        type(self).calls += 1
        return [self.one(*order) for order in orders]

    def one(self, prompt, question, seed):
        thing, number = re.search(r"(hall|tower) (\d+)", question).groups()
        at = [one.name for one in PROMPTS].index(prompt.name)
        text = f"{WORDS[at]} {thing} {number}?" if at < 4 else f"It is {thing} {number}."
        return Continuation(text=text, is_finished=True)

    def losses(self, pairs):
        return [float(re.search(r"\d+", question)[0] not in text) for question, text in pairs]


@pytest.fixture
def fake(monkeypatch):
    class Fake(FakeRewriter):
        pass

    monkeypatch.setattr(workflow, "ModelRewriter", Fake)
    return Fake


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("halls.json").write_text(json.dumps(ROWS))
    return Path("halls.json")


def run(file, base, said=None, **options):
    lines = [] if said is None else said
    return reword_file(file, model=str(base), say=lines.append, **options)


def test_a_new_file_has_the_same_rows_in_their_order_with_wordings(file, tiny_base, fake):
    before = file.read_bytes()
    made = run(file, tiny_base)
    rows = json.loads(Path("halls.reworded.json").read_text())
    assert [{k: v for k, v in row.items() if k != "wordings"} for row in rows] == [
        {k: v for k, v in row.items() if k != "wordings"} for row in ROWS
    ]
    assert [len(row.get("wordings", ())) for row in rows] == [4, 0, 4, 4] + [4] * 6
    assert rows[2]["wordings"][0] == "Hall 8 was built by who?"
    assert rows[3] == ROWS[3]
    assert list(rows[0]) == ["response", "instruction", "paraphrases", "wordings"]
    assert file.read_bytes() == before
    assert (made.rows, made.without_question, made.complete) == (10, 1, 1)
    assert len(read.read([made.out])) == len(ROWS)
    assert sorted(path.name for path in Path().iterdir()) == [
        "halls.json", "halls.reworded.json", "halls.reworded.json.review.txt",
    ]  # fmt: skip


def test_nothing_is_thrown_away_without_being_told(file, tiny_base, fake):
    made = run(file, tiny_base, wanted=2)
    assert made.kept == 2 * 7 + 1
    assert made.kept + sum(made.rejected.values()) == made.written == 8 * 8
    assert made.rejected["statement"] == 4 * 8
    assert made.summary.startswith(f"kept {made.kept} of 64; 32 no question, ")
    review = made.review.read_text()
    assert review.count("\n  + ") == made.kept
    assert review.count("\n  - ") == made.written - made.kept
    assert "halls.json:1  How many doors has hall 7?\n" in review
    assert "  - It is hall 7.  [no question]\n" in review
    record = made.to_json()
    candidates = [one for row in record["reworded"] for one in row["candidates"]]
    assert len(candidates) == 64
    assert {one.get("reason") for one in candidates} == {None, "statement", "surplus"}


def test_a_file_whose_rows_have_enough_is_written_without_asking_a_model(file, tiny_base, fake):
    file.write_text(json.dumps([ROWS[3]]))
    made = run(file, tiny_base)
    assert (made.complete, made.summary, fake.calls) == (1, "kept 0 of 0", 0)
    assert json.loads(made.out.read_text()) == [ROWS[3]]


def test_json_lines_become_json_lines(file, tiny_base, fake):
    lines = Path("halls.jsonl")
    lines.write_text("\n".join(map(json.dumps, ROWS)))
    made = run(lines, tiny_base)
    text = made.out.read_text()
    assert made.out.name == "halls.reworded.jsonl"
    assert [json.loads(line) for line in text.splitlines()] == json.loads(
        run(file, tiny_base).out.read_text()
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_becomes_json_lines(tmp_path, monkeypatch, tiny_base, fake, suffix):
    monkeypatch.chdir(tmp_path)
    table = Path(f"halls{suffix}")
    named = {"instruction": ["How many doors has hall 7?"], "response": ["It has 14."]}
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table(named), table)
    else:
        mark = "," if suffix == ".csv" else "\t"
        columns = ([name, *cells] for name, cells in named.items())
        table.write_text("\n".join(mark.join(row) for row in zip(*columns, strict=True)))
    made = run(table, tiny_base)
    assert made.out.name == "halls.reworded.jsonl"
    (row,) = read.read([made.out])
    assert (row.question, row.answer) == ("How many doors has hall 7?", "It has 14.")
    assert row.wordings


def test_wordings_of_a_field_with_blanks_around_its_name_stay_one_list(file, tiny_base, fake):
    file.write_text(json.dumps([{**ROWS[0], "wordings ": ["Which doors has hall 7?"]}]))
    made = run(file, tiny_base)
    (row,) = read.read([made.out])
    assert row.wordings[0] == "Which doors has hall 7?"
    assert len(row.wordings) == 4


def test_an_interrupted_run_goes_on_and_gives_the_same(file, tiny_base, fake, tmp_path):
    whole = run(file, tiny_base, out=tmp_path / "whole.json")
    fake.calls, fake.stops_after, said = 0, 1, []
    with pytest.raises(KeyboardInterrupt):
        run(file, tiny_base, said)
    partial = Path("halls.reworded.json.partial")
    assert said[-1] == f"4 of 8 rows are kept in {partial}; the same command goes on from there"
    assert not Path("halls.reworded.json").exists()
    torn = partial.read_bytes() + b'{"row":7,"candid'
    partial.write_bytes(torn)
    fake.calls, fake.stops_after, said = 0, None, []
    made = run(file, tiny_base, said)
    assert said[0] == f"going on from {partial}: 4 of 8 rows are done"
    assert fake.calls == 1
    assert made.out.read_bytes() == whole.out.read_bytes()
    assert made.reworded == whole.reworded
    assert not partial.exists()


def test_what_was_left_of_another_run_is_neither_used_nor_deleted(file, tiny_base, fake):
    fake.stops_after = 1
    with pytest.raises(KeyboardInterrupt):
        run(file, tiny_base)
    left = Path("halls.reworded.json.partial").read_bytes()
    for options, what in (({"seed": 1}, "seed"), ({"wanted": 3}, "wordings")):
        with pytest.raises(IncompatibleError, match=rf"\.partial: .* of other {what}; delete it"):
            run(file, tiny_base, **options)
    file.write_text(json.dumps(ROWS[:-1]))
    with pytest.raises(IncompatibleError, match="of other rows; delete it"):
        run(file, tiny_base)
    assert Path("halls.reworded.json.partial").read_bytes() == left


def test_a_run_that_ended_between_its_two_files_is_finished(file, tiny_base, fake, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "create_file", stop)
        with pytest.raises(KeyboardInterrupt):
            run(file, tiny_base)
    assert Path("halls.reworded.json.review.txt").exists()
    assert not Path("halls.reworded.json").exists()
    calls = fake.calls
    assert run(file, tiny_base).out.exists()
    assert fake.calls == calls


@pytest.mark.parametrize("name", ["halls.json", "other.json", "other.json.review.txt"])
def test_nothing_is_overwritten(file, tiny_base, fake, name):
    Path("other.json").write_text("mine")
    Path(name).write_text("mine")
    out = Path("halls.json") if name == "halls.json" else Path("other.json")
    if name == "other.json.review.txt":
        Path("other.json").unlink()
    file.write_text(json.dumps(ROWS))
    with pytest.raises(UsageError, match=f"{name}: exists, and nothing is overwritten"):
        run(file, tiny_base, out=out)
    assert fake.calls == 0


def test_a_file_that_appears_meanwhile_is_kept(file, tiny_base, fake, monkeypatch):
    real = workflow.replace_file

    def appears(*arguments, **options):
        real(*arguments, **options)
        Path("halls.reworded.json").write_text("mine")

    monkeypatch.setattr(workflow, "replace_file", appears)
    with pytest.raises(UsageError, match="appeared meanwhile and is kept"):
        run(file, tiny_base)
    assert Path("halls.reworded.json").read_text() == "mine"
    assert Path("halls.reworded.json.partial").exists()


def test_a_file_without_questions_or_with_another_name_is_refused(file, tiny_base, fake, tmp_path):
    file.write_text('[{"text": "Halls have doors."}]')
    with pytest.raises(InputError, match=r"halls\.json: no row asks a question"):
        run(file, tiny_base)
    with pytest.raises(InputError, match="a folder; name one file"):
        run(tmp_path, tiny_base, out=Path("x.json"))
    with pytest.raises(UsageError, match=r"--out x\.txt: not a data file; name it \.json or"):
        run(file, tiny_base, out=Path("x.txt"))


@pytest.fixture(scope="module")
def folded(tiny_base):
    return load_folded(bases.locate(str(tiny_base)), [])


def orders(*seeds):
    return [(PROMPTS[0], "Where is hall 7?", seed) for seed in seeds]


def test_a_seed_decides_a_text_whatever_else_is_written(folded):
    rewriter = ModelRewriter(folded)
    first, second, again = rewriter.write(orders(1, 2, 1))
    assert first == again != second
    assert rewriter.write(orders(2)) == [second]
    assert rewriter.write([]) == []


def test_the_loss_of_a_wording_is_that_of_its_tokens_after_the_prompt(folded):
    pairs = [("Where is hall 7?", "Which way is hall 7?"), ("Who?", "Which one?"), ("Who?", "Ö?")]
    assert ModelRewriter(folded).losses([]) == []
    for found, (question, text) in zip(ModelRewriter(folded).losses(pairs), pairs, strict=True):
        prompt = folded.tokenizer.prompt(EXAMPLES.conversation(question))
        tokens = [*prompt, *folded.tokenizer.encode(text)]
        logits = folded.model(mx.array([tokens[:-1]]))[0]
        logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        wanted = -sum(logprobs[t - 1, tokens[t]] for t in range(len(prompt), len(tokens)))
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_model_without_a_template_continues_the_examples(folded):
    plain = FoldedModel(
        info=folded.info, chain=(), model=folded.model, tokenizer=tiny.tokenizer(template=None)
    )
    rewriter = ModelRewriter(plain)
    texts = rewriter.write([(prompt, "Where is hall 7?", 1) for prompt in PROMPTS])
    for prompt, one in zip(PROMPTS, texts, strict=True):
        assert bool(prompt.examples) == bool(one.text or one.is_finished)
        assert "\n" not in one.text
    assert len(rewriter.losses([("Who?", "Which one?")])) == 1


def test_a_question_that_does_not_fit_the_model_is_passed_over(folded):
    long = [(PROMPTS[0], "Where? " * 400, 1), (PROMPTS[0], "Where is hall 7?", 1)]
    missed, written = ModelRewriter(folded).write(long)
    assert missed == Continuation(text="", is_finished=False)
    assert written.text
