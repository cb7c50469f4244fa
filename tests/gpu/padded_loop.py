"""The loop that most people would write: transformers, peft and torch on padded rows. `python
padded_loop.py JOB` leaves `report.json`, as `run_job.py` does. LoRA alone."""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from run_job import context, wait
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from assay.engines.training.batches import PackedSplit
from assay.engines.training.job import TrainingJob

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


def main() -> None:
    job = TrainingJob.model_validate_json(sys.argv[1])
    train, device = job.train, "cuda" if job.on_gpu else "cpu"
    model = lora_model(job).to(device)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=train.learning_rate, fused=job.on_gpu)
    split, draw = PackedSplit.load(job.train_file), random.Random(0)
    report: dict[str, Any] = {
        "batches": [],
        "seconds": [],
        "losses": [],
        "attention": "sdpa",
        "kernels": [],
    }
    for _ in range(train.max_steps or 0):
        texts = [
            split[number].texts[0]
            for number in draw.sample(range(len(split)), train.global_batch_size)
        ]
        batch = padded(texts)
        report["batches"].append(
            ([len(tokens) for tokens, _ in texts], int((batch["labels"] != IGNORED).sum()))
        )
        wait()
        began = time.monotonic()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        report["losses"].append(loss.item())
        wait()
        report["seconds"].append(time.monotonic() - began)
    report["peak"] = torch.cuda.max_memory_allocated() if job.on_gpu else 0
    report["context"] = context() if job.on_gpu else 0
    (Path(job.output) / "report.json").write_text(json.dumps(report))


def lora_model(job: TrainingJob) -> Any:
    """The model with adapters as the job has them."""
    lora = job.train.method.lora
    assert lora is not None
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, target_modules=LINEAR, task_type="CAUSAL_LM"
    )
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16)
    model.config.use_cache = False
    return get_peft_model(model, config).train()


def padded(texts: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A row for each text."""
    labels = [torch.where(bears_loss, tokens, IGNORED) for tokens, bears_loss in texts]
    mask = [torch.ones_like(tokens) for tokens, _ in texts]
    return {
        "input_ids": pad_sequence([tokens for tokens, _ in texts], batch_first=True),
        "attention_mask": pad_sequence(mask, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


if __name__ == "__main__":
    main()
