"""The limit: how fast this machine multiplies matrices of a model's own dimensions."""

import json
import sys
import time

import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
import mlx.core as mx

from benchmarks.shapes import SHAPES

_ENOUGH_SECONDS = 0.1


def rate(rows: int, in_dims: int, out_dims: int, dtype: mx.Dtype) -> float:
    """Return the operations a second of (rows, in) times (in, out), best of three."""
    x = mx.random.normal((rows, in_dims)).astype(dtype)
    weight = mx.random.normal((out_dims, in_dims)).astype(dtype)
    mx.eval(x, weight, x @ weight.T)  # the first product warms up
    count = 1
    while _seconds(x, weight, count) < _ENOUGH_SECONDS:
        count *= 2
    return 2.0 * rows * in_dims * out_dims * count / min(_seconds(x, weight, count) for _ in "123")


def _seconds(x: mx.array, weight: mx.array, count: int) -> float:
    """Time so many products, handed over together and carried out one after another."""
    began = time.perf_counter()
    last = mx.zeros((), dtype=x.dtype)
    for _ in range(count):  # each waits for the one before, so that one result is held at a time
        last = (mx.depends(x, last) @ weight.T)[0, 0]
    mx.eval(last)
    return time.perf_counter() - began


def main() -> None:
    """Print one line: the rate of each product, and the best of them."""
    shape, dtype = SHAPES[sys.argv[1]], getattr(mx, sys.argv[2])
    rows = 8192 if mx.default_device().type == mx.DeviceType.gpu else 1024
    rates = {f"{i}x{o}": rate(rows, i, o, dtype) for i, o in sorted(set(shape.projections()))}
    print(json.dumps({"rows": rows, "flops": rates, "best_flops": max(rates.values())}))


if __name__ == "__main__":
    main()
