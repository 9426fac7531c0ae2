"""How far apart two chains leave the weights: the norm of the difference of their changes.

A change is a product of low-rank factors, so its norm is had from small triangles; no matrix of
a layer's own size is ever made.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_tune.errors import IncompatibleError
from mlx_tune.training.adapter import Adapter

_LAYER = re.compile(r"(.*?)\.(\d+)\.(.+)")  # model.layers . 7 . mlp.up_proj

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """How much one transformer layer changed.

    Attributes:
        path: The layer, such as ``model.layers.7``.
        norm: Frobenius norm over its adapted modules together.
        of_base: The same divided by that of the base's weights; None where those are not known.
        modules: The norm of each, by its path within the layer.
    """

    path: str
    norm: float
    of_base: float | None
    modules: Mapping[str, float]

    @property
    def number(self) -> str:
        """Its place among the layers."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Change:
    """How much the weights changed, module by module.

    Attributes:
        norms: Frobenius norm of the change by module path.
        base_norms: That of the base's own weights, where they are known.
    """

    norms: Mapping[str, float]
    base_norms: Mapping[str, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Frobenius norm of the whole change; exactly 0 when nothing lies between."""
        return math.hypot(*self.norms.values())

    @property
    def of_base(self) -> float | None:
        """The whole change relative to the base's weights of the same modules."""
        return self._relative(list(self.norms))

    def layers(self) -> list[LayerChange]:
        """Return the transformer layers in their order."""
        return [
            LayerChange(
                path=layer,
                norm=math.hypot(*(self.norms[path] for path in paths.values())),
                of_base=self._relative(list(paths.values())),
                modules={leaf: self.norms[path] for leaf, path in paths.items()},
            )
            for layer, paths in by_layer(self.norms).items()
        ]

    def _relative(self, paths: Sequence[str]) -> float | None:
        if not paths or any(path not in self.base_norms for path in paths):
            return None
        whole = math.hypot(*(self.base_norms[path] for path in paths))
        return math.hypot(*(self.norms[path] for path in paths)) / whole if whole else None


def by_layer(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the transformer layers in their order, each with its modules.

    Args:
        paths: Of modules.

    Returns:
        By a layer's path (``model.layers.7``), the modules' paths by that within the layer; a
        module of no layer stands alone, under the empty name.
    """
    layers: dict[tuple[str, int], dict[str, str]] = {}
    for path in paths:
        match = _LAYER.fullmatch(path)
        name, leaf = ((match[1], int(match[2])), match[3]) if match else ((path, -1), "")
        layers.setdefault(name, {})[leaf] = path
    return {
        f"{stack}.{number}" if number >= 0 else stack: modules
        for (stack, number), modules in sorted(layers.items())
    }


def change_norms(minus: Sequence[Adapter], plus: Sequence[Adapter]) -> dict[str, float]:
    """Return the Frobenius norm of Σ plus − Σ minus by module path.

    With all factors of a module side by side, X (in_dims, Σ r) and Y (Σ r, out_dims), signs and
    scales inside, and X = Q R, Yᵀ = P S, the norm of X Y is that of R Sᵀ, which is (Σ r, Σ r).
    The root of trace((XᵀX)(YYᵀ)) is the same number, but has half the digits where two chains
    nearly cancel.

    Args:
        minus: The adapters that the one chain has alone. What both share is left out by the
            caller, and so exactly.
        plus: Those that the other has alone.

    Returns:
        float64 norms; nothing for no adapters.

    Raises:
        IncompatibleError: Two adapters are for layers of different sizes.
    """
    signed = [(adapter, -1.0) for adapter in minus] + [(adapter, 1.0) for adapter in plus]
    found = {}
    for path in sorted({path for adapter, _ in signed for path in adapter.factors}):
        terms = [(a.factors[path], sign * a.scale) for a, sign in signed if path in a.factors]
        sizes = {(lora_a.shape[0], lora_b.shape[1]) for (lora_a, lora_b), _ in terms}
        if len(sizes) > 1:
            raise IncompatibleError(
                f"{path}: the adapters are for layers of different sizes, "
                f"{' and '.join(map(str, sorted(sizes)))}; only sessions of one base are compared"
            )
        down = np.concatenate([_wide(lora_a) for (lora_a, _), _ in terms], axis=1)
        up = np.concatenate([factor * _wide(lora_b) for (_, lora_b), factor in terms], axis=0)
        found[path] = float(np.linalg.norm(_triangle(down) @ _triangle(up.T).T))
    return found


def weight_norms(model: nn.Module, paths: Sequence[str]) -> dict[str, float]:
    """Return the Frobenius norm of a base's own weights by module path.

    Quantised modules are left out: their weights are not numbers that could be added to.

    Args:
        model: The pristine base.
        paths: Which of its linear layers.
    """
    modules = dict(model.named_modules())
    found = {}
    for path in paths:
        module = modules.get(path)
        if module is not None and not isinstance(module, nn.QuantizedLinear):
            rows = mx.linalg.norm(module.weight.astype(mx.float32), axis=1)
            found[path] = float(np.linalg.norm(_wide(rows)))
    return found


def _wide(array: mx.array) -> Matrix:
    return np.asarray(array.astype(mx.float32)).astype(np.float64)


def _triangle(matrix: Matrix) -> Matrix:
    """Return R of a QR decomposition: it has the matrix's norms, and its width squared numbers."""
    triangle: Any = np.linalg.qr(matrix, mode="r")  # numpy's stub knows only the mode with Q
    return triangle
