"""What one Ray Train worker does: transformers' Trainer with peft and DeepSpeed, on batches without padding.

A batch is one row: its examples end to end, `position_ids` starting at 0 for each, so that the attention mask
keeps them apart. The output head is computed at the positions that bear loss only.
"""

import json
import math
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.engines.deepspeed import Precision, deepspeed_config
from assay.engines.processor import computes_in_bf16
from assay.records.progress import Progress
from assay.records.record import Record
from assay.records.stages import LossPoint
from assay.spec.train import TrainSpec

if TYPE_CHECKING:
    import torch

IGNORED = -100  # torch's cross entropy leaves such labels out
LINES_PER_RUN = 200  # history is thinned to about this many points


class TrainingJob(Record):
    """One training run, as every worker is told it."""

    train: TrainSpec
    model: str
    """Folder of the base model."""
    train_file: str
    """Tokenized split (see `hf_data`)."""
    selection_file: str | None
    output: str
    """Folder that receives the adapter or model under `weights/`, and `result.json`."""
    progress_file: str
    """JSON lines that tell how far it is."""
    started_at: float
    """When the run was asked for, in seconds since the epoch."""
    on_gpu: bool


class TrainingOutcome(Record):
    """What a run came to, as rank 0 writes it to `result.json`."""

    num_steps: int
    num_tokens: int
    precision: str
    selection_loss: float | None
    selection_loss_se: float | None
    seconds_to_first_step: float
    tokens_per_s: float
    peak_memory_bytes: int
    history: tuple[LossPoint, ...]


def train_worker(job_json: str) -> None:
    """Trains; runs in every worker of a Ray Train group at once."""
    import torch
    import torch.distributed as dist
    from transformers import set_seed

    job = TrainingJob.model_validate_json(job_json)
    train = job.train
    if not job.on_gpu:
        torch.set_num_threads(train.worker.threads)
    _init_deepspeed()
    set_seed(train.seed)
    _say(job, Progress(step=0, num_steps=0, text="loading the model"))
    watch = _watch_type()(job)
    trainer = _trainer(job, watch)
    trainer.train()
    losses = _selection_losses(job, trainer)
    trainer.save_model(str(Path(job.output) / "weights"))
    peaks: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(peaks, _peak_memory_bytes(job.on_gpu))
    if dist.get_rank() == 0:
        mean, error = _mean_and_error(losses)
        outcome = TrainingOutcome(
            num_steps=trainer.state.global_step,
            num_tokens=int(trainer.state.num_input_tokens_seen),
            precision=chosen_precision(train, on_gpu=job.on_gpu),
            selection_loss=mean,
            selection_loss_se=error,
            seconds_to_first_step=watch.first_step_at - job.started_at,
            tokens_per_s=watch.tokens_per_s(int(trainer.state.num_input_tokens_seen)),
            peak_memory_bytes=max(peaks),
            history=tuple(watch.history),
        )
        (Path(job.output) / "result.json").write_text(outcome.model_dump_json())
    dist.barrier()


@dataclass
class PackedSplit:
    """A tokenized split in memory; item `i` is example `i`'s tokens and loss mask."""

    tokens: "torch.Tensor"
    loss_mask: "torch.Tensor"
    offsets: list[int]

    @classmethod
    def load(cls, file: str) -> "PackedSplit":
        """Reads a file that `hf_data.write_split` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(file)
        return cls(tensors["tokens"].long(), tensors["loss_mask"].bool(), tensors["offsets"].tolist())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> "tuple[torch.Tensor, torch.Tensor]":
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.tokens[span], self.loss_mask[span]


def collate(examples: "Sequence[tuple[torch.Tensor, torch.Tensor]]") -> "dict[str, torch.Tensor]":
    """Lays examples end to end.

    `input_ids`, `position_ids`: (1, T). `logits_to_keep`: (K,), the positions whose next token bears loss.
    `labels`: (1, K + 1), those next tokens behind one ignored label (Trainer counts labels from the second on).
    """
    import torch

    tokens = torch.cat([example[0] for example in examples])
    positions = torch.cat([torch.arange(len(example[0])) for example in examples])
    targets = torch.cat([example[1] for example in examples])
    targets &= positions > 0  # the first token of an example has nothing before it to be predicted from
    keep = targets.nonzero().squeeze(1) - 1
    labels = torch.cat([torch.tensor([IGNORED]), tokens[keep + 1]])
    return {
        "input_ids": tokens.unsqueeze(0),
        "position_ids": positions.unsqueeze(0),
        "logits_to_keep": keep,
        "labels": labels.unsqueeze(0),
    }


def completion_loss(outputs: Any, labels: "torch.Tensor", num_items_in_batch: Any = None) -> "torch.Tensor":
    """Cross entropy summed over completion tokens, divided by their number in the whole global batch."""
    import torch.nn.functional as functional

    logits = outputs["logits"].squeeze(0).float()
    targets = labels[0, 1:]
    count = num_items_in_batch if num_items_in_batch is not None else max(len(targets), 1)
    loss: torch.Tensor = functional.cross_entropy(logits, targets, reduction="sum") / count
    return loss


def chosen_precision(train: TrainSpec, *, on_gpu: bool) -> Precision:
    """`auto` decided for this machine: a processor without bf16 instructions is about three times slower in
    bf16 than in fp32."""
    if train.precision != "auto":
        return train.precision
    if on_gpu:
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if computes_in_bf16() else "fp32"


def _init_deepspeed() -> None:
    """Tells DeepSpeed of Ray's process group before any model is built: ZeRO-3 needs the world size then."""
    import deepspeed

    # An op for inference, which every worker would compile or load.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


def _trainer(job: TrainingJob, watch: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    train = job.train
    split = PackedSplit.load(job.train_file)
    steps_per_epoch = math.ceil(len(split) / train.global_batch_size)
    num_steps = train.max_steps or math.ceil(train.num_epochs * steps_per_epoch)
    precision = chosen_precision(train, on_gpu=job.on_gpu)
    # TrainingArguments come first: with ZeRO-3 they make `from_pretrained` shard the weights as it loads them.
    arguments = TrainingArguments(
        output_dir=str(Path(job.output) / "trainer"),
        deepspeed=deepspeed_config(train, precision=precision, on_gpu=job.on_gpu),
        use_cpu=not job.on_gpu,
        per_device_train_batch_size=train.examples_per_worker,
        gradient_accumulation_steps=train.accumulation_steps,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        lr_scheduler_type=train.schedule if train.schedule != "constant" else "constant_with_warmup",
        warmup_steps=math.ceil(train.warmup_ratio * num_steps),
        max_steps=num_steps,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=train.gradient_checkpointing,
        logging_steps=max(1, num_steps // LINES_PER_RUN),
        logging_first_step=True,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=train.seed,
        data_seed=train.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=job.on_gpu,
        include_num_input_tokens_seen="all",
        average_tokens_across_devices=True,
    )
    model = _model(job, precision)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=split,
        data_collator=collate,
        compute_loss_func=completion_loss,
        callbacks=[watch],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _model(job: TrainingJob, precision: Precision) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    precisions = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=precisions[precision])
    model.config.use_cache = False  # with a cache the mask that keeps packed examples apart is not built
    lora = job.train.method.lora
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    if job.train.gradient_checkpointing:
        model.enable_input_require_grads()
    layers = lora.layer_indices()
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=_linear_names(model) if lora.target_modules == "all-linear" else list(lora.target_modules),
            layers_to_transform=list(layers) if layers is not None else None,
            task_type="CAUSAL_LM",
        ),
    )


def _linear_names(model: Any) -> list[str]:
    """Last names of all linear modules but the output head. peft's own `all-linear` cannot be limited to layers."""
    import torch

    head = model.get_output_embeddings()
    linear = (
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    )
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _watch_type() -> Any:
    """Trainer's callback class exists only once transformers is imported."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the run's history and tells how far it is."""

        def __init__(self, job: TrainingJob) -> None:
            self.job = job
            self.history: list[LossPoint] = []
            self.first_step_at = 0.0
            self.first_step_tokens = 0
            self.last_step_at = 0.0

        def tokens_per_s(self, tokens: int) -> float:
            """Over all steps but the first, which pays for warming up."""
            seconds = self.last_step_at - self.first_step_at
            return (tokens - self.first_step_tokens) / seconds if seconds > 0 else 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.last_step_at = time.time()
            if not self.first_step_at:
                self.first_step_at = self.last_step_at
                self.first_step_tokens = int(state.num_input_tokens_seen)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            point = LossPoint(
                step=state.global_step,
                loss=_finite(logs["loss"]),
                learning_rate=float(logs["learning_rate"]),
                grad_norm=_finite(logs["grad_norm"]) if logs.get("grad_norm") is not None else None,
                tokens_per_s=self.tokens_per_s(int(state.num_input_tokens_seen)),
            )
            self.history.append(point)
            _say(self.job, Progress(num_steps=state.max_steps, **point.model_dump()))

    return Watch


def _finite(value: Any) -> float:
    """JSON has no NaN: a diverged loss is written as the largest float."""
    number = float(value)
    return number if math.isfinite(number) else 1.7e308


def _say(job: TrainingJob, progress: Progress) -> None:
    import torch.distributed as dist

    if dist.get_rank() == 0:
        with open(job.progress_file, "a") as file:
            file.write(progress.model_dump_json() + "\n")


def _selection_losses(job: TrainingJob, trainer: Any) -> list[tuple[float, int]]:
    """(summed loss, tokens) of every example of the selection split. Every worker does its share, and all
    do equally many forward passes, which ZeRO-3 needs."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as functional

    if job.selection_file is None:
        return []
    split = PackedSplit.load(job.selection_file)
    rank, world = dist.get_rank(), dist.get_world_size()
    size = job.train.examples_per_worker
    rounds = math.ceil(len(split) / (size * world))
    mine: list[tuple[float, int]] = []
    model = trainer.model_wrapped
    model.eval()
    with torch.no_grad():
        for number in range(rounds):
            first = (number * world + rank) * size
            chosen = [split[i] for i in range(first, min(first + size, len(split)))]
            batch = collate(chosen or [split[0]])
            labels = batch.pop("labels")[0, 1:].to(trainer.args.device)
            inputs = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            logits = model(**inputs).logits.squeeze(0).float()
            losses = functional.cross_entropy(logits, labels, reduction="none")
            if chosen:
                mine += _per_example(losses, chosen)
    everyone: list[list[tuple[float, int]]] = [[] for _ in range(world)]
    dist.all_gather_object(everyone, mine)
    return [pair for share in everyone for pair in share]


def _per_example(losses: "torch.Tensor", examples: Sequence[Any]) -> Iterator[tuple[float, int]]:
    start = 0
    for _, mask in examples:
        count = int(mask[1:].sum())
        yield float(losses[start : start + count].sum()), count
        start += count


def _mean_and_error(losses: Sequence[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Mean loss per token, and its standard error with examples as the unit (a ratio estimate)."""
    tokens = sum(count for _, count in losses)
    if not tokens:
        return None, None
    mean = sum(total for total, _ in losses) / tokens
    if not math.isfinite(mean):
        return _finite(mean), None
    residuals = sum((total - mean * count) ** 2 for total, count in losses)
    n = len(losses)
    error = math.sqrt(residuals * n / (n - 1)) / tokens if n > 1 else None
    return mean, error


def _peak_memory_bytes(on_gpu: bool) -> int:
    if on_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_outcome(output: Path) -> TrainingOutcome:
    """What rank 0 wrote; raises `OSError` or `ValueError` when it is not whole."""
    return TrainingOutcome.model_validate(json.loads((output / "result.json").read_text()))
