"""How much of a change the stored weights keep, counted while folding.

Rounding to the stored type loses much of a small change: of one that is a thousandth of the
weights, bfloat16 keeps about a fifth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_tune.continual.change import by_layer

UNMERGED = "apart"
"""What records name instead of a type where the chain stays beside the quantised weights."""

_BLOCK = 1 << 15
"""Weights at a time: they stay in the cache, and a float32 sum of so few keeps its digits."""

RoundTrip = Callable[[mx.array], mx.array]
"""Weights to what they are once stored and read: (out_dims, in_dims) to the same shape."""


@dataclass(frozen=True, kw_only=True)
class Survival:
    """The intended change of some weights W₀ against what they became, W.

    With the intended change Δ = Σ s·(A·B)ᵀ in float32, and the actual change W − W₀:

    Attributes:
        numbers: How many weights there are.
        meant: How many of them have Δ ≠ 0.
        unmoved: How many of those have W = W₀: their change was lost entirely.
        base_squares: Σ W₀².
        change_squares: Σ Δ².
        error_squares: Σ ((W − W₀) − Δ)².
        product: Σ (W − W₀)·Δ.
    """

    numbers: int = 0
    meant: int = 0
    unmoved: int = 0
    base_squares: float = 0.0
    change_squares: float = 0.0
    error_squares: float = 0.0
    product: float = 0.0

    def __add__(self, other: "Survival") -> "Survival":
        names = [f.name for f in fields(Survival)]
        return Survival(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def relative(self) -> float:
        """rms(Δ) / rms(W₀); 0 where there is nothing to compare."""
        return float(np.sqrt(_ratio(self.change_squares, self.base_squares)))

    @property
    def error(self) -> float:
        """‖(W − W₀) − Δ‖ / ‖Δ‖: 0 when all of the change was kept, 1 when none of it.

        More than 1 where the weights moved mostly elsewhere, as quantised ones do.
        """
        return float(np.sqrt(_ratio(self.error_squares, self.change_squares)))

    @property
    def survived(self) -> float:
        """1 − error, at least 0: the share of the change that survived."""
        return max(0.0, 1.0 - self.error)

    @property
    def lost(self) -> float:
        """Share of the weights with Δ ≠ 0 that did not move."""
        return _ratio(self.unmoved, self.meant)

    @property
    def along(self) -> float:
        """⟨W − W₀, Δ⟩ / ‖Δ‖²: the component along the intended change, 1 when it is all there.

        Rounding errs to both sides, so this stays near 1 while the error grows; where most
        weights do not move at all, as in four bits, it falls too.
        """
        return _ratio(self.product, self.change_squares)

    def to_json(self) -> dict[str, float]:
        """Return the four shares to four significant digits."""
        names = ("relative", "error", "lost", "along")
        return {name: float(f"{getattr(self, name):.4g}") for name in names}


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a fold's stored weights kept of its change, module by module.

    Attributes:
        modules: By module path, each with the type it is stored in, such as ``bfloat16``, or
            ``UNMERGED``.
    """

    modules: Mapping[str, tuple[str, Survival]] = field(default_factory=dict)

    @property
    def whole(self) -> Survival:
        """All modules together."""
        return sum((found for _, found in self.modules.values()), Survival())

    @property
    def stored(self) -> tuple[str, ...]:
        """The types the modules are stored in."""
        return tuple(sorted({name for name, _ in self.modules.values()}))

    def layers(self) -> dict[str, Survival]:
        """Return each transformer layer's, by a path such as ``model.layers.7``, in order."""
        return {
            layer: sum((self.modules[path][1] for path in paths.values()), Survival())
            for layer, paths in by_layer(self.modules).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a record keeps: the types, the whole, and each layer; no module.

        Every number to four significant digits: ``relative``, ``error``, ``lost`` and ``along``
        of :class:`Survival`.
        """
        return {
            "stored": list(self.stored),
            **self.whole.to_json(),
            "layers": {layer: found.to_json() for layer, found in self.layers().items()},
        }


class FidelityMeter:
    """Counts while a model is folded; it holds the weights of one module at a time.

    Args:
        round_trip: Where the weights are stored in another form than the folded model's, as by a
            quantiser: applied to both W₀ and W, so that what is counted is the change and not
            what that form does to every weight.
        stored_as: A name for that form.
    """

    def __init__(self, round_trip: RoundTrip | None = None, *, stored_as: str | None = None):
        self._round_trip, self._stored_as = round_trip, stored_as
        self._modules: dict[str, tuple[str, Survival]] = {}

    def add(self, path: str, before: mx.array, change: mx.array, after: mx.array) -> None:
        """Count a module that was folded.

        Args:
            path: The module.
            before: W₀ as stored (out_dims, in_dims).
            change: Δ, float32 (out_dims, in_dims).
            after: W, of the type it will be stored in (out_dims, in_dims).
        """
        name = self._stored_as or str(after.dtype).rpartition(".")[2]
        stored = self._round_trip or (lambda weight: weight)
        start = _wide(stored(before))
        self._modules[path] = (name, _count(start, change, _wide(stored(after))))

    def add_unmerged(self, path: str, linear: nn.QuantizedLinear, change: mx.array) -> None:
        """Count a module whose chain stays beside its quantised weights: all of it is kept.

        Args:
            path: The module.
            linear: With the weights the base has, quantised.
            change: Δ, float32 (out_dims, in_dims).
        """
        packed = (linear.weight, linear.scales, linear.get("biases"))
        weight = mx.dequantize(*packed, linear.group_size, linear.bits, linear.mode)
        self._modules[path] = (UNMERGED, _count(_wide(weight), change, None))

    def fidelity(self) -> Fidelity:
        """Return what was counted."""
        return Fidelity(modules=dict(self._modules))


def _count(start: mx.array, change: mx.array, end: mx.array | None) -> Survival:
    """Count one module; all float32 (out_dims, in_dims); None as end where all is kept."""
    arrays = [np.asarray(a).reshape(-1) for a in (start, change, start if end is None else end)]
    found = Survival()
    for begin in range(0, change.size, _BLOCK):
        before, wanted, after = (array[begin : begin + _BLOCK] for array in arrays)
        made = wanted if end is None else after - before
        error = made - wanted
        found += Survival(
            numbers=wanted.size,
            meant=int(np.count_nonzero(wanted)),
            unmoved=int(np.count_nonzero((wanted != 0) & (made == 0))),
            base_squares=float(before @ before),
            change_squares=float(wanted @ wanted),
            error_squares=float(error @ error),
            product=float(made @ wanted),
        )
    return found


def _wide(weight: mx.array) -> mx.array:
    return weight.astype(mx.float32)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
