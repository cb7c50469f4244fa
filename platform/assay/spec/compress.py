"""The `compress:` block: how the merged model becomes the one that is served."""

import re
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from assay.spec.block import Block, later, refuse
from assay.spec.training.pruning import PruneSpec, RecoverSpec

Scheme = Literal[
    "none",
    "W8A8",
    "W8A16",
    "W4A16",
    "FP8_DYNAMIC",
    "FP8",
    "NVFP4A16",
    "NVFP4",
    "MXFP4A16",
    "MXFP4",
]

GgufType = Literal["f16", "q8_0", "q4_0", "q4_k_m"]

Method = Literal["round", "gptq", "awq", "autoround"]

GROUPED: tuple[Scheme, ...] = ("W4A16", "W8A16")
"""Schemes whose weights share a scale within a group of columns that may be chosen."""

FIXED_GROUPS: dict[Scheme, int] = {"NVFP4": 16, "NVFP4A16": 16, "MXFP4": 32, "MXFP4A16": 32}
"""Schemes whose format says how many columns share a scale."""

GROUP_SIZES = (128, 64, 32, 16)
"""Columns that `auto` tries, in this order: fewer scales first."""

CALIBRATED_METHODS: tuple[Method, ...] = ("gptq", "awq", "autoround")


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


ModulePattern = Annotated[str, Field(min_length=1), AfterValidator(_compilable)]
"""A regular expression that is looked for in a module's name, such as
`model.layers.3.self_attn.q_proj`."""


class SmoothQuantSpec(Block):
    """SmoothQuant (Xiao et al., 2023): outliers of the activations are moved into the weights
    before a step that quantizes both."""

    strength: float = Field(0.8, gt=0, lt=1)
    """How much of them is moved, from 0 to 1."""


class QuantizeSpec(Block):
    """Weights, and activations where the scheme says so, get fewer bits, in the compressed-tensors
    format that vLLM loads."""

    scheme: Scheme = "W8A8"
    """`W8A8`: int8 weights and activations. `W8A16`, `W4A16`: int8 or int4 weights alone.
    `FP8_DYNAMIC`, `FP8`: fp8 weights and activations, scaled as they come or by calibration.
    `NVFP4`, `MXFP4`: 4-bit floats of weights and activations; with `A16` of weights alone."""

    method: Method = "round"
    """How the rounded weights are chosen: `round` to nearest, or by the training data with `gptq`
    (Frantar et al., 2023), `awq` (Lin et al., 2024) or `autoround` (Cheng et al., 2024)."""

    group_size: int | Literal["auto", "channel"] = "auto"
    """Columns that share a scale in `W4A16` and `W8A16`; `channel` is one scale a row. `auto` is
    the largest of 128, 64, 32 and 16 that divides the model's columns."""

    symmetric: bool = True
    """Whether 0 stays 0 without an offset. `false` gives an offset to the weights of `W4A16`, and
    to the activations of `W8A8`."""

    activations: Literal["dynamic", "static"] = "dynamic"
    """Of `W8A8`: scaled for each token as it comes, or once for all by the calibration data."""

    weights_per: Literal["channel", "tensor"] = "channel"
    """Of `W8A8`: one scale a row of a weight matrix, or one for the whole of it."""

    iterations: int = Field(200, ge=1)
    """Steps of `autoround` for each layer."""

    modules: dict[ModulePattern, Scheme] = Field({})
    """Other schemes for some modules, by a regular expression on their name: `{self_attn: W8A8}`.
    `none` leaves them as they are."""

    ignore: tuple[str, ...] = ("lm_head",)
    """Modules left as they are, by name, or by a regular expression that starts with `re:`."""

    @field_validator("group_size")
    @classmethod
    def _known_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and (value < 16 or value % 16):
            raise ValueError("engines serve groups of 16 columns or a multiple")
        return value

    @model_validator(mode="after")
    def _fits_the_scheme(self) -> "QuantizeSpec":
        schemes = self.schemes
        grouped = [scheme for scheme in schemes if scheme in GROUPED]
        refuse(
            [
                (self.scheme == "none", "scheme: none quantizes nothing; take the step out"),
                (
                    self.group_size != "auto" and not grouped,
                    f"group_size is for {' and '.join(GROUPED)}, and {self.scheme} has none to "
                    "choose",
                ),
                (
                    not self.symmetric and not {"W8A8", "W4A16"} & set(schemes),
                    f"symmetric: false is for W8A8 and W4A16; {self.scheme} is symmetric",
                ),
                (
                    self.activations == "static" and "W8A8" not in schemes,
                    "activations: static is for W8A8; of fp8 it is called FP8",
                ),
                (
                    self.weights_per == "tensor" and "W8A8" not in schemes,
                    f"weights_per is for W8A8, and {self.scheme} has its own",
                ),
                (
                    self.method in ("awq", "autoround") and "W4A16" not in schemes,
                    f"method: {self.method} is for W4A16; {self.scheme} takes round or gptq",
                ),
                (
                    self.method == "gptq" and not {"W8A8", *GROUPED} & set(schemes),
                    f"method: gptq is for W8A8, W8A16 and W4A16; {self.scheme} takes round",
                ),
                (
                    self.iterations != 200 and self.method != "autoround",
                    "iterations is for method: autoround",
                ),
            ]
        )
        return self

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that some module gets, the general one first."""
        others = [scheme for scheme in self.modules.values() if scheme != "none"]
        return tuple(dict.fromkeys([self.scheme, *others]))

    def group_for(self, columns: Collection[int]) -> int:
        """Columns that share a scale in a model whose linear layers have these inputs: what is
        said, or the largest size that divides all."""
        if isinstance(self.group_size, int):
            return self.group_size
        fitting = (size for size in GROUP_SIZES if not any(count % size for count in columns))
        return next(fitting, GROUP_SIZES[-1])

    @property
    def is_calibrated(self) -> bool:
        """Whether it looks at training data."""
        needs_scales = self.activations == "static" or {"FP8", "NVFP4"} & set(self.schemes)
        return self.method in CALIBRATED_METHODS or bool(needs_scales)


class CompressStepSpec(Block):
    """One step: exactly one of its keys."""

    smoothquant: SmoothQuantSpec | None = None
    """Moves outliers of the activations into the weights, before `quantize` with `W8A8`."""

    prune: PruneSpec | None = None
    """Makes weights 0."""

    recover: RecoverSpec | None = None
    """Trains what `prune` has left."""

    quantize: QuantizeSpec | None = None
    """Gives weights and activations fewer bits."""

    gguf: GgufType | None = None
    """Writes the model in llama.cpp's format: 16 bits, 8, or 4 bits a weight. llama.cpp serves
    it."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A step's name stands for it with its defaults, a scheme's name for quantizing so."""
        if isinstance(value, str) and value in cls.model_fields:
            return {value: {}}
        if isinstance(value, str) and value in get_args(Scheme):
            return {"quantize": {"scheme": value}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "CompressStepSpec":
        if len([name for name in type(self).model_fields if getattr(self, name)]) != 1:
            raise ValueError(f"choose one step: {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The key that is said."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def is_calibrated(self) -> bool:
        """Whether the step looks at training data."""
        if self.gguf is not None:
            return False
        if self.quantize is not None:
            return self.quantize.is_calibrated
        return self.prune is None or self.prune.method != "magnitude"


class CalibrationSpec(Block):
    """Training examples that steps look at, as the model sees them: with the chat template. Nothing
    that is held out is ever among them."""

    num_samples: int = Field(256, ge=1, le=1000)
    """How many, chosen by their digest; all where there are fewer."""

    max_tokens: int = Field(1024, ge=16)
    """Tokens of each; longer ones are cut."""


class CompressSpec(Block):
    """What is done to the merged model before it is evaluated and served: one scheme's name, or
    `steps`, or a list of steps alone. By llm-compressor, in the compressed-tensors format that vLLM
    loads."""

    LIST_FORM: ClassVar[str] = "steps"

    scheme: Scheme = "W8A8"
    """`W8A8` (int8 weights and activations), `W8A16` and `W4A16` (weights only), `FP8_DYNAMIC`
    (Hopper and newer), and others of `quantize`, rounded to nearest; or `none`."""

    ignore: tuple[str, ...] = ("lm_head",)
    """Modules left as they are."""

    steps: tuple[CompressStepSpec, ...] = later(())
    """In place of `scheme`: what is done, in this order."""

    calibration: CalibrationSpec = later(CalibrationSpec())
    """The training examples that steps look at, and that the outcome is compared on."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A name stands for a scheme, and a list for `steps`. With steps there is no scheme."""
        if isinstance(value, str):
            return {"scheme": value}
        if isinstance(value, list | tuple):
            return {"scheme": "none", cls.LIST_FORM: value}
        if isinstance(value, dict) and value.get("steps"):
            return {"scheme": "none", **value}
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "CompressSpec":
        kinds = [step.kind for step in self.steps]
        refuse(
            [
                (
                    bool(self.steps) and self.scheme != "none",
                    "scheme and steps both say how to quantize; write the scheme as a step",
                ),
                (
                    bool(self.steps) and self.ignore != ("lm_head",),
                    "ignore goes into the step that it is for",
                ),
                (kinds.count("quantize") > 1, "quantize once; `modules` gives others a scheme"),
                (
                    "quantize" in kinds[:-1],
                    "quantize comes last: pruning and training need the weights as they were",
                ),
                (
                    "gguf" in kinds and len(kinds) > 1,
                    "gguf is a step alone: llama.cpp quantizes by itself, and gains nothing from "
                    "other steps",
                ),
                (
                    "recover" in kinds and "prune" not in kinds[: kinds.index("recover")],
                    "recover comes after prune",
                ),
                (
                    "smoothquant" in kinds and not self._smooths_activations(),
                    "smoothquant comes before a `quantize` step with W8A8 or FP8",
                ),
            ]
        )
        return self

    def _smooths_activations(self) -> bool:
        kinds = [step.kind for step in self.steps]
        later_steps = self.steps[kinds.index("smoothquant") + 1 :]
        schemes = {step.quantize.scheme for step in later_steps if step.quantize}
        return bool(schemes & {"W8A8", "FP8", "FP8_DYNAMIC"})

    @property
    def recipe(self) -> tuple[CompressStepSpec, ...]:
        """The steps, however they were said; none where the model serves as it was merged."""
        if self.scheme == "none":
            return self.steps
        quantize = QuantizeSpec(scheme=self.scheme, ignore=self.ignore)
        return (CompressStepSpec(quantize=quantize),)

    @property
    def quantize(self) -> QuantizeSpec | None:
        """The step that quantizes."""
        return next((step.quantize for step in self.recipe if step.quantize), None)

    @property
    def gguf(self) -> GgufType | None:
        """The type of the GGUF file that is made; None where none is."""
        return next((step.gguf for step in self.recipe if step.gguf), None)

    @property
    def prunes(self) -> bool:
        """Whether weights become 0."""
        return any(step.prune is not None for step in self.recipe)

    @property
    def is_calibrated(self) -> bool:
        """Whether a step looks at training data."""
        return any(step.is_calibrated for step in self.recipe)

    @property
    def served(self) -> Scheme | GgufType:
        """The scheme of most of the weights that are served."""
        if self.gguf:
            return self.gguf
        if self.quantize:
            return self.quantize.scheme
        return "none"

    @property
    def label(self) -> str:
        """The recipe in a few words."""
        words = []
        for step in self.recipe:
            if step.prune is not None:
                pattern = "2:4" if step.prune.pattern == "2:4" else f"{step.prune.sparsity:.0%}"
                words.append(f"{step.prune.method} {step.prune.threshold or pattern}")
            elif step.gguf is not None:
                words.append(f"gguf {step.gguf}")
            elif step.quantize is None:
                words.append(step.kind)
            else:
                method = step.quantize.method
                words += [] if method == "round" else [method]
                words.append("/".join(step.quantize.schemes))
        return " ".join(words) or "none"
