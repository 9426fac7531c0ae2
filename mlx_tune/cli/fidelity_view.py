"""How a person reads what a fold's stored weights kept: two lines."""

from collections.abc import Mapping
from typing import Any

from mlx_tune.continual.fidelity import APART

_EXACT = 0.001  # an error below a thousandth of the change is float32's own


def fidelity_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a label and a text for the size of a change, and for what was kept of it.

    Args:
        record: As ``Fidelity.to_json`` gives it; of a chain, not of the bare base.
    """
    layers = record["layers"]
    largest = max(layers, key=lambda path: layers[path]["relative"])
    size = f"{_percent(record['relative'])} of the weights (rms)"
    most = f"most in {_name(largest)}: {_percent(layers[largest]['relative'])}"
    return [("change", f"{size}; {most}"), ("kept", _kept(record))]


def _kept(record: Mapping[str, Any]) -> str:
    if record["stored"] == [APART]:
        return "all of it, beside the quantised weights: nothing is rounded"
    stored = " and ".join(s for s in record["stored"] if s != APART)
    if record["error"] < _EXACT:
        return f"all of it in {stored}, to {record['error']:.0e} of it"
    layers = record["layers"]
    path = max(layers, key=lambda path: layers[path]["error"])
    lost = _percent(record["lost"])
    if record["error"] < 1:
        least = f"{_name(path)} least: {_percent(1 - layers[path]['error'])}"
        return f"{_percent(1 - record['error'])} in {stored}, {lost} of weights unmoved; {least}"
    worst = f"{_name(path)} worst: {layers[path]['error']:.1f} ×"
    noise = f"with noise {record['error']:.1f} × it"
    return f"{_percent(record['along'])} of the way in {stored}, {noise}; {worst}"


def _name(path: str) -> str:
    number = path.rpartition(".")[2]
    return f"layer {number}" if number.isdecimal() else path


def _percent(share: float) -> str:
    shown = 100 * share
    return f"{shown:.0f} %" if shown >= 10 or not shown else f"{shown:.2g} %"
