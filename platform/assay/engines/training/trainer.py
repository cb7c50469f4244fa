"""What one Ray Train worker does: transformers' Trainer with peft and DeepSpeed, on batches without
padding.

A batch is one row: its texts end to end (see `hf_batches`). The output head is computed at the
positions that bear loss only. Every objective but `grpo` is a loss on such batches (see
`hf_objectives`).
"""

import math
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from assay import secrets_file
from assay.engines.checkpoints.callback import CheckpointCallback, attach
from assay.engines.cluster.cpu_features import computes_in_bf16
from assay.engines.models import base_model_cache, bottleneck, kernels, methods
from assay.engines.models.deepspeed_config import Precision, deepspeed_config, is_used
from assay.engines.models.saved_weights import check_saved
from assay.engines.training import grpo as trl_trainer
from assay.engines.training.batches import PackedSplit, collate, collate_padded
from assay.engines.training.job import TrainingJob, is_padded
from assay.engines.training.objective_trainer import trainer_type
from assay.engines.training.objectives import objective_of
from assay.engines.training.optimizers import make_optimizer, schedule
from assay.engines.training.progress import peak_memory_bytes, watch_type, write_progress
from assay.engines.training.regularizers import Anchor, estimate_anchor
from assay.engines.training.split_losses import mean_and_error, selection_losses
from assay.engines.training.trackers import until_ended
from assay.records.progress import Progress
from assay.records.stages import TrainingOutcome
from assay.spec.train import TrainSpec

LINES_PER_RUN = 200  # history is thinned to about this many points


def train_worker(job_json: str) -> None:
    """Trains; runs in every worker of a Ray Train group at once."""
    job = TrainingJob.model_validate_json(job_json)
    # Weights & Biases reads its key once, MLflow with every point.
    with secrets_file.lent(secrets_file.TRACKERS if job.train.report_to else ()):
        _train(job)


def _train(job: TrainingJob) -> None:
    import torch
    import torch.distributed as dist
    from transformers import set_seed

    train = job.train
    if not job.on_gpu:
        torch.set_num_threads(job.threads)
    _init_deepspeed()
    set_seed(train.seed)
    write_progress(job, Progress(step=0, num_steps=0, text="loading the model"))
    checkpointing = CheckpointCallback(
        job.keeping,
        train,
        rising_from=job.rising_from,
        num_looks=job.num_looks,
        evaluate=lambda: mean_and_error(selection_losses(job, trainer)),
    )
    watch = watch_type()(job, checkpointing)
    chosen = _kernels(job)
    trainer = _trainer(job, chosen, watch)
    attach(checkpointing, trainer)
    with until_ended(watch.trackers):
        trainer.train(resume_from_checkpoint=job.keeping.resume_from if job.keeping else None)
    if checkpointing.was_stopped:
        if checkpointing.pause and dist.get_rank() == 0:
            (Path(job.output) / "pause.json").write_text(checkpointing.pause.model_dump_json())
        _leave(trainer)
        return
    num_steps = trainer.state.global_step
    went_back = checkpointing.go_back_to_best(trainer)
    losses = selection_losses(job, trainer)
    _save(job, trainer)
    peaks: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(peaks, peak_memory_bytes(job.on_gpu))
    if dist.get_rank() == 0:
        mean, error = mean_and_error(losses)
        outcome = TrainingOutcome(
            num_steps=num_steps,
            best_step=checkpointing.best_step if went_back else None,
            num_tokens=int(trainer.state.num_input_tokens_seen),
            precision=chosen_precision(train, on_gpu=job.on_gpu),
            attention=chosen.attention,
            kernels=chosen.used,
            kernels_unused=chosen.unused,
            selection_loss=mean,
            selection_loss_se=error,
            seconds_to_first_step=watch.first_step_at - job.started_at,
            tokens_per_s=watch.tokens_per_s(int(trainer.state.num_input_tokens_seen)),
            peak_memory_bytes=max(peaks),
            history=tuple(checkpointing.history),
        )
        (Path(job.output) / "result.json").write_text(outcome.model_dump_json())
    dist.barrier()
    _leave(trainer)


def chosen_precision(train: TrainSpec, *, on_gpu: bool) -> Precision:
    """`auto` decided for this machine: a processor without bf16 instructions is about three times
    slower in bf16 than in fp32."""
    if train.precision != "auto":
        return train.precision
    if on_gpu:
        import torch

        if torch.cuda.is_bf16_supported():
            return "bf16"
        return "fp16"
    if computes_in_bf16():
        return "bf16"
    return "fp32"


def _leave(trainer: Any) -> None:
    """Gives memory back, so that another training can follow in this process."""
    from accelerate.state import AcceleratorState, GradientState

    model = trainer.model
    if hasattr(trainer.model_wrapped, "destroy"):
        trainer.model_wrapped.destroy()
    trainer.accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    base_model_cache.give_back(model)


def _init_deepspeed() -> None:
    """Tells DeepSpeed of Ray's process group before any model is built: ZeRO-3 needs the world size
    then."""
    import deepspeed
    from deepspeed.runtime.engine import DeepSpeedEngine

    # An op for inference, which every worker would compile or load.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    DeepSpeedEngine.clip_fp32_gradients = _clip_and_keep_the_norm
    deepspeed.init_distributed(verbose=False)


def _clip_and_keep_the_norm(engine: Any) -> None:
    """DeepSpeed's own clipping of fp32 gradients without ZeRO, which forgets their norm."""
    from deepspeed.runtime.utils import clip_grad_norm_

    norm = clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping(), mpu=engine.mpu)
    engine._global_grad_norm = float(norm)


def _kernels(job: TrainingJob) -> kernels.Kernels:
    packed = job.train.objective.grpo is None and not is_padded(job.train)
    precision = chosen_precision(job.train, on_gpu=job.on_gpu)
    return kernels.choose(
        job.model, job.train, precision=precision, on_gpu=job.on_gpu, packed=packed
    )


def _trainer(job: TrainingJob, chosen: kernels.Kernels, watch: Any) -> Any:
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.trainer_callback import PrinterCallback

    train, grpo = job.train, job.train.objective.grpo
    num_steps = train.max_steps
    if not num_steps:
        num_steps = math.ceil(train.num_epochs * steps_per_epoch(train, _num_units(job)))
    precision = chosen_precision(train, on_gpu=job.on_gpu)
    arguments = _arguments(job, precision, num_steps)
    if "liger" in chosen.used:
        arguments |= kernels.LIGER
    # What a training before this one has left in the same process.
    unset_hf_deepspeed_config()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    # TrainingArguments come first: with ZeRO-3 they make `from_pretrained` shard the weights as it
    # loads them.
    made = TrainingArguments(**arguments)
    model = methods.load(
        job.model,
        train,
        chosen,
        precision=precision,
        num_labels=job.num_labels,
        num_steps=num_steps,
    )
    if "compile" in chosen.used:
        kernels.compile_layers(model)
    methods.save_start(model, train.method, Path(job.output))
    if grpo is not None:
        trainer = trl_trainer.make_trainer(
            job,
            grpo,
            model=model,
            arguments=arguments,
            make_optimizer=partial(make_optimizer, train=train),
            callbacks=[watch],
        )
    else:
        trainer = trainer_type()(
            job=job,
            anchor=_anchor(job, model, made.device),
            model=model,
            args=made,
            train_dataset=PackedSplit.load(job.train_file),
            data_collator=_collator(job),
            callbacks=[watch],
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def steps_per_epoch(train: TrainSpec, num_units: int) -> int:
    """Optimizer steps in one pass over a split. `grpo` counts its batch in answers, several to a
    prompt."""
    answers = train.objective.grpo.num_generations if train.objective.grpo else 1
    return math.ceil(num_units * answers / train.global_batch_size)


def _num_units(job: TrainingJob) -> int:
    if job.train.objective.grpo is not None:
        return len(trl_trainer.read_prompts(job.train_file))
    return len(PackedSplit.load(job.train_file))


def _arguments(job: TrainingJob, precision: Precision, num_steps: int) -> dict[str, Any]:
    """transformers' `TrainingArguments`, which TRL's extend."""
    train = job.train
    sharding = None
    if is_used(train):
        sharding = deepspeed_config(train, precision=precision, on_gpu=job.on_gpu)
    return {
        "output_dir": str(Path(job.output) / "trainer"),
        "deepspeed": sharding,
        "use_cpu": not job.on_gpu,
        "per_device_train_batch_size": train.examples_per_worker,
        "gradient_accumulation_steps": train.accumulation_steps,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "max_steps": num_steps,
        **schedule(train, num_steps),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "gradient_checkpointing": train.gradient_checkpointing,
        "logging_steps": max(1, num_steps // LINES_PER_RUN),
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide that a run has diverged
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": train.seed,
        "data_seed": train.seed,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": job.on_gpu,
        "include_num_input_tokens_seen": _counted(train),
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
    }


def _counted(train: TrainSpec) -> str:
    """Which tokens the Trainer counts: never pad tokens. TRL counts those of `grpo` itself."""
    if train.objective.grpo is not None:
        return "no"
    if is_padded(train):
        return "non_padding"
    return "all"


def _collator(job: TrainingJob) -> Any:
    counted = objective_of(job.train).counts_units
    if not is_padded(job.train):
        return partial(collate, count_units=counted)
    from transformers import AutoTokenizer

    pad = methods.pad_token(AutoTokenizer.from_pretrained(job.model))
    return partial(collate_padded, count_units=counted, pad=pad)


def _anchor(job: TrainingJob, model: Any, device: Any) -> Anchor | None:
    """Measured before DeepSpeed takes the gradients for itself, on the weights that training starts
    from."""
    if job.train.ewc is None:
        return None
    assert job.ewc_file is not None
    return estimate_anchor(model.to(device), job.ewc_file, job.train.ewc, job.train)


def _save(job: TrainingJob, trainer: Any) -> None:
    """Writes the adapter or the model, and reads back that it is whole."""
    import torch.distributed as dist

    weights = Path(job.output) / "weights"
    start = methods.start_of(job.train.method, Path(job.output))
    with warnings.catch_warnings(action="ignore"):  # peft guesses at what is checked below
        if job.train.method.bottleneck is not None:
            bottleneck.save(trainer.model, job.train.method.bottleneck, weights)
        elif not start:
            trainer.save_model(str(weights))
        elif dist.get_rank() == 0:
            trainer.model.save_pretrained(str(weights), **start)
        dist.barrier()
        if dist.get_rank() == 0:
            check_saved(weights, trainer.model, doubled_ranks=bool(start))
