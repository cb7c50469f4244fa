"""The `train.objective:` block: what training makes better."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from assay.spec.block import Block, Fraction
from assay.spec.method import checked_patterns
from assay.spec.model import ModelField

RewardName = Literal["exact_match", "contains", "length", "regex", "json_valid", "reward_model"]


class SftSpec(Block):
    """Supervised fine-tuning: cross entropy on the assistant's turns."""


class PretrainSpec(Block):
    """Continued pre-training: cross entropy on every token of plain text."""


class ClassifySpec(Block):
    """Classification of texts."""

    head: Literal["text", "linear"] = "text"
    """`text`: the label is the answer in words, which any chat model can learn. `linear`: a linear
    layer on an encoder (BERT and its like) or on the last token of a decoder. It is served in the
    precision it was trained in (`compress: {scheme: none}`), answers chats with the label, and
    `/v1/classify` with all probabilities."""

    instruction: str | None = None
    """For `text`: what the model is asked before each text; `Which of these is it: A, B, C?` when
    not said."""


class RewardSpec(Block):
    """Reward modelling on preference pairs (Bradley and Terry): a linear layer on the last
    token."""

    center: float = Field(0.0, ge=0)
    """Weight of the squared sum of a pair's rewards, which keeps them around 0 (Eisenstein et al.,
    2023)."""


class DpoSpec(Block):
    """Direct preference optimization (Rafailov et al., 2023) against the model that training starts
    from."""

    beta: float = Field(0.1, gt=0)
    """How strongly it is held to that model."""

    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """DPO's own loss, IPO's (Azar et al., 2023) or SLiC's hinge (Zhao et al., 2023)."""

    sft_weight: float = Field(0.0, ge=0)
    """Weight of the cross entropy on the chosen answers, added to the loss (Pang et al., 2024)."""


class KtoSpec(Block):
    """Kahneman-Tversky optimization (Ethayarajh et al., 2024) on single answers that are good or
    bad."""

    beta: float = Field(0.1, gt=0)
    """How strongly it is held to the model that training starts from."""

    desirable_weight: float = Field(1.0, gt=0)
    """Weight of good answers."""

    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of bad answers; raise it where they are fewer."""


class OrpoSpec(Block):
    """Odds-ratio preference optimization (Hong et al., 2024); needs no reference model."""

    beta: float = Field(0.1, gt=0)
    """Weight of the odds ratio beside the cross entropy on the chosen answers."""


class RewardFunctionSpec(Block):
    """One of the rewards of online training. A plain name stands for `name`."""

    name: RewardName
    """`exact_match` and `contains` compare with the data's answer, `length` rewards answers near
    `target_tokens`, `regex` those that `pattern` matches, `json_valid` those that are JSON, and
    `reward_model` is the score of the `reward` step before."""

    weight: float = 1.0
    """Weight in the sum."""

    pattern: str | None = None
    """For `regex`: searched for in the answer."""

    target_tokens: int | None = Field(None, ge=1)
    """For `length`: the length that is best."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "RewardFunctionSpec":
        for name, field in (("regex", "pattern"), ("length", "target_tokens")):
            if (self.name == name) != (getattr(self, field) is not None):
                raise ValueError(f"`{field}` and the reward `{name}` go together")
        if self.pattern is not None:
            checked_patterns((self.pattern,))
        return self


def _from_name(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    return value


class GrpoSpec(Block):
    """Online reinforcement learning by group-relative policy optimization (Shao et al., 2024),
    through TRL."""

    rewards: Annotated[
        tuple[Annotated[RewardFunctionSpec, BeforeValidator(_from_name)], ...], Field(min_length=1)
    ]
    """What an answer is rewarded for."""

    num_generations: int = Field(8, ge=2)
    """Answers drawn for each prompt, which are compared with each other."""

    max_completion_length: int = Field(256, ge=1)
    """Longest answer, in tokens."""

    temperature: float = Field(1.0, gt=0)
    """Of the draws."""

    beta: float = Field(0.0, ge=0)
    """How strongly it is held to the model that training starts from."""

    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clipping of the probability ratio."""


class DistillSpec(Block):
    """Learning a teacher's distribution over the next token, on the data's completions (Hinton et
    al., 2015)."""

    teacher: ModelField
    """The teacher, with the same vocabulary."""

    temperature: float = Field(1.0, gt=0)
    """Flattens both distributions."""

    teacher_weight: Fraction = 0.5
    """Share of the teacher in the loss; the rest is cross entropy on the data."""


class ObjectiveSpec(Block):
    """What training makes better; exactly one of these is set."""

    sft: SftSpec | None = None
    """Answers like the data's."""

    pretrain: PretrainSpec | None = None
    """Text like the data's."""

    classify: ClassifySpec | None = None
    """The right label."""

    reward: RewardSpec | None = None
    """A score that is higher for the better answer of a pair; a `grpo` step after it can use
    that."""

    dpo: DpoSpec | None = None
    """The better answer of a pair, rather than the worse."""

    kto: KtoSpec | None = None
    """Good answers, and not bad ones."""

    orpo: OrpoSpec | None = None
    """The better answer of a pair, together with supervised fine-tuning."""

    grpo: GrpoSpec | None = None
    """Answers of its own that are rewarded."""

    distill: DistillSpec | None = None
    """A teacher's answers."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A name alone stands for the objective with its defaults."""
        if isinstance(value, str) and value in cls.model_fields:
            return {value: {}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "ObjectiveSpec":
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"choose one objective: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        """The chosen objective's key."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def classifies(self) -> bool:
        """Whether what it makes is a classifier with a head of its own."""
        return self.classify is not None and self.classify.head == "linear"

    @property
    def generates(self) -> bool:
        """Whether what is trained can answer, and so be served; otherwise it scores."""
        return self.reward is None and (self.classify is None or self.classify.head == "text")
