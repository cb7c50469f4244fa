"""Receipts of what a release rests on, written when the traffic has moved; and their
verification."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.engines.deployment.ray_serve import SlotState, loaded
from assay.errors import IntegrityError, UsageError
from assay.files import digest_files, plain_files
from assay.flow.place.book import place_keys, read_place
from assay.flow.release.checks import Evaluated
from assay.records.record import digest_of
from assay.records.releases.receipt import Statement
from assay.records.releases.release import Champion, Release
from assay.records.releases.restoration import EngineIdentity
from assay.rules.release.policy import strict_approval
from assay.rules.release.receipts import check_release
from assay.settings import Settings
from assay.store.ledger import Ledger
from assay.store.receipts import ReceiptStore, open_receipt


def write_receipts(
    it: Evaluated, release: Release, state: SlotState, *, ledger: Ledger, settings: Settings
) -> list[Path]:
    """Signs and keeps the statements of one release."""
    run, artifact = it.run, it.scorecard.artifact_digest
    approval = it.spec.approval
    if release.intent.action == "promote":
        policy = read_place(settings, ledger).policy
        is_first = release.intent.former is None
        approval = strict_approval(policy, approval, is_first=is_first)
    evaluation = Statement(
        kind="evaluation",
        run=run,
        artifact=artifact,
        predicate={
            "scorecard": it.scorecard.model_dump(mode="json"),
            "approval": approval.model_dump(mode="json"),
            "started_by": sorted(ledger.starters(run)),
        },
    )
    words = []
    for word in ledger.approvals(run):
        # Words on an earlier scorecard are history, and prove nothing of this one.
        if word.artifact_digest == artifact and word.scorecard_digest == it.scorecard_digest:
            said = word.model_dump(mode="json")
            words.append(Statement(kind="approval", run=run, artifact=artifact, predicate=said))
    candidate = release.intent.candidate
    restored = ledger.restorations.newest(run, candidate.since)
    deployment = deployment_statement(
        candidate,
        state,
        settings,
        engine=engine_of(it),
        restores=restored.release if restored else "",
    )
    rests_on = {
        "evaluation": [evaluation.digest],
        "approval": [word.digest for word in words],
        "deployment": [deployment.digest],
    }
    moved = Statement(
        kind="release",
        run=run,
        artifact=artifact,
        predicate={
            "intent": release.intent.model_dump(mode="json"),
            "rests_on": rests_on,
            "at": time.time(),
        },
    )
    return receipt_store(settings).write([evaluation, *words, deployment, moved])


def engine_of(it: Evaluated) -> EngineIdentity | None:
    """What the model was evaluated on; None where an older version evaluated it."""
    deployment = it.deployment
    if deployment is None or not deployment.engine_build:
        return None
    if deployment.deployed_at != it.scorecard.deployed_at:
        return None
    return EngineIdentity(
        settings=it.spec.serve.engine.model_dump(mode="json"),
        build=deployment.engine_build,
        on_gpu=deployment.on_gpu,
    )


def deployment_statement(
    champion: Champion,
    state: SlotState,
    settings: Settings,
    *,
    engine: EngineIdentity | None,
    restores: str = "",
) -> Statement:
    """What stands in a champion's slot. `restores` is the digest of the release whose deployment
    was lost, where this one stands in its stead."""
    predicate: dict[str, Any] = {
        "slot": state.slot,
        "model_name": state.model_name,
        "deployed_at": state.deployed_at,
        "loaded": loaded(settings.loaded_folder, state.replicas),
    }
    if engine is not None:
        predicate["engine"] = engine.model_dump(mode="json")
    if restores:
        predicate["restores"] = restores
    run, artifact = champion.run, champion.artifact_digest
    return Statement(kind="deployment", run=run, artifact=artifact, predicate=predicate)


def receipt_store(settings: Settings) -> ReceiptStore:
    """The place's receipts."""
    return ReceiptStore(settings.home / "receipts", place_keys(settings))


def verify_folder(
    folder: Path, public_keys: Sequence[Path], *, model: Path | None = None
) -> Statement:
    """The newest release in a folder of receipts, verified with nothing but the files and public
    keys: on any machine. With `model`, a folder of model files, also that it is the artifact that
    the receipts speak of. Raises `IntegrityError` or `NotApproved`."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{folder} holds no receipts")
    release = check_release([open_receipt(file, public_keys) for file in files])
    if model is not None:
        digests = digest_files(model, list(plain_files(model)))
        manifest = {}
        for name, (sha256, identity) in digests.items():
            manifest[name] = {"sha256": sha256, "size": identity[2]}
        found = digest_of({"kind": "model", "files": manifest})
        if found != release.artifact:
            raise IntegrityError(
                f"{model} is artifact {found[:12]}, and the receipts are of {release.artifact[:12]}"
            )
    return release
