"""DeepSpeed's configuration, written from the spec. The only place that knows DeepSpeed's own key
names."""

from typing import Any, Literal

from assay.spec.train import TrainSpec

Precision = Literal["bf16", "fp16", "fp32"]

GATHER_BUCKET_ELEMENTS = (
    50_000_000  # DeepSpeed's default of 5e8 reserves a gigabyte that small models never fill
)


def deepspeed_config(train: TrainSpec, *, precision: Precision, on_gpu: bool) -> dict[str, Any]:
    """The JSON document that `deepspeed.initialize` takes for this training run."""
    sharding = train.deepspeed
    zero: dict[str, Any] = {
        "stage": sharding.zero_stage,
        "allgather_bucket_size": GATHER_BUCKET_ELEMENTS,
        "reduce_bucket_size": GATHER_BUCKET_ELEMENTS,
        "overlap_comm": on_gpu,
        "contiguous_gradients": True,
    }
    if sharding.offload_optimizer:
        zero["offload_optimizer"] = _offload(sharding.offload_optimizer, sharding.nvme_path, on_gpu)
    if sharding.offload_param:
        zero["offload_param"] = _offload(sharding.offload_param, sharding.nvme_path, on_gpu)
    if train.min_workers is not None and sharding.zero_stage in (1, 2):
        zero["elastic_checkpoint"] = True  # which another number of workers can read
    if sharding.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if not on_gpu:
            # Nothing overlaps with it there, and its buffers would hold the gathered weights a
            # second time.
            zero["stage3_prefetch_bucket_size"] = 0
    if sharding.quantized_weights:
        zero["zero_quantized_weights"] = True
    if sharding.quantized_gradients:
        zero["zero_quantized_gradients"] = True
    if sharding.hpz_partition_size is not None:
        zero["zero_hpz_partition_size"] = sharding.hpz_partition_size
    config: dict[str, Any] = {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.examples_per_worker,
        "gradient_accumulation_steps": train.accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        # Muon, Lion and the 8-bit ones are not on DeepSpeed's list; which of them ZeRO may split is
        # checked in the spec.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Never: the progress file says it.
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if deepspeed_makes_it(train):
        config["optimizer"] = {
            "type": "AdamW",
            "params": {
                "lr": train.rates.peak,
                "weight_decay": train.weight_decay,
                "betas": list(train.betas),
                "eps": 1e-8,
                # DeepSpeed's fused Adam is compiled for GPUs; on CPU torch's own is used.
                "torch_adam": not on_gpu,
            },
        }
    return _merged(config, sharding.raw)


def is_used(train: TrainSpec) -> bool:
    """Whether DeepSpeed runs at all. AdaLoRA reads gradients between the backward pass and the
    next, Muon and Adafactor step on whole matrices, and elastic weight consolidation and an L1
    penalty move weights after a step: DeepSpeed keeps all of that to itself, so those train under
    torch's own data parallelism."""
    own_steps = train.method.adalora is not None or train.ewc is not None or train.l1 is not None
    return not own_steps and train.optimizer not in ("muon", "adafactor")


def deepspeed_makes_it(train: TrainSpec) -> bool:
    """Whether the optimizer is DeepSpeed's own AdamW, over all weights alike."""
    return train.optimizer == "adamw" and train.rates.are_alike


def _offload(to: bool | str, nvme_path: str | None, on_gpu: bool) -> dict[str, Any]:
    """`true` is CPU memory."""
    if to == "nvme":
        return {"device": "nvme", "nvme_path": nvme_path, "pin_memory": on_gpu}
    return {"device": "cpu", "pin_memory": on_gpu}


def _merged(config: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` over `config`, block by block."""
    both = {}
    for key in raw:
        if isinstance(config.get(key), dict) and isinstance(raw[key], dict):
            both[key] = _merged(config[key], raw[key])
    return {**config, **raw, **both}
