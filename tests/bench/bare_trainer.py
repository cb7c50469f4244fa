"""The training loop that most people would write: transformers' Trainer and peft on padded batches,
no more.

`python bare_trainer.py JOB` takes a `TrainingJob` as JSON and writes `result.json` into the job's
output folder.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from job_argument import job_of_arguments
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from assay.engines.training.batches import PackedSplit
from assay.engines.training.job import TrainingJob
from assay.engines.training.trainer import chosen_precision

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Clock(TrainerCallback):
    """The moment of the first step, and a line for each."""

    def __init__(self, progress: str) -> None:
        self.progress = Path(progress)
        self.first_step_at = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step_at = self.first_step_at or time.time()
        with self.progress.open("a") as file:
            file.write(json.dumps({"step": state.global_step}) + "\n")


def main() -> None:
    job = TrainingJob.model_validate_json(job_of_arguments(__doc__))
    train = job.train
    Path(job.progress_file).write_text(json.dumps({"step": 0}) + "\n")
    torch.set_num_threads(train.worker.threads)
    set_seed(train.seed)
    bf16 = chosen_precision(train, on_gpu=False) == "bf16"
    clock = Clock(job.progress_file)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer = Trainer(
        model=model(job, torch.bfloat16 if bf16 else torch.float32),
        args=TrainingArguments(
            output_dir=job.output,
            use_cpu=True,
            bf16=bf16,
            per_device_train_batch_size=train.examples_per_worker,
            gradient_accumulation_steps=train.accumulation_steps,
            max_steps=train.max_steps,
            learning_rate=train.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(train.warmup_ratio * train.max_steps),
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm,
            seed=train.seed,
            data_seed=train.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            include_num_input_tokens_seen="non_padding",
        ),
        train_dataset=rows(job.train_file),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    result = {
        "seconds_to_first_step": clock.first_step_at - job.started_at,
        "num_tokens": trainer.state.num_input_tokens_seen,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    (Path(job.output) / "result.json").write_text(json.dumps(result))


def model(job: TrainingJob, dtype: torch.dtype) -> Any:
    lora = job.train.method.lora
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(LINEAR if lora.target_modules == "all-linear" else lora.target_modules),
        layers_to_transform=lora.layer_indices(),
        task_type="CAUSAL_LM",
    )
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype)
    set_seed(job.train.seed)  # so that the adapters start where the stage's do
    return get_peft_model(base, config)


def rows(file: str) -> list[dict[str, list[int]]]:
    """Examples with labels on completions alone."""
    return [
        {
            "input_ids": tokens.tolist(),
            "attention_mask": [1] * len(tokens),
            "labels": tokens.where(mask, torch.tensor(-100)).tolist(),
        }
        for unit in PackedSplit.load(file)
        for tokens, mask in unit.texts
    ]


if __name__ == "__main__":
    main()
