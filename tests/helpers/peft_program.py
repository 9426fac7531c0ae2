"""What a person does on another machine: train a LoRA adapter with PEFT, and use one.

Runs in an environment that has PyTorch, transformers and PEFT, and knows nothing of mlx-tune::

    python peft_program.py train BASE ROWS.json OUT
    python peft_program.py logits BASE TOKENS.json OUT.npy ADAPTER...
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS = 24
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train(base: str, rows: str, out: str) -> None:
    """Teach all rows in every step, the answers alone supervised."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR))
    batch = []
    for row in json.loads(Path(rows).read_text()):
        asked = [{"role": "user", "content": row["instruction"]}]
        told = [*asked, {"role": "assistant", "content": row["response"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(told, tokenize=False).rstrip("\n")
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        tokens = tokenizer(whole, add_special_tokens=False).input_ids
        batch.append((torch.tensor([tokens]), torch.tensor([[-100] * start + tokens[start:]])))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(STEPS):
        for tokens, labels in batch:
            (model(input_ids=tokens, labels=labels).loss / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)


def logits(base: str, tokens: str, out: str, *adapters: str) -> None:
    """Write the logits of each row of tokens, with all adapters active: (tokens, vocabulary)."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = [str(number) for number in range(len(adapters))]
    found = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        found.load_adapter(adapter, adapter_name=name)
    found.base_model.set_adapter(names)
    found.eval()
    with torch.no_grad():
        each = [
            found(input_ids=torch.tensor([row])).logits[0]
            for row in json.loads(Path(tokens).read_text())
        ]
    np.save(out, torch.cat(each).numpy())


if __name__ == "__main__":
    {"train": train, "logits": logits}[sys.argv[1]](*sys.argv[2:])
