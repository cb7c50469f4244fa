"""Restorations in the ledger. They stand in the audit alone: each is an event of its chain."""

from assay.records.releases.audit import Actor
from assay.records.releases.release import Champion
from assay.records.releases.restoration import Restoration
from assay.store.audit import Audit
from assay.store.database import Database
from assay.store.releases import require_newest

KIND = "restore"


class Restorations:
    """The restorations of one ledger."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database, self._audit = database, audit

    def add(self, restoration: Restoration, *, fence: int, actor: Actor) -> None:
        """Writes down what is about to be done, or was. Raises `Superseded` for a writer that is
        not the newest."""
        run, content = restoration.champion.run, restoration.model_dump(mode="json")
        with self._database.writing() as connection:
            require_newest(connection, fence)
            self._audit.append(connection, KIND, run=run, content=content, actor=actor)

    def newest(self, run: str, since: float) -> Restoration | None:
        """The newest one of the champion that got the traffic at this time; None where what was
        promoted was never lost."""
        with self._database.reading() as connection:
            texts = self._audit.contents(connection, KIND, run)
        for text in reversed(texts):
            restoration = Restoration.model_validate_json(text)
            if restoration.champion.since == since:
                return restoration
        return None

    def is_held(self, champion: Champion | None) -> bool:
        """Whether the champion must have no traffic now: it was lost, and is not back."""
        newest = self.newest(champion.run, champion.since) if champion else None
        return newest is not None and newest.state != "done"
