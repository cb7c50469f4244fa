"""What allows a champion its traffic, by the signed receipts of its release."""

import time
from dataclasses import dataclass

from assay.errors import IntegrityError
from assay.flow.pipeline.artifacts import champion_model
from assay.flow.place.book import place_keys
from assay.flow.release.receipts import receipt_store
from assay.records.gate import GateRecord, Scorecard
from assay.records.record import digest_of, read_as
from assay.records.releases.receipt import Statement
from assay.records.releases.release import Champion, ReleaseIntent
from assay.records.releases.restoration import EngineIdentity
from assay.records.stages import ModelRecord
from assay.rules.release.approval import Verdict, check_approval
from assay.rules.release.receipts import check_release
from assay.rules.release.restoring import check_engine
from assay.settings import Settings
from assay.spec.approval import ApprovalSpec
from assay.spec.spec import Spec
from assay.stages import deploy, gate
from assay.store.artifacts import open_store
from assay.store.ledger import Ledger
from assay.store.receipts import open_receipt


@dataclass(frozen=True)
class Proof:
    """What the receipts of a champion's release say, and what belongs to it."""

    champion: Champion
    release: str
    """Digest of the release's statement."""
    scorecard: Scorecard
    approval: ApprovalSpec
    """What was asked of the reviewers."""
    starters: frozenset[str]
    engine: EngineIdentity
    spec: Spec
    model: ModelRecord

    def check_words(self, ledger: Ledger) -> None:
        """Raises `NotApproved` unless enough approvals held when the champion got its traffic, and
        nobody has rejected it since."""
        run = self.champion.run
        digest = digest_of(self.scorecard.model_dump(mode="json"))
        verdict = Verdict(run, self.scorecard, digest, self.starters)
        words = ledger.approvals(run)
        check_approval(verdict, self.approval, words, time.time(), held_at=self.champion.since)


def prove(champion: Champion, settings: Settings, ledger: Ledger) -> Proof:
    """Everything that must be so before the champion may serve again. Reads every byte of its model
    and of its evidence. Raises `IntegrityError` or `NotApproved` for what is not as it was when it
    was promoted."""
    proof = _read(champion, settings, ledger)
    proof.check_words(ledger)
    build = deploy.engine_build(proof.model, settings)
    check_engine(proof.engine, proof.spec.serve.engine, build)
    store = open_store(settings)
    gate.verify(_gate_record(proof, ledger), store)
    store.verify(proof.model.artifact)
    return proof


def _read(champion: Champion, settings: Settings, ledger: Ledger) -> Proof:
    """The receipts of the champion's release, each signed by a key of this place, that bear each
    other out."""
    receipts = receipt_store(settings)
    keys = place_keys(settings).public_files()
    files = sorted((receipts.folder / champion.run).glob("*.json"))
    statements = {}
    for file in files:
        statement = open_receipt(file, keys)
        statements[statement.digest] = statement
    release = check_release(list(statements.values()))
    intent = ReleaseIntent.model_validate(release.predicate["intent"])
    if intent.candidate != champion:
        raise IntegrityError(
            f"its receipts are of another release than the ledger's: of {intent.candidate.run} in "
            f"slot {intent.candidate.slot}"
        )
    evaluation = _named(release, "evaluation", statements).predicate
    engine = _named(release, "deployment", statements).predicate.get("engine")
    if engine is None:
        raise IntegrityError(
            "its receipts do not say which engine it was evaluated on: it was evaluated by an "
            "older version; run its spec again, and promote it anew"
        )
    model = champion_model(champion, ledger)
    if model is None:
        raise IntegrityError("its model is not in the ledger any more")
    return Proof(
        champion=champion,
        release=release.digest,
        scorecard=Scorecard.model_validate(evaluation["scorecard"]),
        approval=ApprovalSpec.model_validate(evaluation["approval"]),
        starters=frozenset(evaluation["started_by"]),
        engine=EngineIdentity.model_validate(engine),
        spec=Spec.model_validate_json(ledger.find_run(champion.run).spec),
        model=model,
    )


def _named(release: Statement, kind: str, statements: dict[str, Statement]) -> Statement:
    (digest,) = release.predicate["rests_on"][kind]
    return statements[digest]


def _gate_record(proof: Proof, ledger: Ledger) -> GateRecord:
    """The gate's record of the scorecard that was approved; the run may have others since."""
    wanted = digest_of(proof.scorecard.model_dump(mode="json"))
    for text in ledger.records_of(proof.champion.run, "gate"):
        record = read_as(GateRecord, text)
        if record and digest_of(record.scorecard.model_dump(mode="json")) == wanted:
            return record
    raise IntegrityError("the ledger has no record of the verdict that was approved any more")
