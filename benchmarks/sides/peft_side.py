"""PyTorch and Hugging Face's PEFT on the CPU; runs in an environment of its own (README.md)."""

import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.sides.job import PROJECTIONS, Job, Memory, Result, Step, TokenRow, run, summarise
from benchmarks.sides.resident import Resident

_IGNORED = -100


def batches(rows: Sequence[TokenRow], job: Job) -> Iterator[list[TokenRow]]:
    """Yield the rows of each step: shuffled every epoch, the last partial batch too."""
    order = random.Random(job.seed)
    for _ in range(job.epochs):
        shuffled = order.sample(rows, len(rows))
        for begin in range(0, len(shuffled), job.effective_batch):
            yield shuffled[begin : begin + job.effective_batch]


def collate(rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest, int64 (rows, width), labels on the answers alone."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, _IGNORED)
    for i, row in enumerate(rows):
        length = len(row.tokens)
        tokens[i, :length] = torch.tensor(row.tokens)
        mask[i, :length] = 1
        labels[i, row.answer : length] = tokens[i, row.answer : length]
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def update(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[TokenRow], job: Job
) -> Step:
    """Take one step on rows."""
    began = time.perf_counter()
    taught = sum(row.supervised for row in rows)
    loss, computed = 0.0, 0
    for begin in range(0, len(rows), job.batch_size):
        part = rows[begin : begin + job.batch_size]
        batch = collate(part)
        share = sum(row.supervised for row in part) / taught
        weighted = model(**batch, use_cache=False).loss * share
        weighted.backward()
        loss += weighted.item()
        computed += batch["input_ids"].numel()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return Step(
        seconds=time.perf_counter() - began,
        loss=loss,
        rows=len(rows),
        tokens=sum(len(row.tokens) for row in rows),
        supervised_tokens=taught,
        computed_tokens=computed,
        head_positions=computed,
    )


def measure(job: Job) -> Result:
    """Train, and return what it took."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(job.seed)
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    weights = sum(p.numel() * p.element_size() for p in base.parameters())
    for parameter in base.parameters():
        parameter.sum()  # read from the file only when touched
    resident = Resident()
    config = LoraConfig(
        r=job.rank,
        lora_alpha=job.scale * job.rank,
        lora_dropout=0.0,
        target_modules=list(PROJECTIONS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.0)
    chosen = itertools.islice(batches(job.read_rows(), job), job.max_steps)
    steps = [update(model, optimizer, rows, job) for rows in chosen]
    memory = Memory(
        weights_bytes=weights,
        peak_memory_bytes=None,  # PyTorch does not count on a CPU
        resident_before_bytes=resident.before,
        resident_peak_bytes=resident.peak,
    )
    return summarise(
        steps,
        job,
        memory,
        device=f"CPU, {torch.get_num_threads()} threads",
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    )


if __name__ == "__main__":
    run(measure)
