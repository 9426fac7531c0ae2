import json

import pytest

from benchmarks import retention_report
from benchmarks.retention_report import Chain

DIGEST = {"0001-a": {"data.jsonl": "d"}, "0002-b": {"data.jsonl": "e"}}


def outcomes(right: int, of: int = 10) -> list[int]:
    return [1] * right + [0] * (of - right)


def cell(number, verbatim, paraphrases, taught=(1, 0), **changes):
    """A session's result; the counts are by subject, of 10 questions and 20 paraphrases."""
    return {
        "arm": "default", "order": 1, "seed": 0, "number": number, "taught": [*taught[:number]],
        "scores": {
            "verbatim": [outcomes(right) for right in verbatim],
            "paraphrases": [outcomes(right, 20) for right in paraphrases],
        },
        "fold_sha256": f"fold {number}",
        "files_sha256": {name: DIGEST[name] for name in list(DIGEST)[:number]},
        "training": {"seconds": 90.0, "epochs": 10 * number, "is_learned": number == 1},
        "gate": {"verdict": "ask", "general": {"nats_per_token": 0.04 * number}},
    } | changes  # fmt: skip


BASE = cell(0, (0, 0), (1, 0), arm="base", order=0)
CHECKS = {
    "there": {"fold_sha256": "fold 1", "files_sha256": DIGEST},
    "back": {"fold_sha256": "fold 2", "files_sha256": DIGEST},
    "logits": {"largest": 6e-4, "size": 30.0},
}


def chain(*cells, arm="default", checks=CHECKS, base=BASE, order=1) -> Chain:
    return Chain(arm=arm, order=order, seed=0, cells=cells, base=base, checks=checks)


# Subject 1 is taught first: 10 of 10, then 9 of 10. Subject 0 had 2 of 10 before it was taught.
GOOD = chain(cell(1, (2, 10), (1, 12)), cell(2, (10, 9), (15, 9)))
UPPER = chain(cell(1, (0, 10), (0, 15)), cell(2, (10, 10), (16, 16)), arm="joint", checks=None)


def test_the_matrix_has_a_column_for_every_subject_in_the_order_it_was_taught():
    assert GOOD.retention("verbatim").cells == (
        ((0, 10), (0, 10)),
        ((10, 10), (2, 10)),
        ((9, 10), (10, 10)),
    )
    assert GOOD.retention("paraphrases").cells[2] == ((9, 20), (15, 20))


def test_a_chain_that_is_not_finished_has_the_sessions_it_has():
    begun = chain(cell(1, (2, 10), (1, 12)), base=None, checks=None)
    assert begun.retention("verbatim").cells == ((None,), ((10, 10),))
    assert retention_report.summary([begun])[2] == (
        "| default, 1, 0 | 100.0 (of 10; 72–100) | - | - | - | - | 60.0 (of 20; 39–78) | - "
        "| +0.040 | 10 | ask | 1.5 |"
    )
    assert "not measured: default, 1, 0: rollback" in "\n".join(retention_report.verdicts([begun]))


def test_the_summary_tells_each_score_with_its_number_and_interval():
    # ACC (90 % + 100 %) / 2; BWT and F from session 1 alone; FWT 2 of 10 less 0 of 10;
    # paraphrases (9 + 15) of 40 over joint's (16 + 16) of 40.
    assert retention_report.summary([GOOD, UPPER])[2] == (
        "| default, 1, 0 | 95.0 (of 20; 76–99) | -10.0 | +10.0 | +20.0 | 90.0 "
        "| 60.0 (of 40; 45–74) | 75.0 | +0.080 | 10, 20 (cap) | ask, ask | 3.0 |"
    )


def test_the_matrices_show_right_of_asked_with_intervals():
    assert retention_report.matrices(GOOD)[:5] == [
        "| verbatim, after | session 1 | session 2 |",
        "|---|---|---|",
        "| base | 0/10 0.0 (0–28) | 0/10 0.0 (0–28) |",
        "| session 1 | 10/10 100.0 (72–100) | 2/10 20.0 (6–51) |",
        "| session 2 | 9/10 90.0 (60–98) | 10/10 100.0 (72–100) |",
    ]


def test_each_target_is_said_to_be_met_or_missed():
    assert retention_report.verdicts([GOOD, UPPER]) == [
        "missed  default, 1, 0: kept of the worst session 90.0 % (target: ≥ 95%)",
        "missed  default, 1, 0: paraphrases of joint's 75.0 % (target: ≥ 80%)",
        "missed  default, 1, 0: BWT -10.0 (target: ≥ -2 points)",
        "met     default, 1, 0: ΔG, nats a token 0.08 (target: ≤ 0.1)",
        "met     default, 1, 0: rollback and back again, weights and files by sha256 identical "
        "(target: identical)",
        "met     default, 1, 0: concatenated chain against unrounded fold, of logits up to 30.0: "
        "2e-05 (target: ≤ 0.0001)",
    ]


def test_a_chain_that_learned_nothing_meets_no_target_of_keeping():
    empty = chain(cell(1, (0, 0), (0, 0)), cell(2, (0, 0), (0, 0)))
    kept, _, backward = retention_report.verdicts([empty])[:3]
    assert kept.startswith("not measured")
    assert backward == "not measured: default, 1, 0: BWT (target: ≥ -2 points)"


def test_other_arms_have_no_targets_but_for_their_folds():
    other = chain(*GOOD.cells, arm="none")
    assert [line.split()[0] for line in retention_report.verdicts([other])] == ["met", "met"]


@pytest.mark.parametrize(("value", "said"), [(0.95, "met"), (0.9499, "missed"), (None, "not")])
def test_a_share_on_the_target_meets_it(value, said):
    line = retention_report.verdict("a", "b", value, "≥ 95%", "%", 0.95)
    assert line.split()[0] == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.1, "met"), (0.1001, "missed"), (float("nan"), "missed")]
)
def test_a_rise_on_the_target_meets_it(value, said):
    assert retention_report.verdict("a", "b", value, "≤ 0.1", "g", 0.1).split()[0] == said


def test_what_was_lost_at_any_time_counts_and_what_was_never_learned_does_not():
    taught = (0, 1, 2)
    cells = [
        cell(1, (10, 0, 0), (0, 0, 0), taught),
        cell(2, (5, 0, 0), (0, 0, 0), taught),  # session 2 learned nothing
        cell(3, (10, 0, 8), (0, 0, 0), taught),
    ]
    assert retention_report.worst_kept(chain(*cells, base=None).retention("verbatim")) == 0.5


def test_joint_training_counts_only_on_the_same_subjects_in_the_same_order():
    elsewhere = chain(*UPPER.cells, arm="joint", order=0)
    half = chain(UPPER.cells[0], arm="joint")
    for others in ([], [elsewhere], [half]):
        assert retention_report.of_joint(GOOD, [GOOD, *others]) is None
    shorter = chain(GOOD.cells[0])
    assert retention_report.of_joint(shorter, [UPPER]) == pytest.approx(12 / 15)


def test_general_ability_is_the_worst_moment_and_may_be_missing():
    fell = chain(
        cell(1, (0, 9), (0, 9)), cell(2, (9, 9), (9, 9), gate={"general": {"nats_per_token": -0.1}})
    )
    assert retention_report.general(fell) == 0.04
    assert retention_report.general(chain(cell(1, (0, 9), (0, 9), gate={"general": None}))) is None


@pytest.mark.parametrize("where", ["there", "back"])
@pytest.mark.parametrize("what", ["fold_sha256", "files_sha256"])
def test_a_rollback_that_changes_a_byte_is_missed(where, what):
    other = {**CHECKS, where: {**CHECKS[where], what: "other"}}
    line = retention_report.verdicts([chain(*GOOD.cells, checks=other)])[-2]
    assert line.startswith("missed  default, 1, 0: rollback")
    assert "different" in line


def test_the_cells_of_a_folder_are_read_chain_by_chain(tmp_path):
    kept = {
        "base-0-0/cell-0": BASE,
        "default-1-0/cell-2": GOOD.cells[1],
        "default-1-0/cell-1": GOOD.cells[0],
        "default-1-0/checks": CHECKS,
        "joint-1-0/cell-1": {**UPPER.cells[0], "arm": "joint"},
    }
    for name, value in kept.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    found = retention_report.load(tmp_path)
    assert found[0] == GOOD
    assert [(c.arm, len(c.cells), c.checks) for c in found[1:]] == [("joint", 1, None)]
    assert "### joint, 1, 0" in retention_report.text(found)
