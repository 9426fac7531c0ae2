"""The memory a training needs, predicted before anything is loaded, and settings that fit.

The terms count the arrays that the engine keeps; two constants beside them were measured
(docs/performance.md). Predicted is ``mx.get_peak_memory`` while steps are taken.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlx_tune.data.tokenise import Example
from mlx_tune.models import runtime
from mlx_tune.training.batches import Batches
from mlx_tune.training.config import TrainingConfig
from mlx_tune.training.packed import will_pack
from mlx_tune.training.shapes import Shape

# MLX computes about one layer, or one chunk of the loss, ahead of what it has freed.
_AHEAD = 2
# Arrays of (tokens, intermediate) in memory while the gradients of one layer are computed.
_LAYER_ARRAYS = 8.4
# Arrays of (chunk, vocabulary) in memory while the loss, or the divergence, of a chunk is computed.
_LOSS_ARRAYS, _DIVERGENCE_ARRAYS = 7, 15
# Rows of a chunk of the loss: with more the head's product is no faster, and memory grows.
_CHUNK_ROWS_CPU, _CHUNK_ROWS_GPU = 64, 256
_LEAST_CACHE_BYTES = 64 << 20
_FREE_SHARE = 0.1  # of the memory: for all other programs, and where a prediction is too low


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of an architecture that memory depends on.

    Attributes:
        layers: Transformer layers.
        hidden: Width of a hidden state.
        intermediate: Width inside the MLP.
        heads: Heads of the queries.
        kv_heads: Heads of the keys and values.
        head_dim: Width of one head.
        vocabulary: Tokens of the vocabulary.
        weights_bytes: Size of all weights in memory.
        activation_bytes: Size of one activation: 4, or 2 on a GPU.
        is_packed: Whether the network computes packed rows, layer by layer.
        chain_bytes: Size of the earlier adapters that are kept beside the weights.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    weights_bytes: int
    activation_bytes: int
    is_packed: bool
    chain_bytes: int = 0

    @staticmethod
    def of(config: Mapping[str, Any], *, weights_bytes: int, activation_bytes: int) -> "Dimensions":
        """Return the sizes in a model's config.json; sizes it lacks are derived as in a Llama."""
        is_packed = will_pack(config)
        config = {**config, **(config.get("text_config") or {})}
        hidden, heads = int(config["hidden_size"]), int(config.get("num_attention_heads") or 1)
        return Dimensions(
            layers=int(config.get("num_hidden_layers") or 1),
            hidden=hidden,
            intermediate=int(config.get("intermediate_size") or 4 * hidden),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config.get("vocab_size") or 0),
            weights_bytes=weights_bytes,
            activation_bytes=activation_bytes,
            is_packed=is_packed,
        )

    def adapter_numbers(self, rank: int) -> int:
        """Return the number of parameters of an adapter for all seven projections."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + query) + 2 * (self.hidden + key)
        ends += 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of a training at its peak, by what it is used for, and the limit.

    Attributes:
        weights_bytes: The base's weights.
        chain_bytes: The earlier adapters that are kept beside the weights.
        adapter_bytes: The adapter, both moments of the optimizer, and gradients.
        activations_bytes: Activations kept for the backward pass, and working memory of a layer.
        loss_bytes: Logits of a chunk of the loss.
        cache_bytes: Freed memory that MLX may keep to use it again.
        limit_bytes: Memory that the machine has for a training.
    """

    weights_bytes: int
    chain_bytes: int
    adapter_bytes: int
    activations_bytes: int
    loss_bytes: int
    cache_bytes: int
    limit_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The predicted peak of memory in use, without MLX's cache."""
        kept = self.weights_bytes + self.chain_bytes + self.adapter_bytes
        return kept + self.activations_bytes + self.loss_bytes

    @property
    def fits(self) -> bool:
        """Whether the peak is within the limit; the cache is made as small as it has to be."""
        return self.peak_bytes <= self.limit_bytes


def limit_bytes() -> int:
    """Return the memory a training may use: 90 % of a GPU's limit, or of the machine's memory."""
    return int(runtime.memory_bytes() * (1 - _FREE_SHARE))


def loss_chunk() -> int:
    """Return the number of tokens whose logits to hold at once on this device."""
    return _CHUNK_ROWS_GPU if runtime.on_gpu() else _CHUNK_ROWS_CPU


def predict(
    model: Dimensions, config: TrainingConfig, shapes: Iterable[Shape], limit: int
) -> MemoryPlan:
    """Return the memory of a training.

    Args:
        model: The sizes of the architecture.
        config: The configuration of the training.
        shapes: The padded shapes of its micro-batches.
        limit: Memory that the machine has for it, bytes.
    """
    adapter = model.adapter_numbers(config.rank) * 4
    gradients = adapter * (1 + (config.grad_accumulation > 1))
    activations, loss = max((_of_micro_batch(model, config, shape) for shape in shapes), key=sum)
    # During an update the old factors and moments are in memory beside the new ones.
    activations = max(activations, 3 * adapter - loss)
    kept = model.weights_bytes + model.chain_bytes + 3 * adapter + gradients
    peak = kept + activations + loss
    return MemoryPlan(
        weights_bytes=model.weights_bytes,
        chain_bytes=model.chain_bytes,
        adapter_bytes=3 * adapter + gradients,
        activations_bytes=activations,
        loss_bytes=loss,
        cache_bytes=max(0, min(max(activations // 2, _LEAST_CACHE_BYTES), limit - peak)),
        limit_bytes=limit,
    )


def fit(
    model: Dimensions,
    config: TrainingConfig,
    examples: Sequence[Example],
    limit: int,
    *,
    fixed: frozenset[str] = frozenset(),
) -> tuple[TrainingConfig, MemoryPlan, Batches]:
    """Return the nearest configuration that fits, or the smallest where none does.

    First, as few layers as necessary recompute their activations in the backward pass; then the
    micro-batches are halved, and their number doubled.

    Args:
        model: The sizes of the architecture.
        config: The configuration to start from.
        examples: The tokenised rows.
        limit: Memory that the machine has for a training, bytes.
        fixed: Names of settings that must not change.

    Returns:
        The configuration, the memory it needs, and its micro-batches.
    """
    while True:
        batches = config.batches(examples, share_prefix=model.is_packed)
        shapes = set(batches.shapes.values())
        found = _fewest_checkpoints(model, config, shapes, limit, fixed)
        plan = predict(model, found, shapes, limit)
        if plan.fits or config.batch_size == 1 or {"batch_size", "grad_accumulation"} & fixed:
            return found, plan, batches
        rows = config.effective_batch  # does not change, also where it is odd
        half = next(size for size in range(config.batch_size // 2, 0, -1) if rows % size == 0)
        config = replace(config, batch_size=half, grad_accumulation=rows // half)


def _fewest_checkpoints(
    model: Dimensions,
    config: TrainingConfig,
    shapes: Collection[Shape],
    limit: int,
    fixed: frozenset[str],
) -> TrainingConfig:
    if "checkpoint_layers" in fixed or not model.is_packed:
        return config
    options = (replace(config, checkpoint_layers=k) for k in range(model.layers + 1))
    fitting = (option for option in options if predict(model, option, shapes, limit).fits)
    return next(fitting, replace(config, checkpoint_layers=model.layers))


def _of_micro_batch(model: Dimensions, config: TrainingConfig, shape: Shape) -> tuple[int, int]:
    """Return the bytes of activations and of logits at the peak of one micro-batch."""
    wide = shape.tokens * model.intermediate * model.activation_bytes
    arrays = _DIVERGENCE_ARRAYS if config.distils else _LOSS_ARRAYS
    by_layer = _kept_by_layer(model, config.rank, shape)
    if not model.is_packed:  # padded rows, all layers kept, all logits
        return model.layers * by_layer, arrays * shape.rows * shape.width * model.vocabulary * 4
    recomputed_layers = min(config.checkpoint_layers, model.layers)
    states = recomputed_layers * shape.tokens * model.hidden * model.activation_bytes
    kept = (model.layers - recomputed_layers) * by_layer + states
    chunk = min(shape.supervised, _AHEAD * (config.loss_chunk or shape.supervised))
    loss = arrays * chunk * model.vocabulary * 4
    working = int(_AHEAD * _LAYER_ARRAYS * wide)
    # The peak is at one of three moments: the loss; the gradients of the last layers; or those of
    # the first layers, which are recomputed when all that was kept is freed.
    recomputed = states + working + _AHEAD * by_layer if recomputed_layers else 0
    return max((kept, loss), (kept + working, 0), (recomputed, 0), key=sum)


def _kept_by_layer(model: Dimensions, rank: int, shape: Shape) -> int:
    """Return the bytes of the activations that one layer keeps for its backward pass."""
    query = model.heads * model.head_dim
    lines = shape.rows + (shape.prefix > 0)
    keys = shape.prefix + shape.width
    # The hidden state and its norm, before attention and before the MLP; the output of attention;
    # gate, up and their product; the low-rank products of the adapters.
    flat = shape.tokens * (4 * model.hidden + query + 3 * model.intermediate + 7 * rank)
    grid = lines * model.head_dim * (model.heads * shape.width + 2 * model.kv_heads * keys)
    scores = lines * model.heads * shape.width * keys
    return (flat + grid + scores) * model.activation_bytes


@contextlib.contextmanager
def limits_of_a_run(cache_bytes: int, *, wired_bytes: int = 0) -> Iterator[None]:
    """Set MLX's memory limits for a run, and restore the limits of before.

    Args:
        cache_bytes: Freed memory that MLX may keep. MLX's default is 32 MB on a CPU, where
            requesting pages from the system again takes a third of the time, and no limit on a GPU.
        wired_bytes: Memory that a GPU keeps from being paged out; 0 to leave that limit alone.
    """
    mx.reset_peak_memory()
    cache = mx.set_cache_limit(cache_bytes)
    wired = mx.set_wired_limit(wired_bytes) if wired_bytes and runtime.on_gpu() else None
    try:
        yield
    finally:
        mx.set_cache_limit(cache)
        if wired is not None:
            mx.set_wired_limit(wired)
