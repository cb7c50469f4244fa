"""What was asked of the gate without a run: which model, beside which other, by which suite."""

from typing import Literal

from assay.records.gate import EvaluationRecord, ServiceRecord
from assay.records.record import Record
from assay.records.stages import DeploymentRecord

URL_MARK = "url:"
"""Before the digest of what is known of a model whose bytes are not."""


class ModelRef(Record):
    """A model to evaluate: its files, or a server whose bytes nobody here can see."""

    source: str = ""
    """`hf:ORG/NAME`, `package:NAME/FILE` or a folder; empty for a server."""
    url: str = ""
    """Base of an OpenAI-compatible API, ending in `/v1`."""
    model: str = ""
    """The model's name at the server."""
    revision: str = ""
    """What the server's owner calls the version that answers; the same one is not asked twice."""

    @property
    def words(self) -> str:
        """The subject, for people."""
        if self.url:
            if self.model:
                return f"{self.model} at {self.url}"
            return self.url
        return self.source


class EvaluationRequest(Record):
    """One `assay gate run`, as the ledger keeps it in the place of a spec."""

    kind: Literal["weighing"] = "weighing"
    candidate: ModelRef
    base: ModelRef | None
    suite: tuple[str, ...]
    engine: dict[str, str | int | float | bool]
    """vLLM's settings that differ from the defaults."""


class SlotEvaluation(Record):
    """A model's answers, and where it stood when it gave them."""

    deployment: DeploymentRecord
    engine: str
    """What tells engines and their settings apart."""
    evaluation: EvaluationRecord
    service: ServiceRecord | None = None
    """The service under load, where the suite limits it."""
