"""The forward pass of a known architecture over packed rows, as a function of adapter factors.

Nothing of the model is patched: the factors are arguments, so a step can be compiled, checkpointed
and repeated bit for bit.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.models import runtime
from mlx_tune.training.activations import softmax, swiglu
from mlx_tune.training.adapter import Factors, base_layer
from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.layout import Layout
from mlx_tune.training.loss import Head, bounded_cross_entropy, bounded_divergence

# Architectures that are embed → layers → norm → head, with nothing scaled or capped in between.
_PACKABLE = frozenset({"llama", "qwen2", "qwen3"})
_ROPES = frozenset({"RoPE", "Llama3RoPE", "YarnRoPE", "SuScaledRoPE"})
_ADAPTER_INPUTS = 4  # of a layer: of q, k and v; of o; of gate and up; of down


def can_pack(model: nn.Module) -> bool:
    """Return whether :class:`PackedForward` knows the architecture of this model."""
    if type(model).__module__.rpartition(".")[2] not in _PACKABLE:
        return False
    # mlx-lm's DynamicNTKScalingRoPE depends on the length of the text, so no prefix can be shared.
    return all(type(layer.self_attn.rope).__name__ in _ROPES for layer in model.layers)


def will_pack(config: Mapping[str, Any]) -> bool:
    """Return what :func:`can_pack` will return for the model of this config.json once loaded."""
    rope = config.get("rope_scaling") or {}
    dynamic = "dynamic" in (rope.get("type"), rope.get("rope_type"))
    # mlx-lm loads a Mistral as a Llama.
    return config.get("model_type") in _PACKABLE | {"mistral"} and not dynamic


class PackedForward:
    """A network over packed rows, as a function of the factors of its adapter."""

    shares_prefix = True

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        checkpoint_layers: int = 0,
        loss_chunk: int | None = None,
    ) -> None:
        """Wrap a model for which :func:`can_pack` is true; the model itself still works.

        Args:
            model: An mlx-lm language model, frozen.
            scale: Multiplier of the adapter's product.
            dropout: Fraction of the adapter's inputs set to zero in training, 0 to 1.
            checkpoint_layers: How many layers, the first ones, recompute their activations in the
                backward pass.
            loss_chunk: Tokens whose logits are in memory at once; None for all.
        """
        inner = model.model
        paths = {id(module): path for path, module in model.named_modules()}
        self._embed, self._norm = inner.embed_tokens, inner.norm
        self._head = Head(model.get("lm_head", inner.embed_tokens))
        window = getattr(inner, "sliding_window", None)
        self._layers = [
            _Layer(layer, paths[id(layer)], scale=scale, dropout=dropout, window=window)
            for layer in inner.layers
        ]
        self._dropout, self._checkpoint_layers = dropout, checkpoint_layers
        self._loss_chunk = loss_chunk

    def logits(self, factors: Factors, batch: MicroBatch) -> mx.array:
        """Return the logits at each supervised position, float32 (supervised, vocabulary)."""
        return self._head(self._hidden(factors, batch, None)).astype(mx.float32)

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of cross-entropies, and each; see :class:`Network`."""
        hidden = self._hidden(factors, batch, key)
        return bounded_cross_entropy(
            self._head, hidden, batch.targets, batch.weights, chunk=self._loss_chunk
        )

    def divergence(
        self, teacher: Factors, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of divergences from a teacher; see :class:`Network`."""
        return bounded_divergence(
            self._head,
            mx.stop_gradient(self._hidden(teacher, batch, None)),
            self._hidden(factors, batch, key),
            batch.targets,
            batch.weights,
            chunk=self._loss_chunk,
        )

    def _hidden(self, factors: Factors, batch: MicroBatch, key: mx.array | None) -> mx.array:
        """Return the normed last hidden states at the supervised positions, (supervised, dims)."""
        hidden = self._embed(batch.tokens)
        keys: Sequence[mx.array | None] = [None] * len(self._layers)
        if key is not None and self._dropout:
            keys = list(mx.random.split(key, len(self._layers)))
        for i, (layer, own) in enumerate(zip(self._layers, keys, strict=True)):
            checkpoint = i < self._checkpoint_layers
            hidden = layer(hidden, factors, batch.layout, own, checkpoint=checkpoint)
        return self._norm(hidden[batch.positions])


class _Layer:
    """A transformer layer: attention and SwiGLU, each with a norm before and a residual after."""

    def __init__(
        self, layer: nn.Module, path: str, *, scale: float, dropout: float, window: int | None
    ) -> None:
        def fused(parent: str, *names: str) -> FusedLinear:
            return FusedLinear({f"{path}.{parent}.{name}": layer[parent][name] for name in names})

        self._layer, self._scale, self._dropout = layer, scale, dropout
        self._window = window if getattr(layer, "use_sliding", False) else None
        self._qkv = fused("self_attn", "q_proj", "k_proj", "v_proj")
        self._o = fused("self_attn", "o_proj")
        self._gate_up = fused("mlp", "gate_proj", "up_proj")
        self._down = fused("mlp", "down_proj")
        linears = (self._qkv, self._o, self._gate_up, self._down)
        self._paths = [path for linear in linears for path in linear.paths]

    def __call__(
        self,
        hidden: mx.array,
        factors: Factors,
        layout: Layout,
        key: mx.array | None,
        *,
        checkpoint: bool,
    ) -> mx.array:
        """Map hidden states (tokens, dims) to hidden states (tokens, dims)."""
        keys: Sequence[mx.array | None] = [None] * _ADAPTER_INPUTS
        if key is not None:
            keys = list(mx.random.split(key, _ADAPTER_INPUTS))

        def call(hidden: mx.array, own: Factors) -> mx.array:
            return self._call(hidden, own, layout, keys)

        # The factors are an argument, because mx.checkpoint does not differentiate captured arrays.
        own = {path: factors[path] for path in self._paths if path in factors}
        return mx.checkpoint(call)(hidden, own) if checkpoint else call(hidden, own)

    def _call(
        self, hidden: mx.array, factors: Factors, layout: Layout, keys: Sequence[mx.array | None]
    ) -> mx.array:
        def product(linear: FusedLinear, x: mx.array, key: mx.array | None) -> list[mx.array]:
            return linear.with_adapter(x, factors, self._scale, self._dropped(x, key))

        qkv = product(self._qkv, self._layer.input_layernorm(hidden), keys[0])
        hidden = hidden + product(self._o, self._attend(qkv, layout), keys[1])[0]
        gate, up = product(self._gate_up, self._layer.post_attention_layernorm(hidden), keys[2])
        activated: Any = swiglu(gate, up)
        return hidden + product(self._down, activated, keys[3])[0]

    def _dropped(self, x: mx.array, key: mx.array | None) -> mx.array | None:
        """Return x after dropout; None without dropout."""
        if key is None or not self._dropout:
            return None
        # With an explicit key: mx.checkpoint would draw another mask from the global state, and a
        # compiled step would always draw the same.
        kept = mx.random.bernoulli(1 - self._dropout, x.shape, key=key)
        return x * (kept / (1 - self._dropout)).astype(x.dtype)

    def _attend(self, qkv: Sequence[mx.array], layout: Layout) -> mx.array:
        """Attend within rows: q, k and v (tokens, heads · head_dim) to (tokens, dims)."""
        module = self._layer.self_attn
        q = layout.queries(qkv[0], module.n_heads)
        k, v = (layout.keys(array, module.n_kv_heads) for array in qkv[1:])
        if "q_norm" in module:
            q, k = module.q_norm(q), module.k_norm(k)
        q, k = module.rope(q, offset=layout.offsets()), module.rope(k)
        grid = attention(q, k, v, scale=module.scale, bias=layout.bias(self._window))
        return layout.flat(grid)


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, bias: mx.array) -> mx.array:
    """Return scaled dot-product attention with grouped queries.

    Args:
        q: (lines, heads, queries, head_dim).
        k: (lines, kv_heads, keys, head_dim).
        v: (lines, kv_heads, keys, head_dim).
        scale: Multiplier of the scores.
        bias: Additive mask, float32 (lines, 1, queries, keys).

    Returns:
        (lines, heads, queries, head_dim).
    """
    if runtime.on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=bias.astype(q.dtype))
    lines, heads, queries, dims = q.shape
    groups = k.shape[1]
    # The heads of a group share keys and values, so their queries are one matrix with more rows.
    grouped = (q * scale).reshape(lines, groups, heads // groups * queries, dims)
    scores = (grouped @ k.swapaxes(-1, -2)).reshape(lines, heads, queries, -1).astype(mx.float32)
    probabilities = softmax(scores + bias).astype(v.dtype)
    by_group = probabilities.reshape(lines, groups, heads // groups * queries, -1)
    return (by_group @ v).reshape(q.shape)


class FusedLinear:
    """The frozen linear layers of one input as one matrix product: q, k and v; gate and up; or one.

    Their weights are concatenated, and the layers get views of the result, so the model they belong
    to still works and no weight is in memory twice.
    """

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        """Fuse linear layers, given by their module paths."""
        self.paths = tuple(linears)
        self._linears = tuple(linears.values())
        self._sizes = [int(base_layer(linear).weight.shape[0]) for linear in self._linears]
        self._fused = _fuse(self._linears, self._sizes)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """Map (tokens, in_dims) to (tokens, out_dims) for each layer."""
        if self._fused is None:
            return [linear(x) for linear in self._linears]
        return _split(self._fused(x), self._sizes)

    def with_adapter(
        self, x: mx.array, factors: Factors, scale: float, dropped: mx.array | None = None
    ) -> list[mx.array]:
        """Return linear(x) + scale · (x A) B for each layer.

        Args:
            x: The input, (tokens, in_dims).
            factors: A and B by module path; a layer without factors is not adapted.
            scale: Multiplier of the low-rank product.
            dropped: The adapters' input after dropout, (tokens, in_dims); None for x.

        Returns:
            (tokens, out_dims) for each layer.
        """
        outputs = self(x)
        chosen = [i for i, path in enumerate(self.paths) if path in factors]
        if not chosen:
            return outputs
        # In the type of the activations: a float32 copy of x would cost more than it is worth.
        downs = [factors[self.paths[i]][0].astype(x.dtype) for i in chosen]
        ups = [factors[self.paths[i]][1].astype(x.dtype) for i in chosen]
        products = (x if dropped is None else dropped) @ mx.concatenate(downs, axis=1)
        parts = _split(scale * products, [down.shape[1] for down in downs])
        for i, part, up in zip(chosen, parts, ups, strict=True):
            outputs[i] = mx.addmm(outputs[i], part, up)
        return outputs


_QUANTISATION = ("group_size", "bits", "mode")


def _fuse(linears: Sequence[nn.Module], sizes: Sequence[int]) -> nn.Module | None:
    """Return one layer that computes all, or None where their weights cannot be concatenated."""
    first = linears[0]
    if len(linears) == 1:
        return first
    wrapped = any(type(linear) not in (nn.Linear, nn.QuantizedLinear) for linear in linears)
    if wrapped or len(set(map(_form, linears))) > 1:
        return None
    fused = first.__class__.__new__(first.__class__)
    nn.Module.__init__(fused)
    vars(fused).update({k: v for k, v in vars(first).items() if k in _QUANTISATION})
    for name in first:
        fused[name] = mx.concatenate([linear[name] for linear in linears], axis=0)
        views = _split(fused[name], sizes, axis=0)
        for linear, view in zip(linears, views, strict=True):
            linear[name] = view
        mx.eval(fused[name], views)
    return fused


def _form(linear: nn.Module) -> tuple[object, ...]:
    """Return what has to be equal for the weights of two layers to be concatenated."""
    arrays = tuple((name, linear[name].dtype, linear[name].shape[1:]) for name in sorted(linear))
    return (type(linear), *arrays, *(getattr(linear, name, None) for name in _QUANTISATION))


def _split(x: mx.array, sizes: Sequence[int], axis: int = -1) -> list[mx.array]:
    """Split an axis into parts of these sizes; the gradient of a split is one concatenation."""
    bounds = list(itertools.accumulate(sizes))[:-1]
    return list(mx.split(x, bounds, axis=axis)) if bounds else [x]
