"""Who holds what of the cluster: the slots' engines, and whose they are."""

import time
from collections.abc import Sequence
from pathlib import Path

from assay.engines.deployment import ray_serve
from assay.engines.deployment.claims import Claim, claims
from assay.errors import IntegrityError
from assay.flow.place.run_lock import LOCK
from assay.records.gate import GateRecord, Scorecard
from assay.records.holding import Holding, Role
from assay.records.record import read_as
from assay.records.releases.release import Champion
from assay.records.stages import DeploymentRecord
from assay.rules.release.approval import check_champion
from assay.rules.release.slots import former_champion
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.store.ledger import Ledger
from assay.store.lock import is_held

KEEP = "keep-engine"
"""File in a run's folder: its candidate is not given back by itself (`assay run --keep`)."""


def holdings(settings: Settings, ledger: Ledger) -> list[Holding]:
    """Every slot that is not empty. Raises `Unreachable` where no cluster answers."""
    api = ray_serve.ServeApi(
        settings.dashboard_url, settings.ray_token(), settings.serve_port, settings.engine_python
    )
    return [_holding(claim, settings, ledger) for claim in claims(api)]


def words(held: Sequence[Holding]) -> str:
    """Who holds what, for a person."""
    return "; ".join(str(one) for one in held) or "nobody that the ledger knows of"


def _holding(claim: Claim, settings: Settings, ledger: Ledger) -> Holding:
    """Whose deployment it is: of several runs that share it, of the first. Replicas that only
    measure are nobody's."""
    known = _champion_role(claim, ledger)
    runs = [row.id for row in ledger.runs() if not known and _is_of(claim, row.id, ledger)]
    role: Role
    if known is not None:
        role, run = known
    elif runs:
        role, run = "candidate", runs[-1]
    else:
        role, run = ("reference" if claim.slot == "reference" else "unknown"), ""
    return Holding(
        slot=claim.slot,
        run=run,
        role=role,
        cpus=claim.cpus,
        gpus=claim.gpus,
        memory=claim.weights,
        returns=bool(runs) and all(is_needed_no_more(one, settings, ledger) for one in runs),
    )


def _champion_role(claim: Claim, ledger: Ledger) -> tuple[Role, str] | None:
    """The role and run of who has, had or is about to have the traffic of the slot."""
    digest = Path(claim.model_path).name
    release = ledger.releases.under_way()
    known: list[tuple[Role, Champion | None]] = [
        ("being promoted", release.intent.candidate if release else None),
        ("champion", ledger.champion()),
        ("former champion", former_champion(ledger.traffic())),
    ]
    for role, one in known:
        if one is not None and (one.slot, one.artifact_digest) == (claim.slot, digest):
            return role, one.run
    return None


def _is_of(claim: Claim, run: str, ledger: Ledger) -> bool:
    deployment = deployment_of(run, ledger)
    there = (claim.slot, claim.deployed_at, Path(claim.model_path).name)
    return deployment is not None and there == (
        deployment.slot,
        deployment.deployed_at,
        deployment.artifact_digest,
    )


def deployment_of(run: str, ledger: Ledger) -> DeploymentRecord | None:
    """Where a run's candidate was deployed last."""
    keys = [stage.key for stage in ledger.stages(run) if stage.stage == "deploy"]
    row = ledger.record(keys[0]) if keys else None
    return read_as(DeploymentRecord, row.record) if row else None


def is_needed_no_more(run: str, settings: Settings, ledger: Ledger) -> bool:
    """Whether nobody needs a run's candidate any more: its verdict is not PASS, a reviewer has
    rejected it, it was compared with another champion than there is now, or it has waited for
    longer than an approval holds. One that is to be kept, or is worked on, is needed."""
    folder = settings.run_folder(run)
    verdict = _verdict(run, ledger)
    if verdict is None or (folder / KEEP).exists() or is_held(folder / LOCK):
        return False
    scorecard, at = verdict
    # Of each reviewer the last word.
    words = {word.reviewer: word.decision for word in ledger.approvals(run)}
    if scorecard.outcome != "PASS" or "reject" in words.values():
        return True
    champion = ledger.champion()
    try:
        check_champion(scorecard, champion.artifact_digest if champion else None)
    except IntegrityError:
        return True
    given = [word.given_at for word in ledger.approvals(run)]
    expires = Spec.model_validate_json(ledger.find_run(run).spec).approval.expires
    return time.time() - max([at, *given]) > expires


def _verdict(run: str, ledger: Ledger) -> tuple[Scorecard, float] | None:
    """The verdict on what the run deployed last, and when it was given, in seconds since the
    epoch."""
    deployment = deployment_of(run, ledger)
    for stage in ledger.stages(run):
        row = ledger.record(stage.key) if stage.stage == "gate" else None
        record = read_as(GateRecord, row.record) if row else None
        if record is None or deployment is None or stage.ended_at is None:
            continue
        if record.scorecard.deployed_at == deployment.deployed_at:
            return record.scorecard, stage.ended_at
    return None
