"""`train.deepspeed`: how the training state is sharded."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from assay.spec.block import Block, refuse


class DeepSpeedSpec(Block):
    """How DeepSpeed shards the training state (ZeRO; Rajbhandari et al., 2020)."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0 shards nothing, 1 the optimizer's state, 2 the gradients too, 3 the weights too."""

    offload_optimizer: bool | Literal["cpu", "nvme"] = False
    """Keep the optimizer's state in CPU memory (`true` or `cpu`), or on disk (`nvme`)."""

    offload_param: bool | Literal["cpu", "nvme"] = False
    """Keep the sharded weights in CPU memory, or on disk; needs ZeRO stage 3."""

    nvme_path: str | None = None
    """Folder on a fast local disk, for `nvme`."""

    quantized_weights: bool = False
    """ZeRO++: gather weights in 8 bits (Wang et al., 2023); needs stage 3 and GPUs."""

    quantized_gradients: bool = False
    """ZeRO++: reduce gradients in 4 bits; needs stage 3 and GPUs."""

    hpz_partition_size: int | None = Field(None, ge=1)
    """ZeRO++: keep a second copy of the weights within so many GPUs of a node; needs stage 3."""

    raw: dict[str, Any] = Field({})
    """DeepSpeed's own JSON, for experts, merged last. What the spec says elsewhere is refused
    here."""

    @model_validator(mode="after")
    def _offload_needs_sharding(self) -> "DeepSpeedSpec":
        whole = self.zero_stage != 3
        on_disk = "nvme" in (self.offload_optimizer, self.offload_param)
        plus = self.quantized_weights or self.quantized_gradients or self.hpz_partition_size
        refuse(
            [
                (bool(self.offload_param) and whole, "offload_param needs zero_stage: 3"),
                (
                    bool(self.offload_optimizer) and self.zero_stage == 0,
                    "offload_optimizer needs zero_stage 1, 2 or 3",
                ),
                (on_disk and whole, "offloading to nvme needs zero_stage: 3"),
                (
                    on_disk != (self.nvme_path is not None),
                    "nvme_path and offloading to nvme go together",
                ),
                (
                    bool(plus) and whole,
                    "ZeRO++ (quantized_weights, quantized_gradients, hpz_partition_size) needs "
                    "zero_stage: 3",
                ),
            ]
        )
        return self

    @field_validator("raw")
    @classmethod
    def _contradicts_nothing(cls, raw: dict[str, Any]) -> dict[str, Any]:
        for path, elsewhere in SAID_ELSEWHERE.items():
            value: Any = raw
            for key in path.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                raise ValueError(f"raw sets {path}, which is said by {elsewhere}")
        return raw


SAID_ELSEWHERE = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size and train.micro_batch_size",
    "gradient_clipping": "train.max_grad_norm",
    "bf16.enabled": "train.precision",
    "fp16.enabled": "train.precision",
    "optimizer": "train.optimizer, train.learning_rate and train.weight_decay",
    "scheduler": "train.schedule",
    "zero_optimization.stage": "train.deepspeed.zero_stage",
    "zero_optimization.offload_optimizer.device": "train.deepspeed.offload_optimizer",
    "zero_optimization.offload_param.device": "train.deepspeed.offload_param",
    "zero_optimization.zero_quantized_weights": "train.deepspeed.quantized_weights",
    "zero_optimization.zero_quantized_gradients": "train.deepspeed.quantized_gradients",
    "zero_optimization.zero_hpz_partition_size": "train.deepspeed.hpz_partition_size",
}
"""DeepSpeed's keys that other fields of the spec decide."""
