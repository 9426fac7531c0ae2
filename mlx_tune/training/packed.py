"""Linear layers that read one input, as one matrix product, each with its adapter."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_tune.models import runtime
from mlx_tune.training.arithmetic import softmax, swiglu
from mlx_tune.training.batches import MicroBatch
from mlx_tune.training.layout import Layout
from mlx_tune.training.loss import Head, bounded_cross_entropy, bounded_divergence

Factors = Mapping[str, tuple[mx.array, mx.array]]
"""By module path: ``lora_a`` float32 (in_dims, rank) and ``lora_b`` float32 (rank, out_dims)."""


class FusedLinear:
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


# Networks that are embed → layers → norm → head with nothing scaled or capped in between.
_PACKABLE = frozenset({"llama", "qwen2", "qwen3"})
_ROPES = frozenset({"RoPE", "Llama3RoPE", "YarnRoPE", "SuScaledRoPE"})
_SITES = 4  # inputs that adapters read in a layer: of q k v, of o, of gate and up, of down


def can_pack(model: nn.Module) -> bool:
    """Tell whether this network can be walked layer by layer; others are called as a whole."""
    if type(model).__module__.rpartition(".")[2] not in _PACKABLE:
        return False
    # mlx-lm's DynamicNTKScalingRoPE turns by the length of the text: no prefix is like another.
    return all(type(layer.self_attn.rope).__name__ in _ROPES for layer in model.layers)


def will_pack(config: Mapping[str, Any]) -> bool:
    """Tell from a model's config.json what :func:`can_walk` will say once it is loaded."""
    rope = config.get("rope_scaling") or {}
    dynamic = "dynamic" in (rope.get("type"), rope.get("rope_type"))
    # mlx-lm loads a Mistral as a Llama.
    return config.get("model_type") in _PACKABLE | {"mistral"} and not dynamic


class PackedForward:
    """A network seen as a function of its adapter's factors."""

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
        """Take a model for which :func:`can_walk` is true; it stays whole.

        Args:
            model: An mlx-lm language model, frozen.
            scale: Multiplier of the adapter's product.
            dropout: Share of the adapter's inputs set to zero in training.
            checkpoint_layers: How many layers, the first ones, are computed again in the backward
                pass instead of being kept.
            loss_chunk: Tokens whose logits are held at once; None for all.
        """
        inner = model.model
        paths = {id(module): path for path, module in model.named_modules()}
        self._embed, self._norm = inner.embed_tokens, inner.norm
        self._head = Head(model.get("lm_head", inner.embed_tokens))
        window = getattr(inner, "sliding_window", None)
        self._blocks = [
            Block(layer, paths[id(layer)], scale=scale, dropout=dropout, window=window)
            for layer in inner.layers
        ]
        self._dropout, self._checkpoint_layers = dropout, checkpoint_layers
        self._loss_chunk = loss_chunk

    def logits(self, factors: Factors, batch: MicroBatch) -> mx.array:
        """Return what follows each supervised position, float32 (supervised, vocabulary)."""
        return self._head(self._hidden(factors, batch, None)).astype(mx.float32)

    def loss(
        self, factors: Factors, batch: MicroBatch, key: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the cross-entropies' weighted sum, float32 (), and each, float32 (supervised,).

        Args:
            factors: What is trained.
            batch: The rows.
            key: Of the dropout's masks; None leaves nothing out.
        """
        hidden = self._hidden(factors, batch, key)
        return bounded_cross_entropy(
            self._head, hidden, batch.targets, batch.weights, chunk=self._loss_chunk
        )

    def divergence(
        self,
        teacher: Factors,
        factors: Factors,
        batch: MicroBatch,
        key: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Return the weighted sum of divergences from a teacher, and each cross-entropy.

        Args:
            teacher: The factors that make the network its own teacher.
            factors: What is trained.
            batch: The rows.
            key: Of the dropout's masks, which the teacher has none of.
        """
        wanted = mx.stop_gradient(self._hidden(teacher, batch, None))
        return bounded_divergence(
            self._head,
            wanted,
            self._hidden(factors, batch, key),
            batch.targets,
            batch.weights,
            chunk=self._loss_chunk,
        )

    def _hidden(self, factors: Factors, batch: MicroBatch, key: mx.array | None) -> mx.array:
        """Return the normed last states at the supervised positions, (supervised, dims)."""
        hidden = self._embed(batch.tokens)
        keys: Sequence[mx.array | None] = [None] * len(self._blocks)
        if key is not None and self._dropout:
            keys = list(mx.random.split(key, len(self._blocks)))
        for i, (block, own) in enumerate(zip(self._blocks, keys, strict=True)):
            hidden = block(
                hidden, factors, batch.layout, own, checkpoint=i < self._checkpoint_layers
            )
        return self._norm(hidden[batch.positions])


class Block:
    """One layer: attention and SwiGLU, each normed before and added after."""

    def __init__(
        self, layer: nn.Module, path: str, *, scale: float, dropout: float, window: int | None
    ) -> None:
        def joined(parent: str, *names: str) -> FusedLinear:
            return FusedLinear({f"{path}.{parent}.{name}": layer[parent][name] for name in names})

        self._layer, self._scale, self._dropout = layer, scale, dropout
        self._window = window if getattr(layer, "use_sliding", False) else None
        self._qkv = joined("self_attn", "q_proj", "k_proj", "v_proj")
        self._o = joined("self_attn", "o_proj")
        self._gate_up = joined("mlp", "gate_proj", "up_proj")
        self._down = joined("mlp", "down_proj")
        products = (self._qkv, self._o, self._gate_up, self._down)
        self._paths = [path for product in products for path in product.paths]

    def __call__(
        self,
        hidden: mx.array,
        factors: Factors,
        layout: Layout,
        key: mx.array | None,
        *,
        checkpoint: bool,
    ) -> mx.array:
        """Map (tokens, dims) to the same."""
        keys: Sequence[mx.array | None] = [None] * _SITES
        if key is not None:
            keys = list(mx.random.split(key, _SITES))

        def call(hidden: mx.array, own: Factors) -> mx.array:
            return self._call(hidden, own, layout, keys)

        # What is differentiated is an argument: mx.checkpoint sees no captured array. And the
        # wrapper lives for this call alone: nothing is patched, so it cannot outlive it nor nest.
        own = {path: factors[path] for path in self._paths if path in factors}
        return mx.checkpoint(call)(hidden, own) if checkpoint else call(hidden, own)

    def _call(
        self, hidden: mx.array, factors: Factors, layout: Layout, keys: Sequence[mx.array | None]
    ) -> mx.array:
        def product(joined: FusedLinear, x: mx.array, key: mx.array | None) -> list[mx.array]:
            return joined.adapted(x, factors, self._scale, self._dropped(x, key))

        flat = product(self._qkv, self._layer.input_layernorm(hidden), keys[0])
        mixed = self._attend(flat, layout)
        hidden = hidden + product(self._o, mixed, keys[1])[0]
        gate, up = product(self._gate_up, self._layer.post_attention_layernorm(hidden), keys[2])
        activated: Any = swiglu(gate, up)
        return hidden + product(self._down, activated, keys[3])[0]

    def _dropped(self, x: mx.array, key: mx.array | None) -> mx.array | None:
        """Set a share of x to zero and raise the rest to make up for it."""
        if key is None or not self._dropout:
            return None
        # An explicit key: mx.checkpoint would draw an implicit mask anew, and a compiled step
        # would never draw another.
        kept = mx.random.bernoulli(1 - self._dropout, x.shape, key=key)
        return x * (kept / (1 - self._dropout)).astype(x.dtype)

    def _attend(self, qkv: Sequence[mx.array], layout: Layout) -> mx.array:
        """Mix values within each row: q, k, v of (tokens, heads · head_dim) to (tokens, dims)."""
        module = self._layer.self_attn
        q = layout.queries(qkv[0], module.n_heads)
        k, v = (layout.keys(array, module.n_kv_heads) for array in qkv[1:])
        if "q_norm" in module:
            q, k = module.q_norm(q), module.k_norm(k)
        q, k = module.rope(q, offset=layout.offsets()), module.rope(k)
        mixed = attention(q, k, v, scale=module.scale, bias=layout.bias(self._window))
        return layout.flat(mixed)


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, bias: mx.array) -> mx.array:
    """Return scaled dot-product attention with grouped queries.

    Args:
        q: (lines, heads, queries, head_dim).
        k: (lines, kv_heads, keys, head_dim).
        v: Like k.
        scale: Multiplier of the scores.
        bias: Added to them, float32 (lines, 1, queries, keys).

    Returns:
        Like q.
    """
    if runtime.on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=bias.astype(q.dtype))
    lines, heads, queries, dims = q.shape
    groups = k.shape[1]
    # The heads of a group share keys and values, so their queries are one taller matrix.
    tall = (q * scale).reshape(lines, groups, heads // groups * queries, dims)
    scores = (tall @ k.swapaxes(-1, -2)).reshape(lines, heads, queries, -1).astype(mx.float32)
    shares = softmax(scores + bias).astype(v.dtype)
    return (shares.reshape(lines, groups, heads // groups * queries, -1) @ v).reshape(q.shape)
