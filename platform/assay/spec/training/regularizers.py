"""`train.ewc` and `train.contrastive`: what is added to a loss."""

from pydantic import Field

from assay.spec.block import Block, Paths


class EwcSpec(Block):
    """Elastic weight consolidation (Kirkpatrick et al., 2017): weights that the named data need
    stay near where they were."""

    data: Paths
    """Examples of what must not be forgotten."""

    strength: float = Field(1e6, gt=0)
    """How strongly a weight is held: it goes 1 / (1 + learning rate * strength * its Fisher
    information) of the way that a step would take it from its start. The information is scaled to a
    mean of 1, and most weights have far less, so that useful strengths are large."""

    num_examples: int = Field(64, ge=1)
    """Examples that the Fisher information is estimated on."""


class ContrastiveSpec(Block):
    """Contrastive training (SimCTG; Su et al., 2022): the last hidden states of a text's tokens are
    pushed apart, so that the model repeats itself less."""

    margin: float = Field(0.5, gt=0, le=1)
    """How far below 1 the cosine similarity of two tokens of a text is to be."""

    weight: float = Field(1.0, gt=0)
    """Weight beside the cross entropy."""
