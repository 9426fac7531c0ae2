import sys
from mmap import mmap

import pytest

from benchmarks.sides import mlx_lm_side, ours
from benchmarks.sides.job import Job, Memory, Step, TokenRow, summarise, write_rows
from benchmarks.sides.resident import Resident

# Lengths and where the answers begin; the first eight tokens are shared.
SPANS = [(20, 15), (12, 10), (40, 30), (30, 29), (14, 11)]
ROWS = [TokenRow([*range(1, 9), *range(10 + i, 2 + i + n)], a) for i, (n, a) in enumerate(SPANS)]


@pytest.fixture
def job(tmp_path):
    def make(**changes) -> Job:
        write_rows(tmp_path / "rows.json", ROWS)
        values = {
            "rows": str(tmp_path / "rows.json"),
            "folder": str(tmp_path),
            "model": None,
            "shape": "tiny",
            "dtype": "float32",
            "rank": 4,
            "scale": 2.0,
            "learning_rate": 1e-3,
            "batch_size": 2,
            "grad_accumulation": 1,
            "epochs": 2,
            "warmup": 0,
            "max_steps": None,
            "seed": 0,
        }
        return Job(**{**values, **changes})

    return make


def step(**changes) -> Step:
    values = {
        "seconds": 1.0,
        "loss": 2.0,
        "rows": 8,
        "tokens": 100,
        "supervised_tokens": 30.0,
        "computed_tokens": 128,
        "head_positions": 30.0,
    }
    return Step(**{**values, **changes})


NOTHING = Memory(
    weights_bytes=0, peak_memory_bytes=None, resident_before_bytes=None, resident_peak_bytes=None
)


def test_rows_are_written_as_they_are_read(job):
    assert job().read_rows() == ROWS


def test_the_warm_up_is_not_counted_but_kept(job):
    steps = [step(seconds=9.0), step(seconds=2.0, rows=8), step(seconds=1.0, rows=3)]
    found = summarise(steps, job(warmup=1), NOTHING, device="", versions={})
    assert (found.rows, found.tokens, found.seconds) == (11, 200, 3.0)
    assert (found.warmup_seconds, found.step_seconds) == ([9.0], [2.0, 1.0])
    assert len(found.losses) == 3


def test_a_run_of_warm_up_alone_is_refused(job):
    with pytest.raises(ValueError, match="1 steps, all of them warm-up"):
        summarise([step()], job(warmup=1), NOTHING, device="", versions={})


def test_one_step_without_a_count_leaves_the_sum_unknown(job):
    steps = [step(), step(computed_tokens=None)]
    assert summarise(steps, job(), NOTHING, device="", versions={}).computed_tokens is None


@pytest.mark.slow  # mlx-lm compiles a kernel for every shape
def test_mlx_lm_is_counted_as_by_hand(job):
    found = mlx_lm_side.measure(job())
    # Two epochs of two batches: rows 0 and 1, rows 2 and 3; the fifth fills none and is dropped.
    assert found.rows == 2 * 4
    assert found.tokens == 2 * (20 + 12 + 40 + 30)
    assert found.supervised_tokens == 2 * (5 + 2 + 10 + 1)
    # Padded to one more than a multiple of 32, the last of which is no input.
    assert found.computed_tokens == found.head_positions == 2 * (2 * 32 + 2 * 64)
    assert len(found.step_seconds) == len(found.losses) == 4


@pytest.mark.slow  # likewise
def test_mlx_lm_with_accumulation_takes_whole_steps_only(job):
    found = mlx_lm_side.measure(job(grad_accumulation=2, epochs=1))
    assert (found.rows, len(found.step_seconds)) == (4, 1)
    assert mlx_lm_side.iterations(job(grad_accumulation=2, epochs=3), rows=7) == 8
    assert mlx_lm_side.iterations(job(grad_accumulation=2, epochs=3, max_steps=1), rows=7) == 2


def test_mlx_lm_meets_the_same_tokens_and_masks():
    data = mlx_lm_side.dataset(ROWS)
    assert [data[i] for i in range(len(ROWS))] == [(row.tokens, row.answer) for row in ROWS]


def test_ours_is_counted_as_by_hand(job):
    found = ours.measure(job())
    assert found.rows == 2 * 5
    assert found.tokens == 2 * (20 + 12 + 40 + 30 + 14)
    assert found.supervised_tokens == found.head_positions == 2 * (5 + 2 + 10 + 1 + 3)
    assert len(found.step_seconds) == 2 * 3


def test_ours_computes_no_less_than_it_must_and_no_more_than_padding_makes(job):
    found = ours.measure(job(batch_size=5, epochs=1))
    once = 8 + sum(len(row.tokens) - 8 - 1 for row in ROWS)  # the last token predicts nothing
    assert once <= found.computed_tokens <= 5 * 40


def test_ours_stops_after_so_many_steps(job):
    assert len(ours.measure(job(max_steps=2)).step_seconds) == 2


@pytest.mark.parametrize("side", [ours, mlx_lm_side])
def test_a_side_measures_memory_beyond_its_weights(side, job):
    found = side.measure(job())
    weights = 4 * (96 * 32 + 2 * (9216 + 2 * 32) + 32)
    assert found.weights_bytes == weights
    assert found.peak_memory_bytes > weights


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone says it")
def test_resident_memory_is_watched_from_a_moment_on():
    watch = Resident()
    with mmap(-1, 64 * 1024**2) as held:  # of its own: malloc may have as much left over
        held[::4096] = b"x" * (len(held) // 4096)
        assert watch.peak - watch.before >= len(held) * 0.9
