"""The `serve:` block: how the model is deployed, and how traffic moves to it."""

from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from assay.spec.block import Block, Duration, Fraction, later

REASONING_PARSERS = (
    "cohere_command3",
    "cohere_command4",
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "ernie45",
    "gemma4",
    "glm45",
    "glm47",
    "granite",
    "hunyuan_a13b",
    "kimi_k2",
    "minimax_m2",
    "mistral",
    "muse_glimmer",
    "nemotron_v3",
    "none",
    "olmo3",
    "openai_gptoss",
    "qwen3",
    "seed_oss",
    "step3",
)
"""Of vLLM 0.32's, those that are asked for most; here only so that a slip of the pen is seen
early."""


RAW_ARGUMENTS = (
    "async_scheduling",
    "attention_backend",
    "cpu_offload_gb",
    "disable_cascade_attn",
    "disable_custom_all_reduce",
    "disable_sliding_window",
    "enable_chunked_prefill",
    "enable_expert_parallel",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "long_prefill_token_threshold",
    "max_cudagraph_capture_size",
    "max_logprobs",
    "max_num_batched_tokens",
    "max_num_seqs",
    "num_gpu_blocks_override",
    "scheduling_policy",
    "seed",
    "stream_interval",
)
"""Of vLLM 0.32's engine arguments, those that change speed and memory. What else it takes can load
other files or run other code than was evaluated."""


class ReplicasSpec(Block):
    """Ray Serve's autoscaling of engine replicas."""

    min: int = Field(1, ge=1)
    """Fewest replicas. Not 0: the replica that was evaluated is the one that is promoted."""

    max: int = Field(1, ge=1)
    """Most replicas."""

    target_ongoing_requests: int = Field(16, ge=1)
    """Requests in flight that one replica should have."""

    initial_replicas: int | None = later(None, ge=1)
    """Replicas to begin with; `min` when not said."""

    upscale_delay_s: float | None = later(None, ge=0)
    """How long there must be too few before more are started, in seconds; Ray Serve's own 30 when
    not said."""

    downscale_delay_s: float | None = later(None, ge=0)
    """How long there must be too many before some are stopped; Ray Serve's own 600 when not
    said."""

    upscaling_factor: float | None = later(None, gt=0)
    """Above 1 more are started at once than the load asks for, below 1 fewer; Ray Serve's own 1
    when not said."""

    downscaling_factor: float | None = later(None, gt=0)
    """The same of stopping."""

    metrics_interval_s: float | None = later(None, gt=0)
    """How often replicas report their requests; Ray Serve's own 10 seconds when not said."""

    look_back_period_s: float | None = later(None, gt=0)
    """Over how long their reports are averaged; Ray Serve's own 30 seconds when not said."""

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicasSpec":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        first = self.initial_replicas
        if first is not None and not self.min <= first <= self.max:
            raise ValueError(f"initial_replicas {first} is not between min and max")
        interval, window = self.metrics_interval_s, self.look_back_period_s
        if interval is not None and window is not None and interval > window:
            raise ValueError(f"metrics_interval_s {interval:g} is above look_back_period_s")
        return self


class EngineSpec(Block):
    """vLLM's own settings, under their own names."""

    kind: Literal["vllm", "llama_cpp"] = later("vllm")
    """What serves the candidate. `llama_cpp` serves what `compress: [{gguf: q8_0}]` makes, on CPU;
    the base model that it is compared with is served by vLLM."""

    max_model_len: int = Field(2048, ge=16)
    """Longest prompt and answer together, in tokens."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of what is not quantized. `auto` is the model's own, but float32 on a processor
    that does not compute in bfloat16."""

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs (or CPU shares) that hold one replica together."""

    gpu_memory_utilization: Fraction = 0.9
    """Share of a GPU's memory that the engine may take."""

    pipeline_parallel_size: int = later(1, ge=1)
    """Parts, one after the other, into which the layers are cut; each takes `tensor_parallel_size`
    GPUs, on other nodes where one has too few."""

    enforce_eager: bool | Literal["auto"] = "auto"
    """Start without compiling: faster to start, slower to decode. `auto` compiles on GPUs alone."""

    kv_cache_gb_on_cpu: int = Field(1, ge=1)
    """Gigabytes of KV cache of a replica that runs on CPU."""

    reasoning_parser: str | None = later(None)
    """What tells a model's reasoning from its answer: the name of one of vLLM's parsers, such as
    `qwen3` or `deepseek_r1`, or `none`. Chosen by the chat template when not said."""

    raw: dict[str, bool | int | float | str] = later({})
    """More of vLLM's engine arguments, by its own names. Those that say what is loaded or run, and
    those that stand above, are refused."""

    @property
    def gpus_per_replica(self) -> int:
        """GPUs (or CPU shares) of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @model_validator(mode="after")
    def _is_vllm_s(self) -> "EngineSpec":
        if self.kind == "llama_cpp" and self.gpus_per_replica > 1:
            raise ValueError("kind: llama_cpp serves a replica on one machine's CPU, not in parts")
        return self

    @field_validator("raw")
    @classmethod
    def _may_be_said(
        cls, raw: dict[str, bool | int | float | str]
    ) -> dict[str, bool | int | float | str]:
        for name in raw:
            if name in cls.model_fields:
                raise ValueError(f"`{name}` is a key of its own: serve.engine.{name}")
            if name not in RAW_ARGUMENTS:
                close = get_close_matches(name, RAW_ARGUMENTS, 1, 0.7)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                raise ValueError(
                    f"`{name}` is not among the arguments of vLLM that may be said here{hint} "
                    f"({', '.join(RAW_ARGUMENTS)})"
                )
        return raw

    @field_validator("reasoning_parser")
    @classmethod
    def _known_parser(cls, name: str | None) -> str | None:
        close = get_close_matches(name, REASONING_PARSERS, 1, 0.7) if name else []
        if close and close[0] != name:  # a newer engine may have others
            raise ValueError(f"vLLM has no reasoning parser {name}; did you mean `{close[0]}`?")
        return name


class CanarySpec(Block):
    """How traffic moves to an approved candidate."""

    steps: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)
    """Shares of the traffic, rising to 100%."""

    hold: Duration = 0.0
    """How long each step but the last is watched before the next."""

    max_error_rate: Fraction = 0.01
    """Share of the candidate's answers that may be server errors; above it the traffic goes
    back."""

    @model_validator(mode="after")
    def _rising(self) -> "CanarySpec":
        if (
            list(self.steps) != sorted(set(self.steps))
            or self.steps[-1] != 1.0
            or self.steps[0] <= 0
        ):
            raise ValueError("steps must rise and end at 100%")
        return self


class ServeSpec(Block):
    """Deployment with Ray Serve and vLLM."""

    model_name: str | None = None
    """The model's name in the OpenAI-compatible API; the spec's name when not said."""

    replicas: ReplicasSpec = ReplicasSpec()
    """Autoscaling."""

    engine: EngineSpec = EngineSpec()
    """vLLM."""

    canary: CanarySpec = CanarySpec()
    """Traffic steps."""
