"""`compress:` as it is written: names, lists, what goes together, and what is known beforehand."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from assay.records.plan import Device, ModelShape
from assay.records.record import digest_of
from assay.rules.planning.compression import engine_notes, group_fault
from assay.rules.planning.memory import compressing_memory
from assay.spec.compress import CompressSpec

SMOLLM2 = ModelShape(
    hidden_size=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    tied=True,
    num_parameters=134_515_008,
    context_length=8192,
    source="its config.json",
)


def spec(value: Any) -> CompressSpec:
    return CompressSpec.model_validate(value)


def test_a_name_alone_means_what_it_meant() -> None:
    said = spec({"scheme": "W4A16"})
    assert spec("W4A16") == said
    # The keys of records that were kept before there were steps rest on this.
    assert said.model_dump(mode="json") == {"scheme": "W4A16", "ignore": ["lm_head"]}
    assert digest_of(spec({}).model_dump(mode="json")) == (
        digest_of({"scheme": "W8A8", "ignore": ["lm_head"]})
    )
    assert said.label == "W4A16"


def test_a_list_of_steps_is_read_again_from_its_own_dump() -> None:
    steps = [
        "smoothquant",
        {"quantize": {"scheme": "W8A8", "method": "gptq", "modules": {"mlp": "W4A16"}}},
    ]
    said = spec(steps)
    assert said == spec({"steps": steps})
    assert said == spec(said.model_dump(mode="json"))
    assert said.label == "smoothquant gptq W8A8/W4A16"
    assert said.served == "W8A8"
    assert said.is_calibrated
    assert spec(["W4A16"]).quantize == spec("W4A16").quantize


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"scheme": "W8A8", "steps": ["W4A16"]}, "both say how to quantize"),
        (["W8A8", "W4A16"], "quantize once"),
        (["smoothquant"], "comes before a `quantize` step"),
        (["smoothquant", "W4A16"], "comes before a `quantize` step"),
        ([{"quantize": {"scheme": "W8A8", "group_size": 64}}], "W8A8 has none to choose"),
        ([{"quantize": {"scheme": "W4A16", "group_size": 20}}], "16 columns or a multiple"),
        ([{"quantize": {"scheme": "FP8_DYNAMIC", "method": "gptq"}}], "takes round"),
        ([{"quantize": {"scheme": "W8A8", "method": "awq"}}], "takes round or gptq"),
        ([{"quantize": {"scheme": "FP8_DYNAMIC", "symmetric": False}}], "is symmetric"),
        ([{"quantize": {"scheme": "W4A16", "activations": "static"}}], "is for W8A8"),
        ([{"quantize": {"scheme": "none"}}], "quantizes nothing"),
        ([{"quantize": {"modules": {"(": "W4A16"}}}], "not a regular expression"),
        ([{"quantize": {}, "smoothquant": {}}], "choose one step"),
        ([{"gguf": "q8_0"}, "W8A8"], "is a step alone"),
        ([{"gguf": "q9"}], "q8_0"),
        (["W8A8", "prune"], "quantize comes last"),
        (["recover", "prune"], "recover comes after prune"),
        ([{"prune": {"pattern": "2:4", "sparsity": 0.6}}], "is a sparsity of 50%"),
        ([{"prune": {"method": "wanda", "threshold": 0.1}}], "is for method: magnitude"),
        (
            [{"prune": {"method": "magnitude", "threshold": 0.1, "sparsity": 0.2}}],
            "threshold alone",
        ),
        ({"calibration": {"num_samples": 2000}}, "less than or equal to 1000"),
    ],
)
def test_what_cannot_be_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        spec(value)


def test_groups_are_found_that_fit_the_model() -> None:
    quantize = spec("W4A16").quantize
    assert quantize is not None
    assert quantize.group_for([576, 1536]) == 64
    assert quantize.group_for([4096, 14336]) == 128
    assert group_fault(spec("W4A16"), SMOLLM2) is None
    fault = group_fault(spec([{"quantize": {"scheme": "W4A16", "group_size": 128}}]), SMOLLM2)
    assert fault is not None
    assert "hidden_size 576" in fault[0]
    assert "group_size: 64" in fault[1]


def test_formats_that_a_processor_does_not_serve_are_known() -> None:
    assert list(engine_notes(spec("W8A8"), "CPU")) == []
    ((is_refused, note),) = engine_notes(spec([{"quantize": {"modules": {"mlp": "FP8"}}}]), "CPU")
    assert is_refused
    assert "FP8" in note
    ((is_refused, note),) = engine_notes(spec("FP8_DYNAMIC"), "CPU")
    assert not is_refused
    assert "no gain here" in note
    assert list(engine_notes(spec("FP8_DYNAMIC"), "GPU")) == []


def test_pruning_is_said_to_gain_nothing() -> None:
    said = spec([{"prune": {"method": "wanda", "pattern": "2:4"}}, "recover", "W8A8"])
    assert said.label == "wanda 2:4 recover W8A8"
    for device in get_args(Device):
        ((is_refused, note),) = engine_notes(said, device)
        assert not is_refused
        assert "no gain here" in note


def test_calibration_takes_memory() -> None:
    plain = compressing_memory(spec("W4A16"), SMOLLM2)
    gptq = compressing_memory(spec([{"quantize": {"scheme": "W4A16", "method": "gptq"}}]), SMOLLM2)
    states = 2 * 256 * 1024 * 576 * 2
    hessians = 4 * (6 * 576**2 + 1536**2)
    assert gptq.total - plain.total == states + hessians
