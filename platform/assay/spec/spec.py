"""The whole spec: every block under its key."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from assay.spec.approval import ApprovalSpec
from assay.spec.block import Block, refuse
from assay.spec.compress import CompressSpec
from assay.spec.data import DataSpec
from assay.spec.gate import GateSpec
from assay.spec.model import ModelField
from assay.spec.serve import ServeSpec
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec
from assay.spec.values.names import NAME

BLOCKS_ALONE = "blocks_alone"
"""In the context of a validation: the blocks are held to their own rules, and not to those between
them."""


class Spec(Block):
    """From a base model to a served one."""

    version: Literal[1]
    """Version of the spec language."""

    name: str = Field(pattern=NAME)
    """Name of what is built: lower-case letters, digits and dashes."""

    model: ModelField
    """The base model."""

    data: DataSpec
    """What to train on."""

    sweep: SweepSpec | None = None
    """What to try first; nothing when not said. `auto` finds the learning rate."""

    train: TrainSpec | Annotated[tuple[TrainSpec, ...], Field(min_length=1)] = TrainSpec()
    """The training run; or a list of them, each of which starts from what the one before it
    made."""

    compress: CompressSpec = CompressSpec()
    """Quantization: one scheme's name, or a list of steps."""

    gate: GateSpec
    """What the candidate must show."""

    approval: ApprovalSpec
    """Who must agree."""

    serve: ServeSpec = ServeSpec()
    """How it is served."""

    @model_validator(mode="after")
    def _goes_together(self, info: ValidationInfo) -> "Spec":
        if not (info.context and info.context.get(BLOCKS_ALONE)):
            refuse([*_contradictions(self), *_split_faults(self)])
        return self

    @property
    def train_steps(self) -> tuple[TrainSpec, ...]:
        """The training runs in their order; a sweep varies the first."""
        if isinstance(self.train, tuple):
            return self.train
        return (self.train,)

    @property
    def all_data(self) -> tuple[DataSpec, ...]:
        """The spec's data, and those of single training runs."""
        return (self.data, *(train.data for train in self.train_steps if train.data is not None))

    @property
    def served_name(self) -> str:
        """The model's name in the OpenAI-compatible API."""
        return self.serve.model_name or self.name


FORMATS = {
    "sft": ("messages", "prompt_completion", "alpaca", "sharegpt"),
    "pretrain": ("text",),
    "classify": ("classification",),
    "reward": ("preference",),
    "dpo": ("preference",),
    "kto": ("kto",),
    "orpo": ("preference",),
    "grpo": ("messages", "prompt_completion", "alpaca", "sharegpt"),
    "distill": ("messages", "prompt_completion", "alpaca", "sharegpt"),
}
"""The forms of data that each objective learns from."""


def _split_faults(spec: Spec) -> Iterator[tuple[bool, str]]:
    """Held-out shares that leave too little, or that nothing can be made of."""
    needs_selection = []
    for name, is_said in (
        ("sweep", spec.sweep is not None),
        ("train.early_stopping", any(step.early_stopping for step in spec.train_steps)),
    ):
        if is_said:
            needs_selection.append(name)
    yield (
        bool(needs_selection) and spec.data.selection == 0.0,
        f"data.selection is 0, and {' and '.join(needs_selection)} decides on its loss; give it a "
        "share such as 5%",
    )
    for data in spec.all_data:
        shares = []
        for split in (data.selection, data.gate):
            if isinstance(split, float):
                shares.append(split)
        yield (
            sum(shares) >= 1,
            "data.selection and data.gate together leave nothing to train on; make one of the "
            "shares smaller",
        )
    learns_text = spec.data.format == "text" or spec.train_steps[0].objective.pretrain is not None
    own_data = spec.train_steps[0].data is not None
    yield (
        learns_text and not own_data and spec.data.gate is not None,
        "data.gate seals a part of plain text, which asks nothing that a gate could evaluate; take "
        "data.gate out, and "
        "evaluate with tasks of the suite",
    )


def _contradictions(spec: Spec) -> Iterator[tuple[bool, str]]:
    """What cannot work together, and why. A message names the key that it should be shown at
    first."""
    steps = spec.train_steps
    first, last = steps[0], steps[-1]
    if spec.sweep and spec.sweep.num_workers:
        yield (
            first.global_batch_size % spec.sweep.num_workers > 0,
            f"train.global_batch_size {first.global_batch_size} is not divisible by "
            "sweep.num_workers "
            f"{spec.sweep.num_workers}",
        )
    yield (
        spec.sweep is not None
        and spec.sweep.scheduler == "pbt"
        and first.early_stopping is not None,
        "sweep.scheduler: pbt takes every trial to its end, and train.early_stopping would not; "
        "take one of them out",
    )
    yield (
        spec.sweep is not None
        and spec.sweep.scheduler == "pbt"
        and bool(first.learning_rate_changes),
        "sweep.scheduler: pbt finds train.learning_rate_changes by itself; take them out",
    )
    mistake = spec.sweep.mistake(first) if spec.sweep else None
    yield (mistake is not None, f"sweep.parameters offers what train refuses: {mistake}")
    yield (
        not last.objective.generates and not last.objective.classifies,
        f"train ends with objective: {last.objective.name}, which makes a model that scores and "
        "cannot answer, so that "
        "nothing could be served; after a reward model add a grpo step that uses it",
    )
    yield (
        last.objective.classifies and bool(spec.compress.recipe),
        "compress.scheme: a classifier with a linear head is served as it was trained; write "
        "compress: {scheme: none}",
    )
    serves_gguf = spec.serve.engine.kind == "llama_cpp"
    yield (
        bool(spec.compress.gguf) and not serves_gguf,
        "compress writes GGUF, which vLLM does not serve; write serve: {engine: {kind: llama_cpp}}",
    )
    yield (
        serves_gguf and not spec.compress.gguf,
        "serve.engine.kind: llama_cpp serves GGUF alone; write compress: [{gguf: q8_0}]",
    )
    yield (
        serves_gguf and bool(spec.model.chat_template_kwargs),
        "model.chat_template_kwargs are not handed to llama.cpp; take them out, or serve with vLLM",
    )
    yield (
        bool(last.method.prefix_tuning),
        "train ends with method: prefix_tuning, whose keys and values cannot be added to the "
        "weights, and the engine "
        "serves no prefixes; use prompt_tuning, p_tuning or lora",
    )
    yield (
        last.method.bottleneck is not None and not last.method.can_be_merged,
        "train ends with method: bottleneck after a part of the layers, which cannot be added to "
        "the weights, and the "
        "engine serves no such adapters; use placement: parallel, or lora",
    )
    scored = False
    for step in steps:
        data = step.data or spec.data
        wanted = FORMATS[step.objective.name]
        yield (
            data.format not in ("auto", *wanted),
            f"train with objective: {step.objective.name} learns from data of the form "
            f"{' or '.join(wanted)}, and "
            f"data.format is {data.format}",
        )
        rewards = step.objective.grpo.rewards if step.objective.grpo else ()
        asks_scorer = any(one.name == "reward_model" for one in rewards)
        yield (
            asks_scorer and not scored,
            "train: the reward `reward_model` needs a step with objective: reward before it",
        )
        scored = scored or step.objective.reward is not None
    yield (
        any(
            not (step.objective.generates and step.method.can_be_merged)
            for step in steps[:-1]
            if not step.objective.reward
        ),
        "train: each step starts from the model that the one before it made; a classifier with a "
        "linear head, a prefix "
        "and a bottleneck after a part of the layers are no model to go on from",
    )
