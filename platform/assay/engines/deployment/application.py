"""The application that serves one model: Ray Serve's declarative configuration of its engine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.cluster.cpu_features import computes_in_bf16
from assay.engines.deployment.chat_settings import chat_settings
from assay.engines.deployment.llama_cpp import MOST_SEQUENCES
from assay.errors import PlaceError
from assay.records.stages import Slot
from assay.settings import KEYS
from assay.spec.serve import ReplicasSpec, ServeSpec

# vLLM's 128 caches no prefix of a prompt shorter than that; its CPU kernels want multiples of 32
CPU_BLOCK_TOKENS = 32

# To a replica; the engine queues what it cannot take, and Serve need not.
MOST_ONGOING_REQUESTS = 256
# `make setup` copies it from platform/locks into the engine's environment.
REPLICA_MODULE = "assay_replica"
# An environment that is older does not say what answers.
SAYS_ARTIFACT = "class SaysArtifact"
# Likewise; an environment that is older than verification lacks it.
FILES_MODULE = "assay_files.py"
# vLLM keeps one core for its scheduler; of two that costs 40 % of the throughput (measured).
SMALL_MACHINE_CORES = 4

# Ray can empty a variable that its head has, and not take it away.
_WITHOUT_KEYS = dict.fromkeys(KEYS, "")


@dataclass(frozen=True)
class ServedModel:
    """What is served, where, and under which name."""

    slot: Slot
    name: str
    """What clients call it."""
    path: str
    """Folder of the model; all nodes see it."""


@dataclass(frozen=True)
class Verification:
    """What each replica checks for itself before it answers."""

    artifact: str
    """Digest of the artifact that it must load."""
    reports: Path
    """Folder in which it says what it has loaded; all nodes see it."""


def application(
    model: ServedModel,
    serve: ServeSpec,
    engine_python: str,
    *,
    on_gpu: bool,
    verification: Verification | None = None,
) -> dict[str, Any]:
    """One application of Serve's declarative configuration. The model's folder says how its chats
    are served. Without `verification` its replicas load whatever is in the folder: for
    measurements, never for what may get traffic."""
    eager = not on_gpu if serve.engine.enforce_eager == "auto" else serve.engine.enforce_eager
    engine: dict[str, Any] = {
        "max_model_len": serve.engine.max_model_len,
        "dtype": _dtype(serve, on_gpu=on_gpu),
        "tensor_parallel_size": serve.engine.tensor_parallel_size,
        "pipeline_parallel_size": serve.engine.pipeline_parallel_size,
        "enforce_eager": eager,
        "enable_prefix_caching": True,
        **serve.engine.raw,
        **chat_settings(Path(model.path), serve.engine).engine_kwargs(),
    }
    environment = {
        # What serves is what was evaluated: nothing is fetched in its stead.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    bundle: dict[str, float] = {"GPU": 1, "CPU": 1} if on_gpu else {"CPU": 1}
    if on_gpu:
        engine["gpu_memory_utilization"] = serve.engine.gpu_memory_utilization
    else:
        engine["block_size"] = CPU_BLOCK_TOKENS
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(serve.engine.kv_cache_gb_on_cpu)
        if eager:  # or the first request for log-probabilities waits for a C++ compiler
            environment["TORCH_COMPILE_DISABLE"] = "1"
        if (os.cpu_count() or 1) <= SMALL_MACHINE_CORES:
            environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    config = {
        "model_loading_config": {"model_id": model.name, "model_source": model.path},
        "engine_kwargs": engine,
        "placement_group_config": {"bundles": [bundle] * serve.engine.gpus_per_replica},
        "deployment_config": _deployment_config(serve.replicas),
        "runtime_env": {"env_vars": environment},
    }
    if _packages(engine_python, f"{REPLICA_MODULE}.py"):
        config["callback_config"] = {"callback_class": f"{REPLICA_MODULE}.LocalModel"}
    if verification is not None:
        config |= _verified(verification, engine_python)
    builder = f"{REPLICA_MODULE}:build_app" if verification else "ray.serve.llm:build_openai_app"
    return {
        "name": model.slot,
        "route_prefix": f"/{model.slot}",
        "import_path": builder,
        "runtime_env": {"py_executable": engine_python, "env_vars": _WITHOUT_KEYS | environment},
        "args": {"llm_configs": [config]},
    }


def classifier_application(
    model: ServedModel, serve: ServeSpec, verification: Verification
) -> dict[str, Any]:
    """The same for a classifier, which the platform's own environment serves: vLLM's pooling models
    do not run on every processor that its other models run on."""
    config = {
        "model_loading_config": {"model_id": model.name, "model_source": model.path},
        "engine_kwargs": {"max_model_len": serve.engine.max_model_len},
        "callback_config": {"callback_kwargs": _to_verify(verification)},
        "deployment_config": _deployment_config(serve.replicas),
    }
    return {
        "name": model.slot,
        "route_prefix": f"/{model.slot}",
        "runtime_env": {"env_vars": dict(_WITHOUT_KEYS)},
        "import_path": "assay.engines.deployment.classifier:build_app",
        "args": {"llm_configs": [config]},
    }


def llama_cpp_application(
    model: ServedModel, serve: ServeSpec, verification: Verification
) -> dict[str, Any]:
    """The same for a GGUF file, which llama.cpp serves in the platform's own environment."""
    num_sequences = min(MOST_SEQUENCES, serve.replicas.target_ongoing_requests)
    config = {
        "model_loading_config": {"model_id": model.name, "model_source": model.path},
        "engine_kwargs": {
            "max_model_len": serve.engine.max_model_len,
            "max_num_seqs": num_sequences,
        },
        "callback_config": {"callback_kwargs": _to_verify(verification)},
        "deployment_config": _deployment_config(serve.replicas),
    }
    return {
        "name": model.slot,
        "route_prefix": f"/{model.slot}",
        "import_path": "assay.engines.deployment.llama_cpp:build_app",
        "args": {"llm_configs": [config]},
    }


def _deployment_config(replicas: ReplicasSpec) -> dict[str, Any]:
    """How many replicas there are when. What the spec leaves open is left to Ray Serve."""
    said = replicas.model_dump(exclude={"min", "max"}, exclude_none=True)
    return {
        "autoscaling_config": {"min_replicas": replicas.min, "max_replicas": replicas.max, **said},
        "max_ongoing_requests": max(MOST_ONGOING_REQUESTS, 4 * replicas.target_ongoing_requests),
    }


def _verified(verification: Verification, engine_python: str) -> dict[str, Any]:
    """The part of the configuration by which a replica loads nothing but the artifact."""
    replica = _packages(engine_python, f"{REPLICA_MODULE}.py")
    is_older = not replica or SAYS_ARTIFACT not in replica[0].read_text()
    if is_older or not _packages(engine_python, FILES_MODULE):
        raise PlaceError(
            f"the environment of {engine_python} cannot verify what it loads; `make setup` renews "
            "it"
        )
    return {
        "server_cls": f"{REPLICA_MODULE}.LLMServerVerified",
        "callback_config": {
            "callback_class": f"{REPLICA_MODULE}.LocalModel",
            "callback_kwargs": _to_verify(verification),
        },
    }


def _to_verify(verification: Verification) -> dict[str, str]:
    return {"artifact": verification.artifact, "reports": str(verification.reports)}


def engine_packages(engine_python: str, *also: str) -> list[str]:
    """Name and version of the engine and of what it stands on, from its environment's metadata."""
    found = _packages(engine_python, "*.dist-info")
    wanted = ("vllm", "torch", "transformers", "ray", "compressed_tensors", *also)
    return sorted(folder.stem for folder in found if folder.stem.split("-")[0].startswith(wanted))


def _packages(engine_python: str, pattern: str) -> list[Path]:
    return list(Path(engine_python).parents[1].glob(f"lib/python3*/site-packages/{pattern}"))


def _dtype(serve: ServeSpec, *, on_gpu: bool) -> str:
    if serve.engine.dtype == "auto" and not on_gpu and not computes_in_bf16():
        return "float32"
    return serve.engine.dtype
