import json
import math
from pathlib import Path
from typing import Any

import pytest

from assay.engines.models.shape import from_config, from_folder, known, known_names
from assay.records.plan import Cluster, DataPlan, MemoryEstimate, ModelShape, Node
from assay.rules.planning.fit import TrainedModel, serving_need, training_need
from assay.rules.planning.memory import GIB, kv_bytes_per_token, serving_memory, worker_memory
from assay.rules.planning.weights import trained_parameters
from assay.rules.planning.workload import training_plan
from assay.spec.serve import ServeSpec
from assay.spec.train import TrainSpec

LLAMA = known("meta-llama/Llama-3.1-8B-Instruct")
DATA = DataPlan(
    num_examples=1000,
    num_tokens=500_000,
    num_loss_tokens=200_000,
    longest=1024,
    deviation=200.0,
    num_gate=None,
    exact=True,
)


def shape(**changes: object) -> ModelShape:
    assert LLAMA is not None
    return ModelShape.model_validate({**LLAMA.model_dump(), **changes})


def parts(estimate: MemoryEstimate) -> dict[str, int]:
    return {part.name: part.size for part in (*estimate.parts, *estimate.host_parts)}


def train(**said: object) -> TrainSpec:
    return TrainSpec.model_validate({"num_workers": 64, "global_batch_size": 64, **said})


H100 = json.loads((Path(__file__).parent / "golden" / "h100_memory.json").read_text())
"""What training took on a GPU: `peak_allocated` bytes of tensors at the highest, `context` what
CUDA and its libraries took beside them, `reserved` what torch's allocator held, `host` the
process's resident memory."""

FAR = {"full Qwen3 0.6B ZeRO-3, all offloaded (1184 tokens)": 0.15}
"""DeepSpeed held fewer gathered weights there than it may."""


@pytest.mark.parametrize("case", H100["cases"], ids=lambda case: str(case["name"]))
def test_what_an_h100_measured_is_foreseen(case: dict[str, Any]) -> None:
    model = from_config(H100["models"][case["model"]], source=case["model"])
    assert model is not None
    spec = TrainSpec.model_validate({"global_batch_size": 8, "max_length": 1024, **case["train"]})
    needs = {"tokens": case["tokens"], "loss_tokens": case["loss_tokens"]}
    estimate = worker_memory(spec, model, **needs, device="GPU", precision="bf16")
    bar = FAR.get(case["name"], 0.03)
    assert estimate.total == pytest.approx(case["peak_allocated"] + case["context"], rel=bar)
    if estimate.host_total:
        process = 3.5e9  # a worker's own, where nothing is offloaded, without its model
        assert estimate.host_total + process == pytest.approx(case["host"], rel=0.1)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_model_states_are_those_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """Figure 1: 7.5 billion weights, 64 workers, mixed precision with Adam."""
    model = shape(num_parameters=7_500_000_000)
    spec = train(method="full", deepspeed={"zero_stage": stage})
    found = parts(
        worker_memory(spec, model, tokens=1, loss_tokens=1, device="GPU", precision="bf16")
    )
    states = found["weights"] + found["gradients"] + found["optimizer states"]
    assert states / 1e9 == pytest.approx(gigabytes, abs=0.06)


def test_what_is_offloaded_is_the_nodes() -> None:
    assert LLAMA is not None
    spec = train(
        method="full", num_workers=8, deepspeed={"zero_stage": 3, "offload_optimizer": True}
    )
    estimate = worker_memory(spec, LLAMA, tokens=1, loss_tokens=1, device="GPU", precision="bf16")
    assert {part.name for part in estimate.host_parts} == {"optimizer states", "gradients"}
    own = math.ceil(LLAMA.num_parameters / 8)
    # A copy and gradients in fp32 and gradients in bf16, pinned, which torch rounds up to powers of
    # two; moments.
    assert estimate.host_total == 2 * 2**32 + 2**31 + 8 * own
    on_cpu = worker_memory(spec, LLAMA, tokens=1, loss_tokens=1, device="CPU", precision="fp32")
    assert on_cpu.host_parts == ()


def test_lora_trains_r_times_both_sides_of_each_adapted_matrix() -> None:
    assert LLAMA is not None
    spec = train(method={"lora": {"r": 16, "target_modules": ["q_proj", "v_proj"]}})
    assert trained_parameters(spec, LLAMA) == 32 * 16 * ((4096 + 4096) + (4096 + 1024))
    upper = train(
        method={"lora": {"r": 16, "target_modules": ["q_proj", "v_proj"], "layers": "16-31"}}
    )
    assert 2 * trained_parameters(upper, LLAMA) == trained_parameters(spec, LLAMA)


def test_checkpointing_keeps_less_and_upper_layers_keep_less() -> None:
    assert LLAMA is not None

    def kept(**said: object) -> int:
        found = worker_memory(
            train(**said), LLAMA, tokens=4096, loss_tokens=64, device="GPU", precision="bf16"
        )
        return parts(found)["activations"]

    assert kept(gradient_checkpointing=True) < kept() / 8
    assert kept(method={"lora": {"layers": "24-31"}}) < kept() / 3
    # Korthikanti et al. count 34 bytes a token and unit of width for a GPT layer with dropout,
    # attention's scores apart; a gated MLP of 3.5 widths keeps more of its own.
    assert 30 * 4096 < (kept() - 4096**2) / (4096 * 32) < 70 * 4096


def test_a_token_of_llama_8b_takes_128_kib_of_kv_cache() -> None:
    assert LLAMA is not None
    assert kv_bytes_per_token(LLAMA) == 128 * 1024
    engine = ServeSpec.model_validate({"engine": {"max_model_len": 8192}}).engine
    found = parts(serving_memory(engine, LLAMA, scheme="W8A8", device="GPU"))
    assert found["KV cache"] == GIB
    assert found["weights"] / 1e9 == pytest.approx(
        8.03 + 1.05, abs=0.05
    )  # the embeddings stay in 16 bits


# In billions, as the model cards have them.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen3-0.6B", 0.6),
        ("Qwen/Qwen3-8B", 8.2),
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("meta-llama/Llama-3.3-70B-Instruct", 70.6),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.25),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135),
    ],
)
def test_the_table_of_known_models_counts_right(name: str, billions: float) -> None:
    found = known(name)
    assert found is not None
    assert found.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_every_known_model_is_a_decoder_that_hangs_together() -> None:
    for name in known_names():
        found = known(name)
        assert found is not None
        assert found.num_heads % found.num_kv_heads == 0


def test_a_tiny_models_configuration_is_counted_as_its_weights_are(tmp_path: object) -> None:
    from pathlib import Path

    from safetensors import safe_open

    from tiny import make_model

    folder = Path(str(tmp_path)) / "model"
    make_model(folder)
    found = from_folder(folder)
    assert found is not None
    with safe_open(str(folder / "model.safetensors"), framework="numpy") as weights:
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    count = 0
    for sides in sizes:
        size = 1
        for side in sides:
            size *= side
        count += size
    assert found.num_parameters == count


def test_mixtures_of_experts_are_unknown() -> None:
    assert LLAMA is not None
    config = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 8,
    }
    assert from_config({**config, "vocab_size": 9}, source="") is not None
    assert from_config({**config, "vocab_size": 9, "num_local_experts": 8}, source="") is None
    assert from_config(config, source="") is None


def gpus(count: int, gib: int, nodes: int = 1) -> Cluster:
    node = Node(count=nodes, cpus=64, gpus=count, gpu_memory=gib * GIB, memory=512 * GIB)
    return Cluster(source="test", nodes=(node,))


def need(spec: TrainSpec, cluster: Cluster | None):  # type: ignore[no-untyped-def]
    return training_need(
        "train",
        spec,
        TrainedModel(LLAMA, lambda _: "bf16"),
        data=DATA,
        cluster=cluster,
        driver_cpus=0,
    )


def test_a_shape_that_fits_is_named_when_this_one_does_not() -> None:
    lora = train(num_workers=1, global_batch_size=16)
    tight = need(lora, gpus(1, 24))
    assert tight.fits is False
    assert "micro_batch_size" in tight.advice
    assert "of 24.0 GiB" in tight.advice
    changes = {"micro_batch_size": 1, "gradient_checkpointing": True}
    assert (
        need(TrainSpec.model_validate({**lora.model_dump(), **changes}), gpus(1, 24)).fits is True
    )
    assert need(lora, gpus(1, 141)).fits is True


def test_too_many_workers_are_told_how_many_fit() -> None:
    wide = train(num_workers=8, global_batch_size=64, gradient_checkpointing=True)
    found = need(wide, gpus(4, 80))
    assert found.fits is False
    assert "num_workers: 4 fits" in found.advice
    assert need(wide, gpus(4, 80, nodes=2)).fits is True


def test_full_training_of_an_8b_needs_zero_3() -> None:
    spec = train(num_workers=8, method="full", micro_batch_size=1, gradient_checkpointing=True)
    replicated = need(spec, gpus(8, 80))
    assert replicated.memory is not None
    sharded = TrainSpec.model_validate({**spec.model_dump(), "deepspeed": {"zero_stage": 3}})
    assert need(sharded, gpus(8, 40)).fits is True
    assert "zero_stage: 3 it needs" in need(spec, gpus(8, 24)).advice
    assert "zero_stage: 3, offload_optimizer: true" in need(spec, gpus(8, 16)).advice
    small = Node(count=1, cpus=64, gpus=8, gpu_memory=16 * GIB, memory=64 * GIB)
    advice = need(spec, Cluster(source="test", nodes=(small,))).advice
    assert "offload" not in advice  # the node's memory could not take it
    assert "with method: qlora it needs" in advice


def test_without_a_cluster_nothing_is_said_to_fit() -> None:
    found = need(train(), None)
    assert (found.fits, found.available) == (None, None)
    assert found.memory is not None


def test_a_model_too_large_to_serve_is_told_so() -> None:
    serve = ServeSpec()
    large = known("meta-llama/Llama-3.3-70B-Instruct")
    found = serving_need(
        "deploy", serve, shape=large, scheme="W8A8", num_replicas=1, cluster=gpus(4, 80)
    )
    assert found.fits is True
    found = serving_need(
        "deploy", serve, shape=large, scheme="none", num_replicas=1, cluster=gpus(4, 80)
    )
    assert found.fits is False
    assert "tensor_parallel_size" in found.advice


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    work = training_plan(train(num_workers=2, global_batch_size=16, num_epochs=2.5), DATA)
    assert work.num_steps == 158  # 2.5 times 63 batches, of which the last is short
    assert work.num_tokens == pytest.approx(158 / 63 * 500_000, abs=1)
    assert work.tokens_per_pass <= 8 * 1024
    assert (
        training_plan(train(num_workers=2, global_batch_size=16, max_steps=5), DATA).num_steps == 5
    )
