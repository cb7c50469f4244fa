"""The `approval:` block: who may let a candidate have traffic."""

import unicodedata

from pydantic import Field, model_validator

from assay.spec.block import Block, Duration


class ApprovalSpec(Block):
    """Who must agree before promotion."""

    reviewers: tuple[str, ...] = Field(min_length=1)
    """Names that may approve or reject."""

    required: int = Field(1, ge=1)
    """How many different reviewers must approve."""

    required_on_soft_miss: int = Field(2, ge=1)
    """How many must approve, each with a reason, when a soft limit was missed; never fewer than
    `required`."""

    expires: Duration = 72 * 3600.0
    """How long an approval holds."""

    allow_self_approval: bool = False
    """Whether the person who started the run may approve it."""

    @model_validator(mode="after")
    def _enough_reviewers(self) -> "ApprovalSpec":
        num_people = len({folded_name(name) for name in self.reviewers})
        if self.required > num_people:
            raise ValueError(
                f"required is {self.required}, but only {num_people} reviewers are named"
            )
        return self


def folded_name(name: str) -> str:
    """A person's name as it is compared: `Sam`, `sam` and the same in full-width letters are one
    person."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
