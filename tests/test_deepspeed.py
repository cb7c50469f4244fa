"""DeepSpeed's configuration for a few specs, and that what it saves is checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from assay.engines.models.deepspeed_config import deepspeed_config, is_used
from assay.engines.models.saved_weights import check_saved
from assay.errors import StageFailed
from assay.spec.train import TrainSpec
from tiny import make_model

GOLDEN = Path(__file__).with_name("golden") / "deepspeed.json"
COMMON = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "num_workers": 2,
    "micro_batch_size": 4,
}
SPECS: dict[str, tuple[dict[str, Any], str, bool]] = {
    # what the spec says of `train`, the precision, and whether there are GPUs
    "stage 0 on CPU": ({"deepspeed": {"zero_stage": 0}}, "fp32", False),
    "stage 2, optimizer on CPU": ({"deepspeed": {"offload_optimizer": True}}, "bf16", True),
    "stage 3, all on disk": (
        {
            "deepspeed": {
                "zero_stage": 3,
                "offload_optimizer": "nvme",
                "offload_param": "nvme",
                "nvme_path": "/nvme",
            }
        },
        "fp16",
        True,
    ),
    "ZeRO++": (
        {
            "deepspeed": {
                "zero_stage": 3,
                "quantized_weights": True,
                "quantized_gradients": True,
                "hpz_partition_size": 8,
            }
        },
        "bf16",
        True,
    ),
    "another optimizer": ({"optimizer": "lion"}, "bf16", True),
    "rates by group": ({"group_learning_rates": {"embed": 1e-5}}, "bf16", True),
    "raw": (
        {
            "deepspeed": {
                "raw": {
                    "zero_optimization": {"reduce_bucket_size": 7},
                    "comms_logger": {"enabled": True},
                }
            }
        },
        "bf16",
        True,
    ),
}


def test_deepspeed_is_told_what_the_spec_says() -> None:
    """The file is written anew by `python tests/test_deepspeed.py`."""
    assert written() == json.loads(GOLDEN.read_text())


def written() -> dict[str, Any]:
    return {
        name: deepspeed_config(
            TrainSpec.model_validate({**COMMON, **said}), precision=precision, on_gpu=on_gpu
        )  # type: ignore[arg-type]
        for name, (said, precision, on_gpu) in SPECS.items()
    }


def test_what_needs_whole_matrices_or_gradients_runs_without_deepspeed() -> None:
    assert is_used(TrainSpec())
    assert not is_used(TrainSpec.model_validate({"method": "adalora"}))
    assert not is_used(
        TrainSpec.model_validate({"optimizer": "muon", "deepspeed": {"zero_stage": 0}})
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_whole_save_passes(saved: Path) -> None:
    check_saved(saved, load(saved))


def test_a_truncated_save_fails(saved: Path) -> None:
    model = load(saved)
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StageFailed, match="is not whole"):
        check_saved(saved, model)
    file.unlink()
    with pytest.raises(StageFailed, match="saved no weights"):
        check_saved(saved, model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tensors: tensors.pop("lm_head.weight"),
            "1 of 21 tensors are missing, such as lm_head.weight",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"][:0]}),
            "have another shape",
        ),
        (
            lambda tensors: tensors.update({"more": tensors["lm_head.weight"][:1].clone()}),
            "are not the model's",
        ),
    ],
)
def test_a_save_that_lacks_something_fails(saved: Path, change: Any, words: str) -> None:
    from safetensors.torch import load_file, save_file

    model = load(saved)
    tensors = load_file(saved / "model.safetensors")
    change(tensors)
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=words):
        check_saved(saved, model)


def test_an_adapter_that_lacks_something_fails(saved: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    model = get_peft_model(
        load(saved), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(str(tmp_path / "adapter"))
    check_saved(tmp_path / "adapter", model)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, file)
    with pytest.raises(StageFailed, match="are missing"):
        check_saved(tmp_path / "adapter", model)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(written(), indent=1) + "\n")
