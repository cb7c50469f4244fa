"""Whether the signed statements of a release bear each other out."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from assay.errors import IntegrityError, NotApproved
from assay.records.gate import Scorecard
from assay.records.record import digest_of
from assay.records.releases.receipt import Kind, Statement
from assay.records.releases.release import Approval, ReleaseIntent
from assay.rules.release.approval import Verdict, check_approval, check_same_deployment
from assay.spec.approval import ApprovalSpec


def check_release(statements: Sequence[Statement]) -> Statement:
    """The newest release among the statements of one run. Raises `IntegrityError`, or
    `NotApproved`, unless it rests on an evaluation that passed, on approvals of it that held at
    that time, and on replicas that had loaded the very artifact: each named by the digest of its
    statement. The field that is wrong is named."""
    releases = [one for one in statements if one.kind == "release"]
    if not releases:
        raise IntegrityError("there is no receipt of a release")
    release = max(releases, key=lambda one: float(one.predicate.get("at", 0.0)))
    try:
        _check(release, {one.digest: one for one in statements})
    except (ValidationError, KeyError, TypeError) as error:
        raise IntegrityError(f"a receipt is not complete: {str(error).splitlines()[0]}") from error
    return release


def _check(release: Statement, by_digest: dict[str, Statement]) -> None:
    intent = ReleaseIntent.model_validate(release.predicate["intent"])
    (evaluation,) = _named(release, "evaluation", by_digest)
    (deployment,) = _named(release, "deployment", by_digest)
    words = _named(release, "approval", by_digest)
    scorecard = Scorecard.model_validate(evaluation.predicate["scorecard"])
    scorecard_digest = digest_of(scorecard.model_dump(mode="json"))
    _same("artifact of the candidate", intent.candidate.artifact_digest, release.artifact)
    _same("run of the candidate", intent.candidate.run, release.run)
    _same("artifact of the scorecard", scorecard.artifact_digest, release.artifact)
    _same("scorecard", intent.scorecard_digest, scorecard_digest)
    _same("slot", intent.candidate.slot, scorecard.deployment_slot)
    _same("time of deployment", intent.deployed_at, deployment.predicate["deployed_at"])
    starters = set(evaluation.predicate["started_by"])
    check_approval(
        Verdict(release.run, scorecard, scorecard_digest, starters),
        ApprovalSpec.model_validate(evaluation.predicate["approval"]),
        [Approval.model_validate(word.predicate) for word in words],
        float(release.predicate["at"]),
        held_at=intent.candidate.since,
    )
    loaded = {str(key): str(value) for key, value in deployment.predicate["loaded"].items()}
    deployed_at = float(deployment.predicate["deployed_at"])
    if intent.action == "rollback" and deployment.predicate.get("restores"):
        _check_restores(deployment, by_digest)
        deployed_at = scorecard.deployed_at
    check_same_deployment(
        scorecard,
        deployed_at,
        tuple(loaded),
        deployment.artifact,
        loaded,
        is_former=intent.action == "rollback",
    )


def _check_restores(deployment: Statement, by_digest: dict[str, Statement]) -> None:
    """A deployment that stands in a lost one's stead: of the same bytes, on the same engine."""
    first = by_digest.get(deployment.predicate["restores"])
    if first is None or first.kind != "release":
        raise IntegrityError("the release that the deployment restores is not there")
    _same("artifact of the restored release", first.artifact, deployment.artifact)
    (lost,) = _named(first, "deployment", by_digest)
    _same("engine", deployment.predicate["engine"], lost.predicate["engine"])


def _named(release: Statement, kind: Kind, by_digest: dict[str, Statement]) -> list[Statement]:
    """The statements of a kind that the release names, all there and all about the same run and
    artifact."""
    found = []
    for digest in release.predicate["rests_on"][kind]:
        statement = by_digest.get(digest)
        if statement is None or statement.kind != kind:
            raise IntegrityError(
                f"the {kind} that the release rests on ({digest[:12]}) is not there"
            )
        _same(f"run of the {kind}", statement.run, release.run)
        _same(f"artifact of the {kind}", statement.artifact, release.artifact)
        found.append(statement)
    if not found:
        raise NotApproved(f"the release rests on no {kind}")
    return found


def _same(what: str, one: Any, other: Any) -> None:
    if one != other:
        raise IntegrityError(f"the receipts do not agree on the {what}: {one} and {other}")
