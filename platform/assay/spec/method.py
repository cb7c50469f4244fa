"""The `train.method:` block: which weights are trained."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from assay.spec.block import Block, Fraction

Targets = Literal["all-linear"] | tuple[str, ...]


class _OnLayers(Block):
    """A method that can be held to some of the layers."""

    layers: str | None = None
    """Which transformer layers get adapters: `15-29`, `0,4,8` or a mix; all when not said. Counts
    from 0."""

    @field_validator("layers", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int) else value
        if text is not None and not (
            isinstance(text, str) and re.fullmatch(r"\d+(-\d+)?(,\s*\d+(-\d+)?)*", text)
        ):
            raise ValueError("write layers as 15-29, or 0,4,8")
        return text

    def layer_indices(self) -> tuple[int, ...] | None:
        """`layers` as sorted indices; None for all."""
        if self.layers is None:
            return None
        found: set[int] = set()
        for part in self.layers.split(","):
            first, _, last = part.strip().partition("-")
            found.update(range(int(first), int(last or first) + 1))
        return tuple(sorted(found))


class LoraSpec(_OnLayers):
    """Low-rank adapters (Hu et al., 2021), through peft."""

    r: int = Field(16, ge=1, le=1024)
    """Rank of the adapters."""

    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / r."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""

    target_modules: Targets = "all-linear"
    """Names of the linear modules to adapt, or all of them but the output head."""

    use_dora: bool = False
    """Train each column's magnitude apart from its direction (Liu et al., 2024)."""

    use_rslora: bool = False
    """Scale by alpha over the square root of r, which keeps high ranks stable (Kalajdzievski,
    2023)."""

    init: Literal["default", "gaussian", "pissa", "olora"] = "default"
    """How the adapters begin: doing nothing (`default`, `gaussian`), or with the weights' own main
    directions (`pissa`, Meng et al., 2024; `olora`, Büyükakyüz, 2024)."""

    @model_validator(mode="after")
    def _init_can_be_undone(self) -> "LoraSpec":
        if self.init in ("pissa", "olora") and (self.use_dora or self.use_rslora):
            raise ValueError(
                f"init: {self.init} changes the base weights, and is saved as their difference, "
                "which use_dora and "
                "use_rslora do not allow"
            )
        return self


class QloraSpec(LoraSpec):
    """Low-rank adapters on a base model held in 4 bits (Dettmers et al., 2023), through
    bitsandbytes."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """`nf4` has its 16 levels where normally distributed weights are."""

    double_quant: bool = True
    """Quantize the quantization's own constants, too: 0.37 bits less for each weight."""

    @model_validator(mode="after")
    def _base_is_quantized(self) -> "QloraSpec":
        if self.init in ("pissa", "olora"):
            raise ValueError(
                f"init: {self.init} changes the base weights, which qlora keeps quantized"
            )
        return self


class AdaloraSpec(_OnLayers):
    """Low-rank adapters whose ranks move to where they matter (Zhang et al., 2023), through
    peft."""

    init_r: int = Field(12, ge=1, le=1024)
    """Rank of every adapter at first."""

    target_r: int = Field(8, ge=1, le=1024)
    """Mean rank in the end."""

    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / rank."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""

    target_modules: Targets = "all-linear"
    """Names of the linear modules to adapt, or all of them but the output head."""

    warmup: Fraction = 0.1
    """Share of the steps before ranks begin to fall."""

    final: Fraction = 0.3
    """Share of the steps, at the end, in which they stay as they are."""

    interval: int = Field(1, ge=1)
    """Steps between two changes of the ranks."""

    @model_validator(mode="after")
    def _falls(self) -> "AdaloraSpec":
        if self.target_r > self.init_r:
            raise ValueError("target_r is the mean rank in the end; it cannot be above init_r")
        if self.warmup + self.final >= 1:
            raise ValueError(
                "warmup and final together leave no step in which the ranks could fall"
            )
        return self


class Ia3Spec(Block):
    """Learned scales on keys, values and the feed-forward layer (Liu et al., 2022), through
    peft."""

    target_modules: tuple[str, ...] | None = None
    """Modules whose outputs are scaled; peft's own choice for the architecture when not said."""

    feedforward_modules: tuple[str, ...] | None = None
    """Those of them whose inputs are scaled instead."""

    @model_validator(mode="after")
    def _both_or_none(self) -> "Ia3Spec":
        targets, inner = self.target_modules, self.feedforward_modules
        if (targets is None) != (inner is None):
            raise ValueError(
                "target_modules and feedforward_modules are said together, or not at all"
            )
        if targets is not None and inner is not None and not set(inner) <= set(targets):
            raise ValueError("feedforward_modules must stand in target_modules, too")
        return self


class PrefixTuningSpec(Block):
    """Learned keys and values before every layer's own (Li and Liang, 2021), through peft."""

    num_virtual_tokens: int = Field(16, ge=1, le=1024)
    """Length of the prefix."""

    projection: bool = False
    """Train the prefix through a small network, which is thrown away in the end."""


class PromptTuningSpec(Block):
    """Learned embeddings before the prompt (Lester et al., 2021), through peft."""

    num_virtual_tokens: int = Field(16, ge=1, le=1024)
    """How many."""

    init_text: str | None = None
    """Begin with this text's own embeddings; at random when not said."""


class PTuningSpec(Block):
    """Learned embeddings before the prompt, made by a small network (Liu et al., 2021), through
    peft."""

    num_virtual_tokens: int = Field(16, ge=1, le=1024)
    """How many."""

    hidden_size: int = Field(128, ge=1)
    """Width of the network."""


class BottleneckSpec(_OnLayers):
    """Bottleneck adapters: small networks inside the layers (Houlsby et al., 2019). Their
    activation is the model's."""

    size: int = Field(64, ge=1, le=8192)
    """Width of their narrow part."""

    placement: Literal["parallel", "after_mlp", "after_both"] = "parallel"
    """`parallel` stands beside the feed-forward part and has its form (He et al., 2022): merged,
    that part is wider by `size`. `after_mlp` (Pfeiffer et al., 2021) and `after_both`, behind
    attention as well (Houlsby et al., 2019), cannot be merged, and so not served."""


class FreezeSpec(Block):
    """A part of the model's own weights is trained, and the rest is frozen."""

    last_layers: int | None = Field(None, ge=1)
    """How many of the last transformer layers are trained."""

    trainable: tuple[str, ...] = ()
    """Regular expressions; the weights whose names they match are trained, too, such as
    `embed_tokens`."""

    @field_validator("trainable")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return checked_patterns(patterns)

    @model_validator(mode="after")
    def _something_is_trained(self) -> "FreezeSpec":
        if self.last_layers is None and not self.trainable:
            raise ValueError("say what is trained: last_layers, trainable, or both")
        return self


class MethodSpec(Block):
    """Which weights are trained; exactly one of these is set."""

    lora: LoraSpec | None = None
    """Low-rank adapters on a frozen model; with DoRA, rsLoRA, PiSSA and OLoRA as its fields."""

    qlora: QloraSpec | None = None
    """Low-rank adapters on a model frozen in 4 bits."""

    adalora: AdaloraSpec | None = None
    """Low-rank adapters whose ranks move to where they matter."""

    ia3: Ia3Spec | None = None
    """Learned scales: the fewest weights."""

    prefix_tuning: PrefixTuningSpec | None = None
    """Learned keys and values before every layer's own."""

    prompt_tuning: PromptTuningSpec | None = None
    """Learned embeddings before the prompt."""

    p_tuning: PTuningSpec | None = None
    """The same, made by a small network."""

    bottleneck: BottleneckSpec | None = None
    """Small networks inside the layers."""

    freeze: FreezeSpec | None = None
    """The last layers, or weights by name."""

    full: bool = False
    """Every weight."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A name alone stands for the method with its defaults."""
        if value == "full":
            return {"full": True}
        if isinstance(value, str) and value in cls.model_fields:
            return {value: {}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "MethodSpec":
        chosen = [name for name in type(self).model_fields if getattr(self, name)]
        if len(chosen) != 1:
            raise ValueError(f"choose one method: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        """The chosen method's key."""
        return next(name for name in type(self).model_fields if getattr(self, name))

    @property
    def low_rank(self) -> LoraSpec | None:
        """The LoRA block, on whichever base it stands."""
        return self.lora or self.qlora

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained beside a frozen model, not weights of the model's own."""
        return not (self.full or self.freeze)

    @property
    def is_prompt(self) -> bool:
        """Whether what is learned stands before the input, so that it cannot be added to the
        weights."""
        return bool(self.prefix_tuning or self.prompt_tuning or self.p_tuning)

    @property
    def can_be_merged(self) -> bool:
        """Whether what is learned can become a part of a model that any engine serves."""
        return not (
            self.prefix_tuning or (self.bottleneck and self.bottleneck.placement != "parallel")
        )


def checked_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The same regular expressions; raises ValueError for one that is none."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns
