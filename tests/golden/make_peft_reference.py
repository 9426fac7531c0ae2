"""Make the golden PEFT adapters and the logits that Hugging Face PEFT computes with them.

Run it in an environment of its own, as make_lora_reference.py says::

    golden-venv/bin/python tests/golden/make_peft_reference.py

For each architecture ``peft/NAME/`` holds what ``save_pretrained`` wrote, and the tiny base's
weights with a row of tokens and its logits. The files kept here were made with torch 2.13.0,
transformers 5.24.0 and peft 0.21.2.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SEED = 20261130
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "llama": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "mistral": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL[:1] + ALL[2:3]},
    "qwen2": {
        "r": 4, "lora_alpha": 6, "target_modules": ALL,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
        "alpha_pattern": {"down_proj": 3, r"layers\.0\..*k_proj": 10},
    },
}  # fmt: skip
"""Plain; rank-stabilised on two projections; ranks and scales of their own."""


def draw(parameters: Any, size: float, generator: torch.Generator) -> None:
    """Give parameters random values, those of norms around 1."""
    with torch.no_grad():
        for name, weight in sorted(parameters):
            noise = size * torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + noise if name.endswith("norm.weight") else noise)


def main() -> None:
    """Write a folder for each architecture."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, settings in ADAPTERS.items():
        generator = torch.Generator().manual_seed(SEED)
        config = AutoConfig.for_model(name, **SIZES)
        base = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        draw(base.named_parameters(), 0.15, generator)
        weights = {key: one.detach().clone() for key, one in base.named_parameters()}
        model: PeftModel = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        draw([(n, p) for n, p in model.named_parameters() if p.requires_grad], 0.1, generator)
        model.eval()
        tokens = torch.randint(0, SIZES["vocab_size"], (1, 24), generator=generator)
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0]
        out = Path(__file__).parent / "peft" / name
        model.save_pretrained(out)
        (out / "README.md").unlink(missing_ok=True)
        tensors = {f"base.{key}": one for key, one in weights.items()}
        tensors |= {"tokens": tokens[0].to(torch.int32), "logits": logits}
        metadata = {"config": json.dumps({"model_type": name, **SIZES, "rope_theta": 10000.0})}
        save_file(tensors, out / "logits.safetensors", metadata=metadata)
        print(f"{name}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
