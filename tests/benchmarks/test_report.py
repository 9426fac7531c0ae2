import pytest

from benchmarks import report
from benchmarks.report import MLX_LM, OURS, PEFT_FLOAT32, Target
from benchmarks.shapes import SHAPES
from benchmarks.sides.job import Result

MIB = 1024**2


def result(**changes) -> Result:
    """Ten rows in two steps of one second each, ten MiB beyond the weights."""
    values = {
        "rows": 10,
        "tokens": 500,
        "supervised_tokens": 200,
        "computed_tokens": 600,
        "head_positions": 200,
        "seconds": 2.0,
        "step_seconds": [1.0, 1.0],
        "warmup_seconds": [9.0],
        "losses": [3.0, 2.0, 1.0],
        "weights_bytes": 5 * MIB,
        "peak_memory_bytes": 15 * MIB,
        "resident_before_bytes": 50 * MIB,
        "resident_peak_bytes": 70 * MIB,
        "device": "a machine",
        "versions": {},
    }
    return Result(**{**values, **changes})


def summary(*results):
    return report.summary(results, SHAPES["tiny"], rank=4)


def test_medians_are_taken_over_rounds_and_over_the_steps_of_all_of_them():
    rounds = [
        result(seconds=2.0, step_seconds=[0.5, 1.5], peak_memory_bytes=15 * MIB),
        result(seconds=5.0, step_seconds=[2.0, 3.0], peak_memory_bytes=25 * MIB),
        result(seconds=1.0, step_seconds=[0.4, 0.6], peak_memory_bytes=12 * MIB),
    ]
    side = summary(*rounds)
    assert (side.slowest, side.rows_per_second, side.fastest) == (2.0, 5.0, 10.0)
    assert side.tokens_per_second == 250.0
    assert side.step_seconds == pytest.approx((0.6 + 1.5) / 2)
    assert side.beyond_bytes == 10 * MIB
    assert side.resident_bytes == 20 * MIB


def test_what_was_not_measured_is_left_out():
    side = summary(result(peak_memory_bytes=None, resident_before_bytes=None, computed_tokens=None))
    assert (side.beyond_bytes, side.resident_bytes, side.flops) == (None, None, None)


def test_operations_follow_the_tokens_that_were_computed():
    # Tiny: per layer (32x32) + 2(32x16) + (32x32) + 3(32x64) = 9216 weights, and 4 for each of
    # the 64 + 2*48 + 64 + 3*96 = 512 rows and columns; 32x96 in the head.
    work = 600 * 2 * (4 * 9216 + 6 * 4 * 512) + 200 * 4 * 32 * 96
    assert summary(result(seconds=2.0)).flops == work / 2


SPEED = Target(against=MLX_LM, measure="speed", factor=3.0)
MEMORY = Target(against=MLX_LM, measure="memory", factor=0.5)


@pytest.mark.parametrize(
    ("target", "ours", "line"),
    [
        (
            SPEED,
            {"seconds": 0.5},
            "met     4.00 times the rows/s of mlx-lm, same BLAS (target: at least 3)",
        ),
        (
            SPEED,
            {"seconds": 1.0},
            "missed  2.00 times the rows/s of mlx-lm, same BLAS (target: at least 3)",
        ),
        (
            MEMORY,
            {"peak_memory_bytes": 10 * MIB},
            "met     0.50 times the memory of mlx-lm, same BLAS (target: at most 0.5)",
        ),
        (
            MEMORY,
            {},
            "missed  1.00 times the memory of mlx-lm, same BLAS (target: at most 0.5)",
        ),
    ],
)
def test_a_verdict_says_what_was_found_beside_the_target(target, ours, line):
    sides = {OURS: summary(result(**ours)), MLX_LM: summary(result())}
    assert report.verdict(target, sides) == line


def test_a_verdict_without_the_other_side_says_so():
    target = Target(against=PEFT_FLOAT32, measure="speed", factor=1.0)
    line = "not measured: rows/s of PEFT float32 (target: at least 1)"
    assert report.verdict(target, {OURS: summary(result())}) == line


def test_the_limit_is_the_median_over_rounds():
    products = [{"best_flops": value} for value in (5.0, 1.0, 2.0)]
    assert report.limit(products) == 2.0


def test_a_table_fits_eighty_columns():
    slow = summary(result(step_seconds=[999.0]), result(seconds=2e3))
    fast = summary(result(seconds=1e-2, resident_peak_bytes=900_000 * MIB))
    lines = report.table({OURS: fast, report.MLX_LM_PLAIN: slow}, best=1e12)
    assert all(len(line) <= 80 for line in lines)
    assert len({len(line) for line in lines}) == 1


def test_a_table_has_a_dash_where_there_is_no_number():
    side = summary(result(peak_memory_bytes=None, resident_before_bytes=None))
    line = report.table({PEFT_FLOAT32: side}, best=1e6)[1]
    assert line.split()[-3:] == ["-", "-", "-"]
