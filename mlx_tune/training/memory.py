"""What a training needs in memory, reckoned before anything is loaded, and what makes it fit.

The terms count what the engine keeps, array by array; two constants beside them were measured
(docs/performance.md). Predictions are of ``mx.get_peak_memory`` while steps are taken.
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

# MLX computes ahead of what it has freed, about a layer, or a chunk of the loss, at a time.
_AHEAD = 2
# Arrays of (tokens, intermediate) that live while one layer's gradients are computed.
_LAYER_ARRAYS = 8.4
# Arrays of (chunk, vocabulary) that live while a chunk's loss is, and a chunk's divergence.
_LOSS_ARRAYS, _DIVERGENCE_ARRAYS = 7, 15
# The head's product wants rows, the memory few: above this it gains nothing on a CPU.
_CHUNK_ROWS_CPU, _CHUNK_ROWS_GPU = 64, 256
_LEAST_CACHE_BYTES = 64 << 20
_FREE_SHARE = 0.1  # of a machine without a GPU, left to everything else


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of an architecture that memory depends on.

    Attributes:
        layers: How many.
        hidden: Width of a state.
        intermediate: Width inside the MLP.
        heads: Of queries.
        kv_heads: Of keys and values.
        head_dim: Width of one.
        vocabulary: Words.
        weights_bytes: Of all weights as they are held.
        activation_bytes: Of one number that is computed: 4, or 2 on a GPU.
        walked: Whether the network is known layer by layer.
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
    walked: bool

    @staticmethod
    def of(config: Mapping[str, Any], *, weights_bytes: int, activation_bytes: int) -> "Dimensions":
        """Read a model's config.json; what it does not say is as in a Llama."""
        walked = will_pack(config)
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
            walked=walked,
        )

    def adapter_numbers(self, rank: int) -> int:
        """Return how many numbers an adapter of all seven projections trains."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + query) + 2 * (self.hidden + key)
        ends += 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where the bytes of a training go at its peak, and the limit they are held against.

    Attributes:
        weights_bytes: The base, as it is held.
        adapter_bytes: Factors, both moments of the optimizer, and gradients.
        activations_bytes: What layers keep for the backward pass, and work in.
        loss_bytes: Logits of a chunk.
        cache_bytes: What MLX may keep of what was freed, to use it again.
        limit_bytes: What the machine gives.
    """

    weights_bytes: int
    adapter_bytes: int
    activations_bytes: int
    loss_bytes: int
    cache_bytes: int
    limit_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The predicted peak of what is in use."""
        return self.weights_bytes + self.adapter_bytes + self.activations_bytes + self.loss_bytes

    @property
    def fits(self) -> bool:
        """Whether the machine has that much; a cache can be given up."""
        return self.peak_bytes <= self.limit_bytes


def limit_bytes() -> int:
    """Return the memory a training may use: a GPU's own limit, or the machine's less a tenth."""
    size = runtime.memory_bytes()
    return size if runtime.on_gpu() else int(size * (1 - _FREE_SHARE))


def loss_chunk() -> int:
    """Return how many tokens' logits are worth holding at once on this device."""
    return _CHUNK_ROWS_GPU if runtime.on_gpu() else _CHUNK_ROWS_CPU


def predict(
    model: Dimensions, config: TrainingConfig, shapes: Iterable[Shape], limit: int
) -> MemoryPlan:
    """Return where the bytes go in a training whose micro-batches have these shapes."""
    adapter = model.adapter_numbers(config.rank) * 4
    gradients = adapter * (1 + (config.grad_accumulation > 1))
    activations, loss = max((_of_micro_batch(model, config, shape) for shape in shapes), key=sum)
    # In an update the factors and two moments are written while the old ones are still there.
    activations = max(activations, 3 * adapter - loss)
    peak = model.weights_bytes + 3 * adapter + gradients + activations + loss
    return MemoryPlan(
        weights_bytes=model.weights_bytes,
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
    """Return the settings nearest to those wanted that fit, or the smallest where none does.

    First layers are computed again in the backward pass, as few as need be; then micro-batches
    are halved, and their number doubled.

    Args:
        model: The architecture.
        config: As wanted.
        examples: The rows.
        limit: In bytes.
        fixed: Names of settings that somebody asked for; they stay.

    Returns:
        The settings, where their bytes go, and the micro-batches they make of the rows.
    """
    while True:
        batches = config.batches(examples, share_prefix=model.walked)
        shapes = set(batches.shapes.values())
        found = _fewest_checkpoints(model, config, shapes, limit, fixed)
        plan = predict(model, found, shapes, limit)
        if plan.fits or config.batch_size == 1 or {"batch_size", "grad_accumulation"} & fixed:
            return found, plan, batches
        rows = config.effective_batch  # stays what it is, also where half of it is no whole number
        half = next(size for size in range(config.batch_size // 2, 0, -1) if rows % size == 0)
        config = replace(config, batch_size=half, grad_accumulation=rows // half)


def _fewest_checkpoints(
    model: Dimensions,
    config: TrainingConfig,
    shapes: Collection[Shape],
    limit: int,
    fixed: frozenset[str],
) -> TrainingConfig:
    if "checkpoint_layers" in fixed or not model.walked:
        return config
    options = (replace(config, checkpoint_layers=k) for k in range(model.layers + 1))
    fitting = (option for option in options if predict(model, option, shapes, limit).fits)
    return next(fitting, replace(config, checkpoint_layers=model.layers))


def _of_micro_batch(model: Dimensions, config: TrainingConfig, shape: Shape) -> tuple[int, int]:
    """Return the bytes of activations and of logits when one micro-batch is at its peak."""
    wide = shape.tokens * model.intermediate * model.activation_bytes
    arrays = _DIVERGENCE_ARRAYS if config.distils else _LOSS_ARRAYS
    if not model.walked:  # padded rows, every layer kept, all logits, in two copies
        cells = shape.rows * shape.width
        kept = model.layers * _kept_by_layer(model, config.rank, shape)
        return kept, arrays * cells * model.vocabulary * 4
    again = min(config.checkpoint_layers, model.layers)
    by_layer = _kept_by_layer(model, config.rank, shape)
    states = again * shape.tokens * model.hidden * model.activation_bytes
    kept = (model.layers - again) * by_layer + states
    chunk = min(shape.supervised, _AHEAD * (config.loss_chunk or shape.supervised))
    loss = arrays * chunk * model.vocabulary * 4
    working = int(_AHEAD * _LAYER_ARRAYS * wide)
    # Three moments compete: the loss, the last layers' gradients, and, when all that was kept is
    # gone, those of the first layers, which are computed again.
    recomputed = states + working + _AHEAD * by_layer if again else 0
    return max((kept, loss), (kept + working, 0), (recomputed, 0), key=sum)


def _kept_by_layer(model: Dimensions, rank: int, shape: Shape) -> int:
    """Return the bytes of what one layer keeps for its backward pass."""
    query = model.heads * model.head_dim
    lines = shape.rows + (shape.prefix > 0)
    keys = shape.prefix + shape.width
    # State and its norm, before attention and before the MLP; the mixed values; gate, up and
    # their product; what adapters made narrow.
    flat = shape.tokens * (4 * model.hidden + query + 3 * model.intermediate + 7 * rank)
    grid = lines * model.head_dim * (model.heads * shape.width + 2 * model.kv_heads * keys)
    shares = lines * model.heads * shape.width * keys
    return (flat + grid + shares) * model.activation_bytes


@contextlib.contextmanager
def held_for_a_run(cache_bytes: int, *, wired_bytes: int = 0) -> Iterator[None]:
    """Set MLX's memory limits for a run, and put back what was there.

    Args:
        cache_bytes: What MLX may keep of freed memory. Its own limit is 32 MB on a CPU, where
            asking the system for pages again costs a third of the time, and none on a GPU.
        wired_bytes: What a GPU keeps from being paged out; 0 leaves that alone.
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
