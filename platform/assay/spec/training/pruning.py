"""The steps `prune` and `recover` of `compress:`."""

from typing import Literal

from pydantic import Field, model_validator

from assay.spec.block import Block, Fraction, refuse


class PruneSpec(Block):
    """Weights of linear modules become 0. Engines without a kernel for such weights serve them no
    faster, and no smaller."""

    method: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    """Which ones: the smallest (`magnitude`), the smallest times what comes in (`wanda`, Sun et
    al., 2024), or those whose loss the others can make up for (`sparsegpt`, Frantar and Alistarh,
    2023)."""

    sparsity: Fraction = Field(0.5, gt=0, lt=1)
    """Share of each matrix that becomes 0."""

    pattern: Literal["unstructured", "2:4"] = "unstructured"
    """`2:4` takes two of each four neighbours in a row."""

    threshold: float | None = Field(None, gt=0)
    """Of `magnitude`, in place of `sparsity`: weights nearer to 0 than this become 0."""

    ignore: tuple[str, ...] = ("lm_head",)
    """Modules left as they are, by name, or by a regular expression that starts with `re:`."""

    @model_validator(mode="after")
    def _one_share(self) -> "PruneSpec":
        refuse(
            [
                (
                    self.pattern == "2:4" and self.sparsity != 0.5,
                    "pattern: 2:4 is a sparsity of 50%",
                ),
                (
                    self.threshold is not None and self.method != "magnitude",
                    f"threshold is for method: magnitude; {self.method} takes sparsity",
                ),
                (
                    self.threshold is not None
                    and (self.pattern == "2:4" or "sparsity" in self.model_fields_set),
                    "threshold alone says how much becomes 0; take sparsity and pattern out",
                ),
            ]
        )
        return self


class RecoverSpec(Block):
    """Training after `prune`: the weights that are left learn the merged model's distributions of
    the next token on the calibration data. What is 0 stays 0."""

    num_epochs: int = Field(2, ge=1)
    """How often each calibration example is seen."""

    learning_rate: float = Field(1e-4, gt=0)
    """AdamW's, falling linearly to 0."""

    batch_size: int = Field(8, ge=1)
    """Examples a step."""
