"""Linear layers that read one input, as one matrix product, each with its adapter."""

import itertools
from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

Factors = Mapping[str, tuple[mx.array, mx.array]]
"""By module path: ``lora_a`` float32 (in_dims, rank) and ``lora_b`` float32 (rank, out_dims)."""


class Joined:
    """The frozen linear layers of one input: q, k and v, or gate and up, or one alone.

    Their weights are put side by side in memory, and the layers given views of that memory, so
    the model they belong to stays whole and nothing is held twice.
    """

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        """Take linear layers by their module paths."""
        self.paths = tuple(linears)
        self._linears = tuple(linears.values())
        self._sizes = [int(weight_of(linear).shape[0]) for linear in self._linears]
        self._whole = _join(self._linears, self._sizes)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """Map (tokens, in_dims) to one (tokens, out_dims) a layer."""
        if self._whole is None:
            return [linear(x) for linear in self._linears]
        return _split(self._whole(x), self._sizes)

    def adapted(
        self, x: mx.array, factors: Factors, scale: float, read: mx.array | None = None
    ) -> list[mx.array]:
        """Add each layer's low-rank change: linear(x) + scale · (x A) B.

        Args:
            x: The input, (tokens, in_dims).
            factors: By path; a layer without any is left as it is.
            scale: Multiplier of the change.
            read: What the adapters see instead of x, where dropout is on.
        """
        outputs = self(x)
        chosen = [i for i, path in enumerate(self.paths) if path in factors]
        if not chosen:
            return outputs
        # In the activations' type: a float32 copy of x would cost more than it gives.
        downs = [factors[self.paths[i]][0].astype(x.dtype) for i in chosen]
        ups = [factors[self.paths[i]][1].astype(x.dtype) for i in chosen]
        narrow = (x if read is None else read) @ mx.concatenate(downs, axis=1)
        parts = _split(scale * narrow, [down.shape[1] for down in downs])
        for i, part, up in zip(chosen, parts, ups, strict=True):
            outputs[i] = mx.addmm(outputs[i], part, up)
        return outputs


def weight_of(linear: nn.Module) -> mx.array:
    """Return a linear layer's weight, (out_dims, ...), also where it is wrapped."""
    while "linear" in linear:  # see continual/fold.py
        linear = linear["linear"]
    return linear["weight"]


def _split(x: mx.array, sizes: Sequence[int], axis: int = -1) -> list[mx.array]:
    """Cut an axis into parts; the gradient of a split is one concatenation."""
    bounds = list(itertools.accumulate(sizes))[:-1]
    return list(mx.split(x, bounds, axis=axis)) if bounds else [x]


def _join(linears: Sequence[nn.Module], sizes: Sequence[int]) -> nn.Module | None:
    """Return one layer that stands for all, or None where their weights differ in form."""
    first = linears[0]
    if len(linears) == 1:
        return first
    plain = all(type(linear) in (nn.Linear, nn.QuantizedLinear) for linear in linears)
    if not plain or len(set(map(_form, linears))) > 1:
        return None
    whole = first.__class__.__new__(first.__class__)
    nn.Module.__init__(whole)
    vars(whole).update({k: v for k, v in vars(first).items() if k in _QUANTISED})
    for name in first:
        whole[name] = mx.concatenate([linear[name] for linear in linears], axis=0)
        views = _split(whole[name], sizes, axis=0)
        for linear, view in zip(linears, views, strict=True):
            linear[name] = view
        mx.eval(whole[name], views)
    return whole


_QUANTISED = ("group_size", "bits", "mode")


def _form(linear: nn.Module) -> tuple[object, ...]:
    """Return what must agree for two layers' weights to lie side by side."""
    arrays = tuple((name, linear[name].dtype, linear[name].shape[1:]) for name in sorted(linear))
    return (type(linear), *arrays, *(getattr(linear, name, None) for name in _QUANTISED))
