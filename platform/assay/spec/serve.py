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


class ReplicasSpec(Block):
    """Ray Serve's autoscaling of engine replicas."""

    min: int = Field(1, ge=1)
    """Fewest replicas."""

    max: int = Field(1, ge=1)
    """Most replicas."""

    target_ongoing_requests: int = Field(16, ge=1)
    """Requests in flight that one replica should have."""

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicasSpec":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class EngineSpec(Block):
    """vLLM's own settings, under their own names."""

    max_model_len: int = Field(2048, ge=16)
    """Longest prompt and answer together, in tokens."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of what is not quantized. `auto` is the model's own, but float32 on a processor
    that does not compute in bfloat16."""

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs (or CPU shares) that hold one replica together."""

    gpu_memory_utilization: Fraction = 0.9
    """Share of a GPU's memory that the engine may take."""

    enforce_eager: bool = True
    """Start without compiling: faster to start, slower to decode."""

    kv_cache_gb_on_cpu: int = Field(1, ge=1)
    """Gigabytes of KV cache of a replica that runs on CPU."""

    reasoning_parser: str | None = later(None)
    """What tells a model's reasoning from its answer: the name of one of vLLM's parsers, such as
    `qwen3` or `deepseek_r1`, or `none`. Chosen by the chat template when not said."""

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
