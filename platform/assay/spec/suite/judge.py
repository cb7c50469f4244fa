"""A suite's `judge:`: a model that reads answers."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from assay.spec.block import Block, Fraction, later
from assay.spec.values.templates import check_prompt

# Of a judge's rubric and of its prompt's template.
MAX_PROMPT_CHARACTERS = 20_000

# Between a judge's lowest and highest score.
MAX_SCALE = 100


class JudgeSpec(Block):
    """A model that reads answers: for abstentions, and by a rubric for the metric `judge`."""

    url: str = Field(pattern=r"^https?://")
    """Base of its OpenAI-compatible API, ending in `/v1`."""

    model: str
    """Its name there."""

    api_key_env: str | None = None
    """Name of its API key, among the place's secrets or in the environment."""

    rubric: str | None = later(None, min_length=1, max_length=MAX_PROMPT_CHARACTERS)
    """What earns which score, in words; the metric `judge` needs it."""

    scale: tuple[int, int] = later((1, 5))
    """Lowest and highest score of the rubric, whole numbers. Limits read it as 0 to 1."""

    prompt: Annotated[str, AfterValidator(check_prompt)] | None = later(
        None, min_length=1, max_length=MAX_PROMPT_CHARACTERS
    )
    """What the judge is asked, as a Jinja template of `question`, `answer`, `reference`, `rubric`,
    `lowest`, `highest` and `fence` (a mark that no answer can hold); a prompt of the gate's own
    when not said. The reply must end in a line `SCORE: n`."""

    labels: str | None = later(None)
    """JSON Lines of `question`, `answer`, `label` (a person's score on the scale) and, where there
    is one, `reference`, inside the folder named like the suite. `assay gate selftest` measures the
    judge on them."""

    agreement_within: int = later(0, ge=0)
    """How far a score may lie from the label and still agree with it."""

    min_agreement: Fraction | None = later(None)
    """Share of the labels with which the judge must agree; the lower confidence bound counts. While
    it was not measured or not reached, limits on the metric `judge` are inconclusive."""

    min_kappa: Fraction | None = later(None)
    """The same for Cohen's kappa with quadratic weights: agreement beyond what chance alone would
    give."""

    @model_validator(mode="after")
    def _hangs_together(self) -> "JudgeSpec":
        lowest, highest = self.scale
        if not lowest < highest <= lowest + MAX_SCALE:
            raise ValueError(f"scale is written [lowest, highest], at most {MAX_SCALE} apart")
        if self.agreement_within >= highest - lowest:
            raise ValueError("agreement_within is as wide as the scale: every score would agree")
        said = (self.prompt, self.labels, self.min_agreement, self.min_kappa)
        if self.rubric is None and any(value is not None for value in said):
            raise ValueError("prompt, labels, min_agreement and min_kappa go with a rubric")
        return self
