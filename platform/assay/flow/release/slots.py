"""Which slot a candidate is deployed into, chosen when it is deployed and while nobody moves
traffic."""

from collections.abc import Iterator
from contextlib import contextmanager

from assay.flow.release.writer import reconcile, writing
from assay.records.stages import Slot
from assay.settings import Settings
from assay.store.ledger import Ledger


@contextmanager
def idle_slot(settings: Settings) -> Iterator[Slot]:
    """A slot that nobody's requests can reach, for as long as Serve is told what to put there: a
    slot that has traffic, or is about to get some, is never deployed to. Raises `StageFailed` when
    there is none."""
    with writing(settings, Ledger(settings.ledger_url)) as writer:
        reconcile(writer, say=_to_nobody)
        yield writer.idle_slot()


@contextmanager
def reference_slot(settings: Settings) -> Iterator[Slot]:
    """The slot of what never has traffic. Serve's API takes all applications at once, so two that
    write at the same time could bring back what the other has just replaced."""
    with writing(settings, Ledger(settings.ledger_url)):
        yield "reference"


def _to_nobody(text: str) -> None:
    """The stage that deploys has its own progress to tell."""
