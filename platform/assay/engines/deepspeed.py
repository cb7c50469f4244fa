"""DeepSpeed's configuration, written from the spec. The only place that knows DeepSpeed's own key names."""

from typing import Any, Literal

from assay.spec.train import TrainSpec

Precision = Literal["bf16", "fp16", "fp32"]

GATHER_BUCKET_ELEMENTS = 50_000_000  # DeepSpeed's default of 5e8 reserves a gigabyte that small models never fill


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
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if sharding.offload_param:
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    if sharding.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.examples_per_worker,
        "gradient_accumulation_steps": train.accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": train.learning_rate,
                "weight_decay": train.weight_decay,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                # DeepSpeed's fused Adam is compiled for GPUs; on CPU torch's own is used.
                "torch_adam": not on_gpu,
            },
        },
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
