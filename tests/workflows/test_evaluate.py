"""The retention matrix of real stores, tiny ones."""

import json
import shutil

import pytest

from helpers import stores
from helpers.training_lab import RecordingObserver, TrainingLab, facts, isolated_environment
from mlx_tune.continual.retention import KINDS, RetentionMatrix
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows import evaluate as story
from mlx_tune.workflows.evaluate import evaluate
from mlx_tune.workflows.matrix import MEASURED, RECORDED
from mlx_tune.workflows.store_commands import rollback

REWORDED = {"paraphrases": ["Tell me: where?", "Well?"]}
LEARNS = {"learning_rate": 0.02, "epochs": 60, "rank": 8}


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_base):
    """cs, of which housing replaces one of three answers, and texts; dining beside housing."""
    with isolated_environment(tmp_path_factory.getbasetemp()):
        made = TrainingLab(root=tmp_path_factory.mktemp("taught"), base=tiny_base)
        made.train(made.data("cs", facts("Lab", 3), **REWORDED), **LEARNS)
        housing = {"Where is  Lab 1?": "In the hall.", **facts("Hall", 2)}
        made.train(made.data("housing", housing), **LEARNS)
        texts = made.root / "texts.json"
        texts.write_text(json.dumps([{"text": "The otter sleeps."}]))
        made.train(texts, epochs=1, rank=2)
        rollback(made.store, "1")
        made.train(made.data("dining", facts("Cafe", 2)), epochs=1, rank=2)
        rollback(made.store, "texts")
    return made.store


@pytest.fixture
def lab(lab, taught):
    shutil.copytree(taught, lab.store, symlinks=True)
    return lab


def ask(lab, observer=None, **options):
    options = {"session": None, "base": None, "on": None, **options}
    return evaluate(lab.store, say=(observer or RecordingObserver()).say, **options)


def sources(found, kind="verbatim"):
    """Where each cell comes from, row by row: m, r, a file (f), or nothing (-)."""
    letters = {MEASURED: "m", RECORDED: "r"}
    return [
        "".join(
            letters.get(scored.source, "f") if scored else "-"
            for scored in (found.scored(row, column, kind) for column in found.columns)
        )
        for row in found.rows
    ]


def outcomes(found):
    return {
        (row.number, column.session.number, kind): scored.outcomes
        for row in found.rows
        for column in found.columns
        for kind in KINDS
        if (scored := found.scored(row, column, kind))
    }


def asked(observer):
    return [line for line in observer.lines if line.startswith("asking")]


def test_the_answering_row_is_asked_the_diagonal_is_read_and_the_rest_is_measured(lab):
    observer = RecordingObserver()
    found = ask(lab, observer)
    assert sources(found) == ["mm-", "rm-", "rr-", "mm-"]
    assert asked(observer) == ["asking 3 texts…", "asking the base…", "asking 1 cs, as it was…"]
    assert [(e.number, e.name) for e in found.recall] == [(1, "cs"), (2, "housing"), (3, "texts")]
    assert found.recall[2].verbatim is None


def test_what_is_read_is_what_measuring_gives(lab):
    found, fresh = ask(lab), ask(lab, fresh=True)
    assert sources(fresh) == ["mm-"] * 4
    assert outcomes(fresh) == outcomes(found)
    learned = outcomes(found)[1, 1, "verbatim"]
    assert any(learned), "the fixture must know something"


def test_an_answer_that_changed_is_told_and_never_forgotten(lab):
    found = ask(lab)
    assert [column.superseded for column in found.columns] == [1, 0, 0]
    assert [row.question for row in found.columns[0].rows] == ["Where is Lab 0?", "Where is Lab 2?"]
    matrix = found.retention("verbatim")
    assert {cell[1] for cell in (row[0] for row in matrix.cells)} == {2}
    assert (
        len(
            SessionStore.open(lab.store)
            .snapshot()
            .find("cs")
            .record["recall"][0]["verbatim"]["outcomes"]
        )
        == 3
    )


def test_a_session_without_questions_is_in_no_mean(lab):
    matrix = ask(lab).retention("verbatim")
    assert matrix.accuracy().left_out == (3,)
    assert matrix.accuracy().sessions == (1, 2)
    assert isinstance(matrix, RetentionMatrix)


def test_a_loss_over_other_questions_is_not_taken_for_one_over_these(lab):
    found = ask(lab, quick=True)
    cs, housing, _ = found.columns
    assert found.scored(found.rows[1], cs, "verbatim").loss is None  # of three, two are left
    assert found.scored(found.rows[2], cs, "verbatim").loss > 0
    assert found.scored(found.rows[3], housing, "verbatim").loss > 0


def test_what_was_measured_once_is_not_measured_again(lab):
    first = ask(lab)
    observer = RecordingObserver()
    again = ask(lab, observer)
    assert asked(observer) == ["asking 3 texts…"]
    assert sources(again) == ["ff-", "rf-", "rr-", "mm-"]
    assert outcomes(again) == outcomes(first)
    third = RecordingObserver()
    ask(lab, third)
    assert asked(third) == ["asking 3 texts…"]
    assert len(list((lab.store / "evals").iterdir())) == 3


def test_fresh_asks_everything_whatever_is_known(lab):
    ask(lab)
    observer = RecordingObserver()
    ask(lab, observer, fresh=True)
    assert asked(observer) == [
        "asking 3 texts…",
        "asking the base…",
        "asking 1 cs, as it was…",
        "asking 2 housing, as it was…",
    ]


def test_quick_asks_the_answering_session_alone(lab):
    observer = RecordingObserver()
    found = ask(lab, observer, quick=True)
    assert asked(observer) == ["asking 3 texts…"]
    assert sources(found) == ["---", "r--", "rr-", "mm-"]
    matrix = found.retention("verbatim")
    assert matrix.backward_transfer().sessions == (1, 2)
    assert matrix.forward_transfer().value is None


def test_questions_that_changed_are_measured_again(lab):
    """With another answer in force, what was measured of the old one says nothing."""
    ask(lab)
    lab.train(lab.data("again", {"Where is Lab 2?": "Gone."}), epochs=1, rank=2)
    observer = RecordingObserver()
    found = ask(lab, observer)
    assert asked(observer)[1:3] == ["asking the base…", "asking 1 cs, as it was…"]
    assert found.columns[0].superseded == 2
    assert sources(found)[0] == "mf-m"


def test_an_evaluation_of_another_base_says_nothing(lab):
    ask(lab)
    for path in (lab.store / "evals").iterdir():
        record = json.loads(path.read_text())
        record["base"]["fingerprint"] = "f" * 64
        path.write_text(json.dumps(record))
    assert sources(ask(lab)) == ["mm-", "rm-", "rr-", "mm-"]
    assert sources(ask(lab)) == ["ff-", "rf-", "rr-", "mm-"]  # the newer one does


def test_a_store_that_an_earlier_version_evaluated_is_measured_where_that_says_nothing(lab):
    """Its records and files tell what is recited; what is right is asked of each model again."""
    ask(lab)
    for path in (lab.store / "evals").iterdir():
        record = json.loads(path.read_text())
        for cell in record["cells"]:
            del cell["as_taught"], cell["other_words"]
        path.write_text(json.dumps(record))
    observer = RecordingObserver()
    found = ask(lab, observer)
    assert asked(observer) == ["asking 3 texts…", "asking the base…", "asking 1 cs, as it was…"]
    assert sources(found) == ["ff-", "rf-", "rr-", "mm-"]  # these are not measured again
    assert sources(found, "as_taught") == ["mm-", "rm-", "rr-", "mm-"]


def test_grades_by_other_rules_are_measured_again(lab):
    ask(lab)
    for path in (lab.store / "evals").iterdir():
        record = json.loads(path.read_text())
        for cell in record["cells"]:
            if cell["as_taught"]:
                cell["as_taught"]["rules"] += 1
        path.write_text(json.dumps(record))
    found = ask(lab)
    assert sources(found) == ["ff-", "rf-", "rr-", "mm-"]
    assert sources(found, "as_taught") == ["mm-", "rm-", "rr-", "mm-"]


def test_what_is_right_is_told_of_every_row(lab):
    found = ask(lab)
    for kind in ("as_taught", "other_words"):
        assert sources(found, kind)[0][0] == "m"
    matrix = found.retention("as_taught")
    assert matrix.cells[1][0][0] >= found.retention("verbatim").cells[1][0][0] > 0
    assert found.shown == ("other_words", "verbatim")
    cs = found.recall[0]
    for score in (cs.as_taught, cs.other_words):
        assert score.asked == len(score.grades)
        assert len(score.wrong) == score.asked - score.right
    assert cs.other_words.asked == 4  # two wordings of each of the two that are left


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.pop("cells"),
        lambda record: record["cells"][0].pop("row"),
        lambda record: record["cells"][0]["verbatim"].update(outcomes=[1]),
        lambda record: record["cells"][0]["verbatim"].update(outcomes=[2, 2]),
        lambda record: record["cells"][0]["verbatim"].update(loss=None),
        lambda record: record["cells"][0]["as_taught"].update(outcomes=["right"]),
        lambda record: record["cells"][0]["as_taught"].update(outcomes=["wrong", "right"]),
        lambda record: record["cells"][0]["as_taught"].pop("rules"),
        lambda record: record.update(base=[]),
    ],
)
def test_a_damaged_evaluation_is_passed_over_whole(lab, spoil):
    ask(lab)
    (path,) = (lab.store / "evals").iterdir()
    record = json.loads(path.read_text())
    assert record["cells"][0]["verbatim"]["asked"] == 2
    spoil(record)
    path.write_text(json.dumps(record))
    observer = RecordingObserver()
    assert sources(ask(lab, observer)) == ["mm-", "rm-", "rr-", "mm-"]
    assert (
        f"note: evals/{path.name}: not what was written; passed over, delete it" in observer.lines
    )


def test_stopped_midway_it_keeps_what_was_asked(lab, monkeypatch):
    real = story._measure

    def stopping(row, exam, info):
        if row.session:
            raise KeyboardInterrupt
        return real(row, exam, info)

    monkeypatch.setattr(story, "_measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        ask(lab)
    monkeypatch.setattr(story, "_measure", real)
    observer = RecordingObserver()
    ask(lab, observer)
    assert asked(observer) == ["asking 3 texts…", "asking 1 cs, as it was…"]


def test_a_disk_that_takes_no_file_takes_nothing_back(lab, monkeypatch):
    observer = RecordingObserver()
    monkeypatch.setattr("mlx_tune.store.runs.make_folder", stores.fail_with(28))
    found = ask(lab, observer, quick=True)
    assert found.recall[0].verbatim.asked == 2
    assert observer.lines[-1].endswith("the evaluation was not kept")


def test_no_session_is_touched(lab):
    before = stores.state(lab.store)
    ask(lab)
    after = {k: v for k, v in stores.state(lab.store).items() if not k.startswith("evals/")}
    assert after == before


def test_the_base_alone_is_a_row_of_zeros_and_no_matrix(lab):
    found = ask(lab, session="base")
    assert [row.id for row in found.rows] == ["base"]
    assert [e.verbatim.right for e in found.recall[:2]] == [0, 0]
    assert found.retention("verbatim") is None


def test_an_earlier_session_answers_for_a_longer_chain(lab):
    found = ask(lab, session="1", on="texts")
    assert [row.number for row in found.rows] == [0, 1]
    assert sources(found) == ["mm-", "mm-"]
    assert found.retention("verbatim").length == 1


def test_a_session_of_another_branch_is_asked_by_itself(lab):
    found = ask(lab, session="dining", on="housing")
    assert [row.name for row in found.rows] == ["dining"]
    assert sources(found) == ["mm"]
    assert found.retention("verbatim") is None


def test_a_session_whose_rows_were_not_kept_cannot_be_measured(lab, monkeypatch):
    real = story.read_history
    monkeypatch.setattr(story, "read_history", lambda chain: [[], *real(chain)[1:]])
    found = ask(lab)
    assert sources(found) == ["-m-", "-m-", "-r-", "-m-"]
    assert found.retention("verbatim").accuracy().left_out == (1, 3)
    assert found.recall[0].verbatim is None


def test_the_file_holds_what_the_evaluation_says(lab):
    found = ask(lab)
    (path,) = (lab.store / "evals").iterdir()
    record = json.loads(path.read_text())
    assert path.name.endswith(f"{found.answering.session.folder_name}.json")
    assert {k: record[k] for k in found.to_json()} == json.loads(json.dumps(found.to_json()))
    assert record["measures"]["verbatim"]["bwt"]["sessions"] == [1, 2]
    assert record["measures"]["paraphrases"]["acc"]["left_out"] == [2, 3]
    assert record["measures"]["other_words"]["acc"]["left_out"] == [2, 3]
    assert record["base"]["fingerprint"]
