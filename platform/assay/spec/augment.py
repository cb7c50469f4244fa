"""The `augment:` step of `data.steps`: examples that are made of others."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from assay.spec.block import Block, Fraction

Task = Literal["paraphrase", "back_translate", "instruction"]


class AskSpec(Block):
    """A model behind an OpenAI-compatible URL."""

    task: Task
    """`paraphrase` says the question in other words; `back_translate` has it translated and
    translated back; `instruction` makes another question of its kind, with an answer."""

    url: str = Field(pattern=r"^https?://")
    """Base of its API, ending in `/v1`."""

    model: str
    """Its name there."""

    api_key_env: str | None = None
    """Environment variable that holds its API key."""

    via: str = Field("French", min_length=2)
    """For `back_translate`: the language in between, in English."""

    budget: int = Field(200_000, ge=1)
    """Tokens, prompts and answers together; answers that are on file count too. When they are used
    up, which is looked at after every 256 prompts, the rows that are left get no products."""


class AugmentSpec(Block):
    """More examples are made of those that are there, by one of four ways. A product keeps its
    answer, but for `swap` and `instruction`; it is marked with its parent, and both are in one
    split; of a parent that is held out no product is trained on."""

    noise: Fraction | None = Field(None, gt=0)
    """So large a share of the question's words (Chinese: of its letters) gets a slip of the pen:
    two letters change places, or one is missing or there twice."""

    synonyms: dict[str, tuple[str, ...]] = Field({})
    """Words of the question and what may stand for them: `{big: [large, huge]}`."""

    swap: dict[str, Annotated[tuple[str, ...], Field(min_length=2)]] = Field({})
    """Names of one kind, of which one takes another's place in question and answer: `{product:
    [Router X1, Router X2]}`. Only where both have it."""

    ask: AskSpec | None = None
    """Made by a model."""

    copies: int = Field(1, ge=1, le=10)
    """Products of a row, at most."""

    share: Fraction = Field(1.0, gt=0)
    """Of the rows, drawn by each row alone."""

    min_similarity: Fraction = 0.2
    """Products less like their parent go: the share of words that the questions have in common, in
    order."""

    max_similarity: Fraction = 0.98
    """And those that are more like it."""

    @model_validator(mode="after")
    def _one_way(self) -> "AugmentSpec":
        ways = (self.noise, self.synonyms or None, self.swap or None, self.ask)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("choose one of noise, synonyms, swap, ask")
        if self.min_similarity >= self.max_similarity:
            raise ValueError("min_similarity must be below max_similarity")
        return self

    @property
    def way(self) -> str:
        """How products are made: `noise`, `synonyms`, `swap`, or what is asked for."""
        if self.ask is not None:
            return self.ask.task
        if self.noise is not None:
            return "noise"
        return "synonyms" if self.synonyms else "swap"
