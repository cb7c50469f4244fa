"""What `serve` says reaches Ray Serve and vLLM under their own names, and nothing that decides what
is loaded or run."""

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from assay.engines.deployment.application import ServedModel, application
from assay.spec.serve import RAW_ARGUMENTS, EngineSpec, ReplicasSpec, ServeSpec

ENGINE = Path(__file__).parents[1] / ".venv-engine/bin/python"


def config(serve: dict[str, Any], *, on_gpu: bool = False) -> dict[str, Any]:
    spec = ServeSpec.model_validate(serve)
    said = application(
        ServedModel("blue", "bot", "/nowhere"), spec, "/nowhere/bin/python", on_gpu=on_gpu
    )
    found: dict[str, Any] = said["args"]["llm_configs"][0]
    return found


def test_autoscaling_fields_are_those_of_ray_serve() -> None:
    from ray.serve.config import AutoscalingConfig

    said = {
        "min": 1,
        "max": 4,
        "initial_replicas": 2,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        "upscaling_factor": 2,
        "downscaling_factor": 0.5,
        "metrics_interval_s": 2,
        "look_back_period_s": 10,
    }
    scaling = config({"replicas": said})["deployment_config"]["autoscaling_config"]
    assert set(scaling) <= set(AutoscalingConfig.model_fields)
    read = AutoscalingConfig(**scaling)
    wanted = {name: value for name, value in said.items() if name not in ("min", "max")}
    assert {name: getattr(read, name) for name in wanted} == wanted
    assert (read.min_replicas, read.max_replicas) == (1, 4)


def test_what_the_spec_leaves_open_is_left_to_serve_and_old_digests_hold() -> None:
    scaling = config({})["deployment_config"]["autoscaling_config"]
    assert set(scaling) == {"min_replicas", "max_replicas", "target_ongoing_requests"}
    assert set(ReplicasSpec().model_dump()) == {"min", "max", "target_ongoing_requests"}
    assert "raw" not in EngineSpec().model_dump()


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        ({"min": 0}, "greater than or equal to 1"),
        ({"max": 2, "initial_replicas": 3}, "initial_replicas 3 is not between min and max"),
        ({"metrics_interval_s": 30, "look_back_period_s": 10}, "is above look_back_period_s"),
        ({"upscale_delay_s": -1}, "greater than or equal to 0"),
    ],
)
def test_autoscaling_that_cannot_be_is_refused(replicas: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ReplicasSpec.model_validate(replicas)


def test_engines_on_gpus_are_compiled_and_others_are_not() -> None:
    assert config({})["engine_kwargs"]["enforce_eager"] is True
    assert config({}, on_gpu=True)["engine_kwargs"]["enforce_eager"] is False
    eager = {"engine": {"enforce_eager": True}}
    assert config(eager, on_gpu=True)["engine_kwargs"]["enforce_eager"] is True


def test_every_part_of_a_replica_has_its_gpu() -> None:
    engine = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    said = config({"engine": engine}, on_gpu=True)
    assert said["placement_group_config"]["bundles"] == [{"GPU": 1, "CPU": 1}] * 8
    kwargs = said["engine_kwargs"]
    assert {name: kwargs[name] for name in engine} == engine


def test_raw_arguments_reach_the_engine() -> None:
    raw = {"max_num_seqs": 64, "enable_chunked_prefill": True, "kv_cache_dtype": "fp8"}
    kwargs = config({"engine": {"raw": raw}}, on_gpu=True)["engine_kwargs"]
    assert {name: kwargs[name] for name in raw} == raw


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_model_len", "serve.engine.max_model_len"),
        ("max_num_seq", "did you mean `max_num_seqs`"),
        ("model", "not among the arguments"),
        ("tokenizer", "not among the arguments"),
        ("trust_remote_code", "not among the arguments"),
        ("speculative_config", "not among the arguments"),
        ("worker_extension_cls", "not among the arguments"),
        ("load_format", "not among the arguments"),
        ("quantization", "not among the arguments"),
        ("enable_lora", "not among the arguments"),
    ],
)
def test_what_decides_what_is_loaded_or_run_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EngineSpec.model_validate({"raw": {name: 1}})


def test_the_arguments_are_those_of_the_engine_that_is_installed() -> None:
    (file,) = ENGINE.parents[1].glob("lib/python3*/site-packages/vllm/engine/arg_utils.py")
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    known = {
        line.target.id
        for node in classes
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    assert set(RAW_ARGUMENTS) <= known
    set_by_the_platform = set(config({}, on_gpu=True)["engine_kwargs"])
    assert not set_by_the_platform & set(RAW_ARGUMENTS)
