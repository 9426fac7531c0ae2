"""Llama architectures by name: their dimensions, and what a training step has to multiply."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Dimensions of a Llama with tied embeddings.

    Attributes:
        layers: Transformer layers.
        hidden: Width.
        intermediate: Width of the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        vocabulary: Tokens.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: As in Hugging Face's config.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope_theta: float = 10000.0
    rope_scaling: dict[str, float | str] | None = None

    def config(self) -> dict[str, Any]:
        """Return it in Hugging Face's names."""
        return {
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
        }

    def projections(self) -> tuple[tuple[int, int], ...]:
        """Return (in_dims, out_dims) of the seven linear projections of one layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )

    def training_flops(self, *, computed_tokens: int, head_positions: int, rank: int) -> float:
        """Return the floating-point operations of LoRA training, forward and backward.

        A product of a token with an (in, out) matrix is 2·in·out operations. A frozen matrix
        takes part twice: forward, and in the gradient of its input. A LoRA factor takes part
        three times: also in its own gradient. The tied output head is frozen as well. Left out are
        norms, activations, and attention's products of queries with keys and values: for rows of
        220 tokens about 2 % of the work of "llama-3.2-3b", 10 % of that of "smollm2-135m".

        Args:
            computed_tokens: Tokens that went through the layers, padding counted.
            head_positions: Positions that logits were computed for.
            rank: Of the adapter on all seven projections.
        """
        frozen = self.layers * sum(i * o for i, o in self.projections())
        factors = self.layers * sum(rank * (i + o) for i, o in self.projections())
        head = self.hidden * self.vocabulary
        return computed_tokens * (4.0 * frozen + 6.0 * factors) + head_positions * 4.0 * head


SHAPES = {
    "llama-3.2-3b": Shape(
        layers=28, hidden=3072, intermediate=8192, heads=24, kv_heads=8, head_dim=128,
        vocabulary=128256, rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    ),
    "smollm2-135m": Shape(
        layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64,
        vocabulary=49152, rope_theta=100000.0,
    ),
    "tiny": Shape(
        layers=2, hidden=32, intermediate=64, heads=4, kv_heads=2, head_dim=8, vocabulary=96,
    ),
}  # fmt: skip
"""By name; "tiny" is for the tests."""
