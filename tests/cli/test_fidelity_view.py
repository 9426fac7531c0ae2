import pytest

from mlx_tune.cli.fidelity_view import fidelity_lines
from mlx_tune.cli.show import _lines


def share(relative, error, lost=0.0, along=1.0):
    return {"relative": relative, "error": error, "lost": lost, "along": along}


def record(*stored, whole, **layers):
    named = {f"model.layers.{name[1:]}": found for name, found in layers.items()}
    return {"stored": list(stored), **whole, "layers": named}


@pytest.mark.parametrize(
    ("found", "change", "kept"),
    [
        (
            record("bfloat16", whole=share(0.00731, 0.2225, 0.2357), _0=share(0.006, 0.31),
                   _11=share(0.0123, 0.15)),
            "0.73 % of the weights (rms); most in layer 11: 1.2 %",
            "78 % in bfloat16, 24 % of weights unmoved; layer 0 least: 69 %",
        ),
        (
            record("float32", whole=share(0.25, 6.9e-6), _0=share(0.25, 6.9e-6)),
            "25 % of the weights (rms); most in layer 0: 25 %",
            "all of it in float32, to 7e-06 of it",
        ),
        (
            record("apart", whole=share(0.01, 0.0), _0=share(0.01, 0.0)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "all of it, beside the quantised weights: nothing is rounded",
        ),
        (
            record("4 bits", whole=share(0.01, 2.35, 0.73, 0.16), _0=share(0.01, 2.9),
                   _1=share(0.01, 1.2)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "16 % of the way in 4 bits, with noise 2.4 × it; layer 0 worst: 2.9 ×",
        ),
        (
            record("apart", "bfloat16", whole=share(0.01, 0.1, 0.05), _0=share(0.01, 0.2)),
            "1 % of the weights (rms); most in layer 0: 1 %",
            "90 % in bfloat16, 5 % of weights unmoved; "
            "layer 0 least: 80 %",
        ),
    ],
)  # fmt: skip
def test_two_lines_tell_how_large_and_how_much_of_it(found, change, kept):
    lines = dict(fidelity_lines(found))
    assert lines == {"change": change, "kept": kept}
    assert all(len(text) + 11 <= 80 for text in lines.values())


def test_show_tells_it_where_the_session_has_it():
    session = {
        "number": 1, "name": "cs", "created": "today", "parent": None, "sizing": {}, "recall": [],
        "base": {"name": "b", "fingerprint": "f" * 64},
        "data": {"sources": ["cs.json"], "rows": 1, "rehearsed": 0},
        "training": {"steps": 1, "seconds": 1, "last_loss": 1.0, "peak_memory_bytes": 1},
    }  # fmt: skip
    assert "kept" not in dict(_lines(session))
    session["fidelity"] = record("apart", whole=share(0.01, 0.0), _0=share(0.01, 0.0))
    assert dict(_lines(session))["change"].startswith("1 % of the weights")
