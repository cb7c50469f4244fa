"""What one Ray Train worker does: transformers' Trainer with peft and DeepSpeed, on batches without padding.

A batch is one row: its texts end to end (see `hf_batches`). The output head is computed at the positions that bear
loss only. Every objective but `grpo` is a loss on such batches (see `hf_objectives`).
"""

import json
import math
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from assay.engines import base_models, bottleneck, hf_methods, kernels, trl_trainer
from assay.engines.deepspeed import Precision, deepspeed_config, is_used
from assay.engines.hf_batches import Batch, PackedSplit, collate, collate_padded, take_extras
from assay.engines.hf_objectives import Frozen, Objective, objective_of, text_log_probs
from assay.engines.hf_optimizers import make_optimizer, schedule
from assay.engines.hf_regularizers import Anchor, EmbeddingNoise, TokenContrast, estimate_anchor, orthogonality
from assay.engines.hf_saved import check_saved
from assay.engines.keeper import Keeper, Keeping, attach
from assay.engines.processor import computes_in_bf16
from assay.engines.trackers import Tracker, trackers, until_ended
from assay.errors import StageFailed
from assay.records.progress import Progress
from assay.records.record import Record
from assay.records.stages import LossPoint, PauseReport
from assay.spec.train import TrainSpec

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

REFERENCE = "reference.safetensors"
ORTHOGONALITY_WEIGHT = 0.5  # peft's default
LINES_PER_RUN = 200  # history is thinned to about this many points


class TrainingJob(Record):
    """One training run, as every worker is told it."""

    train: TrainSpec
    model: str
    """Folder of the base model."""
    train_file: str
    """Tokenized split (see `hf_data`)."""
    selection_file: str | None
    ewc_file: str | None = None
    """Tokenized examples that `train.ewc` protects."""
    teacher: str | None = None
    """Folder of the teacher, for `distill`."""
    scorer: str | None = None
    """Folder of a reward model, for `grpo`."""
    num_labels: int | None = None
    """Classes of a linear head; 1 for a reward model."""
    output: str
    """Folder that receives the adapter or model under `weights/`, and `result.json`."""
    progress_file: str
    """JSON lines that tell how far it is."""
    started_at: float
    """When the run was asked for, in seconds since the epoch."""
    on_gpu: bool
    keeping: Keeping | None = None
    """How it is kept from being lost; None where nobody would go on with it."""
    rising_from: float | None = None
    """For a range test: the learning rate rises from here to `train.learning_rate`, by the same factor each step."""


class TrainingOutcome(Record):
    """What a run came to, as rank 0 writes it to `result.json`."""

    num_steps: int
    num_tokens: int
    precision: str
    attention: str
    kernels: tuple[str, ...] = ()
    kernels_unused: dict[str, str] = Field({})
    selection_loss: float | None
    selection_loss_se: float | None
    seconds_to_first_step: float
    tokens_per_s: float
    peak_memory_bytes: int
    history: tuple[LossPoint, ...]
    best_step: int | None = None
    num_restarts: int = 0
    adaptations: tuple[str, ...] = ()


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
    keeper = Keeper(
        job.keeping,
        train,
        rising_from=job.rising_from,
        evaluate=lambda: _mean_and_error(_selection_losses(job, trainer)),
    )
    watch = _watch_type()(job, keeper)
    chosen = _kernels(job)
    trainer = _trainer(job, chosen, watch)
    attach(keeper, trainer)
    with until_ended(watch.trackers):
        trainer.train(resume_from_checkpoint=job.keeping.resume_from if job.keeping else None)
    if keeper.was_stopped:
        if keeper.pause and dist.get_rank() == 0:
            (Path(job.output) / "pause.json").write_text(keeper.pause.model_dump_json())
        _leave(trainer)
        return
    num_steps = trainer.state.global_step
    went_back = keeper.go_back_to_best(trainer)
    losses = _selection_losses(job, trainer)
    _save(job, trainer)
    peaks: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(peaks, _peak_memory_bytes(job.on_gpu))
    if dist.get_rank() == 0:
        mean, error = _mean_and_error(losses)
        outcome = TrainingOutcome(
            num_steps=num_steps,
            best_step=keeper.best_step if went_back else None,
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
            history=tuple(keeper.history),
        )
        (Path(job.output) / "result.json").write_text(outcome.model_dump_json())
    dist.barrier()
    _leave(trainer)


def chosen_precision(train: TrainSpec, *, on_gpu: bool) -> Precision:
    """`auto` decided for this machine: a processor without bf16 instructions is about three times slower in
    bf16 than in fp32."""
    if train.precision != "auto":
        return train.precision
    if on_gpu:
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if computes_in_bf16() else "fp32"


def _leave(trainer: Any) -> None:
    """Gives memory back, so that another training can follow in this process."""
    from accelerate.state import AcceleratorState, GradientState

    model = trainer.model
    if hasattr(trainer.model_wrapped, "destroy"):
        trainer.model_wrapped.destroy()
    trainer.accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    base_models.give_back(model)


def _init_deepspeed() -> None:
    """Tells DeepSpeed of Ray's process group before any model is built: ZeRO-3 needs the world size then."""
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
    return kernels.choose(job.model, job.train, precision=precision, on_gpu=job.on_gpu, packed=packed)


def _trainer(job: TrainingJob, chosen: kernels.Kernels, watch: Any) -> Any:
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.trainer_callback import PrinterCallback

    train, grpo = job.train, job.train.objective.grpo
    num_steps = train.max_steps or math.ceil(train.num_epochs * steps_per_epoch(train, _num_units(job)))
    precision = chosen_precision(train, on_gpu=job.on_gpu)
    arguments = _arguments(job, precision, num_steps) | (kernels.LIGER if "liger" in chosen.used else {})
    unset_hf_deepspeed_config()  # of a training before this one in the same process
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    # TrainingArguments come first: with ZeRO-3 they make `from_pretrained` shard the weights as it loads them.
    made = TrainingArguments(**arguments)
    model = hf_methods.load(
        job.model, train, chosen, precision=precision, num_labels=job.num_labels, num_steps=num_steps
    )
    if "compile" in chosen.used:
        kernels.compile_layers(model)
    hf_methods.save_start(model, train.method, Path(job.output))
    if grpo is not None:
        trainer = trl_trainer.make_trainer(
            grpo,
            model=model,
            folder=job.model,
            prompts_file=job.train_file,
            scorer=job.scorer,
            arguments=arguments,
            make_optimizer=partial(make_optimizer, train=train),
            callbacks=[watch],
        )
    else:
        trainer = _trainer_type()(
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
    """Optimizer steps in one pass over a split. `grpo` counts its batch in answers, several to a prompt."""
    answers = train.objective.grpo.num_generations if train.objective.grpo else 1
    return math.ceil(num_units * answers / train.global_batch_size)


def _num_units(job: TrainingJob) -> int:
    if job.train.objective.grpo is not None:
        return len(trl_trainer.read_prompts(job.train_file))
    return len(PackedSplit.load(job.train_file))


def _arguments(job: TrainingJob, precision: Precision, num_steps: int) -> dict[str, Any]:
    """transformers' `TrainingArguments`, which TRL's extend."""
    train = job.train
    return {
        "output_dir": str(Path(job.output) / "trainer"),
        "deepspeed": deepspeed_config(train, precision=precision, on_gpu=job.on_gpu) if is_used(train) else None,
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
    return "non_padding" if is_padded(train) else "all"


def is_padded(train: TrainSpec) -> bool:
    """Whether every text needs a row of its own: peft puts virtual tokens before rows, and classifiers read rows."""
    return train.objective.grpo is None and (train.method.is_prompt or objective_of(train).scores)


def _collator(job: TrainingJob) -> Any:
    counted = objective_of(job.train).counts_units
    if not is_padded(job.train):
        return partial(collate, count_units=counted)
    from transformers import AutoTokenizer

    pad = hf_methods.pad_token(AutoTokenizer.from_pretrained(job.model))
    return partial(collate_padded, count_units=counted, pad=pad)


def _trainer_type() -> Any:
    """The Trainer that computes the spec's objective; the class exists only once transformers is imported."""
    import torch.distributed as dist
    from transformers import Trainer, TrainerCallback

    class ObjectiveTrainer(Trainer):  # type: ignore[misc]
        """Trainer's loop, with the loss, the optimizer and the regularizers of a `TrainSpec`."""

        optimizer: Any

        def __init__(self, *, job: TrainingJob, anchor: Anchor | None, **arguments: Any) -> None:
            # A loss function makes Trainer count items over the whole global batch; `compute_loss` is what is called.
            super().__init__(compute_loss_func=self.compute_loss, **arguments)
            self.job = job
            self.objective: Objective = objective_of(job.train)
            self.frozen = Frozen(teacher=_teacher(job, self.args.device))
            self.frozen_of_selection = replace(self.frozen)
            self.anchor = anchor
            noise = job.train.neftune_alpha
            self.noise = EmbeddingNoise(self.model, noise) if noise is not None else None
            contrastive = job.train.contrastive
            self.contrast = TokenContrast(self.model, contrastive) if contrastive is not None else None
            self.add_callback(Moments(self))

        def before_first_step(self) -> None:
            """Measures what the model that training starts from says and needs."""
            if self.objective.needs_reference:
                references = _references(self.job, self)
                self.frozen.reference = references["train"]
                self.frozen_of_selection.reference = references.get("selection")

        def compute_loss(
            self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The batch's share of the mean loss over the global batch. DeepSpeed and DDP average over workers, so
            that it is multiplied by their number."""
            if self.noise is not None:
                self.noise.reads(inputs)
            if self.contrast is not None:
                self.contrast.reads(inputs)
            losses = self.objective.loss(model, inputs, self.job.train, self.frozen)
            num_items = losses.counts.sum() if num_items_in_batch is None else num_items_in_batch
            loss = losses.totals.sum() / num_items * dist.get_world_size()
            for penalty in self._penalties(self.accelerator.unwrap_model(model)):
                loss = loss + penalty / self.job.train.accumulation_steps
            return loss

        def _penalties(self, model: Any) -> Iterator[Any]:
            """What a step's loss is raised by for where weights and hidden states are."""
            if self.job.train.method.adalora is not None:
                yield ORTHOGONALITY_WEIGHT * orthogonality(model)
            term = self.contrast.term() if self.contrast is not None else None
            if term is not None:
                yield term

        def create_optimizer(self, model: Any = None) -> Any:
            """The spec's optimizer, where DeepSpeed does not make it."""
            if self.optimizer is None:
                self.optimizer = make_optimizer(model if model is not None else self.model, self.job.train)
            return self.optimizer

    class Moments(TrainerCallback):  # type: ignore[misc]
        """What happens between steps."""

        def __init__(self, trainer: ObjectiveTrainer) -> None:
            self.trainer = trainer

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.trainer.before_first_step()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.trainer.anchor is not None:
                self.trainer.anchor.pull(self.trainer.model, self.trainer.optimizer)
            if self.trainer.job.train.method.adalora is not None:  # gradients are still there
                self.trainer.model.base_model.update_and_allocate(state.global_step)

    return ObjectiveTrainer


def _anchor(job: TrainingJob, model: Any, device: Any) -> Anchor | None:
    """Measured before DeepSpeed takes the gradients for itself, on the weights that training starts from."""
    if job.train.ewc is None:
        return None
    assert job.ewc_file is not None
    return estimate_anchor(model.to(device), job.ewc_file, job.train.ewc, job.train)


def _teacher(job: TrainingJob, device: Any) -> Any:
    if job.teacher is None:
        return None
    from transformers import AutoModelForCausalLM

    teacher = AutoModelForCausalLM.from_pretrained(job.teacher, dtype="auto").to(device).eval()
    teacher.config.use_cache = False
    return teacher.requires_grad_(False)


def beginnings(job: TrainingJob) -> Path:
    """Where that is kept which a run measures before its first step, for a run that goes on later."""
    return Path(job.keeping.folder if job.keeping else job.output)


def _references(job: TrainingJob, trainer: Any) -> "dict[str, torch.Tensor]":
    """Every text's log-probability under the model that training starts from, (units, texts per unit) by split;
    computed once. Raises `StageFailed` when a run that goes on does not find them: its model is another by now."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file, save_file

    file = beginnings(job) / REFERENCE
    there = [file.exists()]
    dist.broadcast_object_list(there, src=0)
    if not there[0] and trainer.state.global_step:
        raise StageFailed(f"{file} is gone, so that training cannot go on from its checkpoint; start it anew")
    if not there[0]:
        splits = {"train": job.train_file, **({"selection": job.selection_file} if job.selection_file else {})}
        found = {name: torch.tensor(_over_split(trainer, split, _log_probs)) for name, split in splits.items()}
        if dist.get_rank() == 0:
            draft = file.with_suffix(".part")
            save_file(found, draft)
            draft.rename(file)
        dist.barrier()
    kept: dict[str, torch.Tensor] = load_file(file)
    return kept


def _log_probs(trainer: Any, batch: Batch) -> list[list[float]]:
    extras = take_extras(batch)
    values: list[list[float]] = (
        text_log_probs(trainer.model_wrapped, batch, extras).view(len(extras["units"]), -1).tolist()
    )
    return values


def _over_split(trainer: Any, file: str, read: Callable[[Any, Batch], list[T]]) -> list[T]:
    """What `read` makes of every unit of a split, in order. Every worker does its share, and all do equally many
    forward passes, which ZeRO-3 needs."""
    import torch
    import torch.distributed as dist

    split = PackedSplit.load(file)
    rank, world = dist.get_rank(), dist.get_world_size()
    size = trainer.job.train.examples_per_worker
    mine: list[tuple[int, T]] = []
    was_training = trainer.model_wrapped.training
    trainer.model_wrapped.eval()
    with torch.no_grad():
        for number in range(math.ceil(len(split) / (size * world))):
            first = (number * world + rank) * size
            chosen = [split[index] for index in range(first, min(first + size, len(split)))]
            batch = trainer.data_collator(chosen or [split[0]])
            values = read(trainer, {name: tensor.to(trainer.args.device) for name, tensor in batch.items()})
            mine += [(unit.number, value) for unit, value in zip(chosen, values, strict=False)]
    trainer.model_wrapped.train(was_training)
    everyone: list[list[tuple[int, T]]] = [[] for _ in range(world)]
    dist.all_gather_object(everyone, mine)
    found = dict(pair for share in everyone for pair in share)
    return [found[index] for index in range(len(split))]


def _save(job: TrainingJob, trainer: Any) -> None:
    """Writes the adapter or the model, and reads back that it is whole."""
    import torch.distributed as dist

    weights = Path(job.output) / "weights"
    start = hf_methods.start_of(job.train.method, Path(job.output))
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


def _watch_type() -> Any:
    """Trainer's callback class exists only once transformers is imported."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the run's history and tells how far it is."""

        def __init__(self, job: TrainingJob, keeper: Keeper) -> None:
            self.job = job
            self.keeper = keeper
            self.trackers = _trackers(job)
            self.first_step_at = 0.0
            self.first_step_tokens = 0
            self.last_step_at = 0.0

        def tokens_per_s(self, tokens: int) -> float:
            """Over all steps but the first, which pays for warming up."""
            seconds = self.last_step_at - self.first_step_at
            return (tokens - self.first_step_tokens) / seconds if seconds > 0 else 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
            self.keeper.set_rates(lr_scheduler)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.last_step_at = time.time()
            if not self.first_step_at:
                self.first_step_at = self.last_step_at
                self.first_step_tokens = int(state.num_input_tokens_seen)
            self.keeper.after_step(int(state.global_step), int(state.max_steps), control)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            point = LossPoint(
                step=state.global_step,
                loss=_finite(-logs["reward"] if "reward" in logs else logs["loss"]),  # online training has no other
                learning_rate=float(logs["learning_rate"]),
                grad_norm=_finite(logs["grad_norm"]) if logs.get("grad_norm") is not None else None,
                tokens_per_s=self.tokens_per_s(int(state.num_input_tokens_seen)),
            )
            self.keeper.history.append(point)
            for tracker in self.trackers:
                tracker.tell(point)
            peak = _peak_memory_bytes(self.job.on_gpu)
            _say(self.job, Progress(num_steps=state.max_steps, memory_bytes=peak, **point.model_dump()))
            self.keeper.check_loss()

    return Watch


def _trackers(job: TrainingJob) -> list[Tracker]:
    import torch.distributed as dist

    if job.keeping is None or dist.get_rank() != 0:
        return []
    run = Path(job.progress_file).parent.name
    return trackers(
        job.train.report_to,
        run=run,
        folder=Path(job.output).parent,
        kept=beginnings(job),
        settings=job.train.model_dump_json(),
    )


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
    """(summed loss, items) of every unit of the selection split."""
    if job.selection_file is None:
        return []
    grpo = job.train.objective.grpo
    if grpo is not None:
        size = job.train.examples_per_worker
        return trl_trainer.selection_losses(trainer, grpo, job.selection_file, batch_size=size)
    return _over_split(trainer, job.selection_file, _losses)


def _losses(trainer: Any, batch: Batch) -> list[tuple[float, int]]:
    losses = trainer.objective.loss(trainer.model_wrapped, batch, trainer.job.train, trainer.frozen_of_selection)
    return list(zip(losses.totals.tolist(), losses.counts.int().tolist(), strict=True))


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


def read_outcome(output: Path) -> TrainingOutcome | PauseReport:
    """What rank 0 wrote; raises `OSError` or `ValueError` when it is not whole."""
    if (output / "pause.json").exists():
        return PauseReport.model_validate_json((output / "pause.json").read_text())
    return TrainingOutcome.model_validate(json.loads((output / "result.json").read_text()))
