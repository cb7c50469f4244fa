"""How far a judge says of answers what people said of them."""

from assay.records.record import Record


class Disagreement(Record):
    """An answer on which the judge and a person differ."""

    question: str
    answer: str
    label: int
    score: int | None
    """None where the judge gave no score that can be read."""


class JudgeAgreement(Record):
    """A judge, measured on people's labels."""

    judge_digest: str
    """SHA-256 over all that its scores depend on: URL, name, rubric, scale and prompt."""
    labels_digest: str
    """SHA-256 of the labels' file."""
    model: str
    num_labels: int
    num_questions: int
    """Labels of one question count as evidence together."""
    within: int
    """How far a score may lie from the label and agree."""
    confidence: float
    """Of each one-sided bound."""
    num_agreed: int
    num_unread: int
    """Labels to which the judge gave no score that can be read; they count as the greatest
    disagreement there is."""
    agreement_lower: float
    """Lower bound of the share of labels that the judge agrees with."""
    kappa: float | None
    """Cohen's, with quadratic weights; None where labels and scores are all one."""
    kappa_lower: float | None
    disagreements: tuple[Disagreement, ...] = ()
    """Some, the greatest first."""
    at: float
    """Seconds since the epoch."""

    @property
    def agreement(self) -> float:
        """Share of the labels that the judge agrees with."""
        return self.num_agreed / self.num_labels
