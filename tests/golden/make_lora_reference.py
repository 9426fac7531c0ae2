"""Make the golden LoRA loss and gradients from Hugging Face transformers and PEFT on the CPU.

Run it in an environment of its own, since nothing else in the project needs these packages::

    python3 -m venv golden-venv
    golden-venv/bin/pip install torch==2.13.0
    golden-venv/bin/pip install transformers peft safetensors numpy
    golden-venv/bin/python tests/golden/make_lora_reference.py

The file kept beside this script was made with torch 2.13.0, transformers 5.23.0, peft 0.21.2,
safetensors 0.8.0 and numpy 2.4.6; its metadata repeats the first three.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20240607
LAYERS = 2
RANK = 4
ALPHA = 8
ROPE_THETA = 10000.0
WEIGHT_STD = 0.15
NORM_STD = 0.2
FACTOR_STD = 0.1
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)

SHARED_PREFIX = 6
PAD_TOKEN = 0
IGNORED_LABEL = -100
# Each row's length, and the half-open spans of its tokens that are supervised targets.
ROWS: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (17, ((10, 17),)),
    (9, ((8, 9),)),
    (23, ((8, 13), (18, 23))),
    (12, ((9, 12),)),
    (20, ((11, 18),)),
)

PEFT_PREFIX = "base_model.model."
FACTOR_SUFFIXES = {".lora_A.default.weight": ".lora_a", ".lora_B.default.weight": ".lora_b"}


class Batch(NamedTuple):
    """Right-padded rows: tokens, each row's length, and 1 where a token is a target."""

    tokens: Tensor
    lengths: Tensor
    supervised: Tensor


def draw_base_model(generator: torch.Generator) -> LlamaForCausalLM:
    """Build the tiny Llama and draw every weight from the generator."""
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        attention_bias=False,
        mlp_bias=False,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        raise RuntimeError("the output head is not tied to the embedding")
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = name.endswith("norm.weight")
            weight.copy_(1 + NORM_STD * noise if is_norm else WEIGHT_STD * noise)
    return model


def attach_lora(model: LlamaForCausalLM, generator: torch.Generator) -> PeftModel:
    """Wrap every projection in a PEFT LoRA whose two factors are both drawn non-zero."""
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(PROJECTIONS),
        bias="none",
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for factor in lora_factors(adapted).values():
            factor.copy_(FACTOR_STD * torch.randn(factor.shape, generator=generator))
    return adapted


def lora_factors(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters in name order, checking that they are the LoRA factors."""
    factors = {
        name: parameter
        for name, parameter in sorted(model.named_parameters())
        if parameter.requires_grad
    }
    expected = {
        f"{PEFT_PREFIX}model.layers.{layer}.{projection}{suffix}"
        for layer in range(LAYERS)
        for projection in PROJECTIONS
        for suffix in FACTOR_SUFFIXES
    }
    if set(factors) != expected:
        raise RuntimeError(f"unexpected trainable parameters: {sorted(factors)}")
    return factors


def mlx_name(peft_name: str) -> str:
    """Translate PEFT's name of a LoRA factor into mlx-lm's."""
    for suffix, replacement in FACTOR_SUFFIXES.items():
        if peft_name.startswith(PEFT_PREFIX) and peft_name.endswith(suffix):
            return peft_name.removeprefix(PEFT_PREFIX).removesuffix(suffix) + replacement
    raise ValueError(f"not a LoRA factor: {peft_name}")


def draw_batch(vocab_size: int, generator: torch.Generator) -> Batch:
    """Draw rows of different lengths that share exactly their first few tokens."""
    longest = max(length for length, _ in ROWS)
    tokens = torch.full((len(ROWS), longest), PAD_TOKEN, dtype=torch.int32)
    supervised = torch.zeros_like(tokens)

    def draw(count: int) -> Tensor:
        return torch.randint(1, vocab_size, (count,), generator=generator, dtype=torch.int32)

    prefix = draw(SHARED_PREFIX)
    for row, (length, spans) in enumerate(ROWS):
        tokens[row, :SHARED_PREFIX] = prefix
        tokens[row, SHARED_PREFIX:length] = draw(length - SHARED_PREFIX)
        for start, end in spans:
            supervised[row, start:end] = 1
    if len(set(tokens[:, SHARED_PREFIX].tolist())) != len(ROWS):
        raise RuntimeError("two rows share more than the common prefix; choose another seed")
    lengths = torch.tensor([length for length, _ in ROWS], dtype=torch.int32)
    return Batch(tokens, lengths, supervised)


def forward_backward(model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mean loss per supervised token and the logits, leaving gradients on the model."""
    tokens = batch.tokens.long()
    mask = (torch.arange(tokens.shape[1]) < batch.lengths[:, None]).long()
    labels = tokens.masked_fill(batch.supervised == 0, IGNORED_LABEL)
    output = model(input_ids=tokens, attention_mask=mask, labels=labels)
    total = functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    loss = total / batch.supervised.sum()
    if not math.isclose(loss.item(), output.loss.item(), rel_tol=1e-6):
        raise RuntimeError(f"loss {loss.item()} differs from the model's {output.loss.item()}")
    loss.backward()
    return loss.detach(), output.logits.detach()


def checked_gradient(name: str, factor: torch.nn.Parameter) -> Tensor:
    """Return a factor's gradient, or raise if it is absent, not finite or zero."""
    gradient = factor.grad
    if gradient is None:
        raise RuntimeError(f"{name} has no gradient")
    if not gradient.isfinite().all():
        raise RuntimeError(f"the gradient of {name} is not finite")
    if not gradient.any():
        raise RuntimeError(f"the gradient of {name} is zero")
    return gradient


def mlx_config(config: LlamaConfig) -> dict[str, Any]:
    """Return the fields of mlx-lm's ModelArgs, with the adapter's rank and scale."""
    return {
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rank": RANK,
        "scale": ALPHA / RANK,
    }


def make_reference() -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the reference's tensors and its metadata."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)

    base = draw_base_model(generator)
    config = base.config
    tensors = {f"base.{name}": weight.detach() for name, weight in base.named_parameters()}
    model = attach_lora(base, generator)
    batch = draw_batch(config.vocab_size, generator)
    loss, logits = forward_backward(model, batch)

    for peft_name, factor in lora_factors(model).items():
        name = mlx_name(peft_name)
        tensors[f"adapter.{name}"] = factor.detach().T
        tensors[f"grad.{name}"] = checked_gradient(name, factor).T
    tensors["batch.tokens"] = batch.tokens
    tensors["batch.lengths"] = batch.lengths
    tensors["batch.supervised"] = batch.supervised
    tensors["loss"] = loss.reshape(1)
    tensors["logits.row0"] = logits[0, : batch.lengths[0]]

    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    metadata = {
        "config": json.dumps(mlx_config(config)),
        "made_with": json.dumps(versions),
        "seed": str(SEED),
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata


def encode(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Encode a safetensors file with its metadata sorted, which the library leaves unordered."""
    encoded = save(tensors, metadata)
    data_start = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:data_start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + encoded[data_start:]


def main() -> None:
    """Write the reference file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("lora_reference.safetensors"),
        help="the file to write (default: beside this script)",
    )
    out: Path = parser.parse_args().out
    tensors, metadata = make_reference()
    contents = encode(tensors, metadata)
    out.write_bytes(contents)
    loss = tensors["loss"].item()
    print(f"{out.name}: {len(tensors)} tensors, {len(contents)} bytes, loss {loss:.8f}")


if __name__ == "__main__":
    main()
