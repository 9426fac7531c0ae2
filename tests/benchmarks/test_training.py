import json
import re
import sys

import pytest

from benchmarks import rounds, training
from benchmarks.report import MLX_LM, MLX_LM_PLAIN, OURS, PEFT_BFLOAT16, PEFT_FLOAT32
from benchmarks.rounds import Side, SideError

RESULT = {
    "rows": 8,
    "tokens": 80,
    "supervised_tokens": 8,
    "computed_tokens": 80,
    "head_positions": 8,
    "seconds": 2.0,
    "step_seconds": [2.0],
    "warmup_seconds": [],
    "losses": [3.0],
    "weights_bytes": 0,
    "peak_memory_bytes": None,
    "resident_before_bytes": None,
    "resident_peak_bytes": None,
    "device": "",
    "versions": {},
}


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Return the names of the sides that the command line asks for, on a machine with a BLAS."""
    monkeypatch.setattr(training.blas, "loaded", "libopenblas.so.0")

    def chosen(*words: str, first: bool = True) -> list[str]:
        args = training.parser().parse_args(["--shape", "tiny", *words])
        job = training.job_of(args, tmp_path)
        if "--shape" not in words:
            args.shape = None
        return [side.name for side in training.sides_of(args, job, first=first)]

    return chosen


def test_sides_take_turns_and_a_failing_one_is_left_out(monkeypatch, tmp_path):
    turns, said = [], []

    def run(command):
        turns.append(command[0])
        if command[0] == "broken":
            raise SideError("no torch")
        return {"best_flops": 1.0} if "benchmarks.sides.products" in command else RESULT

    monkeypatch.setattr(rounds, "_run", run)
    job = training.job_of(training.parser().parse_args(["--shape", "tiny"]), tmp_path)
    sides = [
        Side(name=name, command=(name,), job=job, once=name == "slow")
        for name in ("a", "broken", "slow")
    ]
    done = rounds.measure(sides, 2, said.append)
    assert turns == [sys.executable, "a", "broken", "slow", sys.executable, "a", "broken"]
    assert {name: len(results) for name, results in done.results.items()} == {
        "a": 2,
        "broken": 0,
        "slow": 1,
    }
    assert said[0] == "round 1/2  a                    4.00 rows/s in 1 steps, mean loss 3.00"
    assert said[1] == "round 1/2  broken               failed: no torch"


def test_a_side_that_ends_without_a_result_says_why(tmp_path):
    job = training.job_of(training.parser().parse_args(["--shape", "tiny"]), tmp_path)
    command = (sys.executable, "-c", "raise SystemExit('no torch')")
    with pytest.raises(SideError, match="no torch"):
        rounds.turn(Side(name="a", command=command, job=job))


def test_on_the_real_base_the_slow_side_takes_part_once(names):
    assert names() == [OURS, MLX_LM, MLX_LM_PLAIN]
    assert names(first=False) == names("--slow-steps", "0") == [OURS, MLX_LM]


def test_pytorch_takes_part_where_it_is(names):
    assert names("--torch-python", "python", first=False) == [
        OURS,
        MLX_LM,
        PEFT_FLOAT32,
        PEFT_BFLOAT16,
    ]


def test_random_weights_are_for_the_two_mlx_sides(names):
    assert names("--shape", "tiny", "--torch-python", "python") == [OURS, MLX_LM]


def test_micro_batches_make_up_eight_rows_a_step(tmp_path):
    for size in (1, 2, 4, 8):
        args = training.parser().parse_args(["--shape", "tiny", "--batch-size", str(size)])
        assert training.job_of(args, tmp_path).effective_batch == 8


@pytest.mark.slow  # mlx-lm compiles a kernel for every shape
def test_a_tiny_shape_is_measured_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "all.json"
    words = "--shape tiny --dtype float32 --rows 17 --lengths 20-36 --prefix 8 --rounds 1 --json"
    training.main([*words.split(), str(out)])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1] == "random: 17 rows of 20 to 36 tokens (476 in all, 174 taught)"
    assert [line.split()[0] for line in lines[4:6]] == ["ours", "mlx-lm,"]
    assert re.match(r"(met|missed) +[\d.]+ times the rows/s of mlx-lm", lines[-3])
    assert len(printed.err.splitlines()) == 2
    (made,) = json.loads(out.read_text())["sets"]
    assert made["text"] == lines[:-1]
    assert [(side["name"], side["rounds"][0]["rows"]) for side in made["sides"]] == [
        (OURS, 9),  # 17 rows less the first step's
        (MLX_LM, 8),  # 16, for one fills no batch
    ]
