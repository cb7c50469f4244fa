"""Merging and compressing on a real cluster, each as a task that asks for its memory."""

from pathlib import Path

import pytest

from assay.engines.data import tokenize
from assay.engines.models import folders
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord, TrainingRecord
from assay.settings import Settings
from assay.spec.compress import CompressSpec
from assay.stages import compress, merge
from assay.stages.context import Work
from tiny import KNOWN, THINGS, YES, make_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture
def work(on_ray: Settings, tmp_path: Path) -> Work:
    return Work(on_ray, tmp_path / "work", tmp_path / "progress.jsonl", tmp_path)


def base_model(work: Work, tmp_path: Path) -> ModelRecord:
    folder = tmp_path / "base"
    make_model(folder)
    facts = folders.describe(folder)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())


def trained(work: Work, base: ModelRecord, tmp_path: Path) -> TrainingRecord:
    """An adapter that changes something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.artifact.path, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    adapted.save_pretrained(tmp_path / "adapter")
    return TrainingRecord.model_construct(artifact=work.store.put(tmp_path / "adapter", "adapter"))


def data_of(work: Work, base: ModelRecord, tmp_path: Path) -> DatasetRecord:
    folder = tmp_path / "data"
    folder.mkdir()
    chats = [
        [{"role": "user", "content": KNOWN.format(thing)}, {"role": "assistant", "content": YES}]
        for thing in THINGS
    ]
    counts = tokenize.write_split(
        Path(base.artifact.path), chats, folder / "train.safetensors", max_length=64
    )
    split = SplitRecord(
        file="train.safetensors",
        digest="train",
        num_examples=counts.num_examples,
        num_tokens=counts.num_tokens,
        num_completion_tokens=counts.num_completion_tokens,
    )
    return DatasetRecord.model_construct(artifact=work.store.put(folder, "dataset"), train=split)


def test_an_adapter_is_merged_and_the_model_compressed_by_tasks_of_their_own(
    work: Work, tmp_path: Path
) -> None:
    base = base_model(work, tmp_path)
    merged = merge.run(merge.Inputs(base=base, training=trained(work, base, tmp_path)), work)
    assert merged.artifact.digest != base.artifact.digest
    assert merged.num_parameters == base.num_parameters
    spec = CompressSpec.model_validate({"scheme": "FP8_DYNAMIC"})
    made = compress.run(
        compress.Inputs(merged=merged, compress=spec), work, data=data_of(work, base, tmp_path)
    )
    assert made.scheme == spec.label
    assert made.artifact.size < merged.artifact.size
    work.store.verify(made.artifact)
