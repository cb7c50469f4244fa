"""What must be true of a candidate whenever traffic moves to it."""

import time
from dataclasses import dataclass
from pathlib import Path

from assay.engines.deployment import ray_serve
from assay.errors import IntegrityError, NotApproved
from assay.flow.place.book import read_place
from assay.loader.compose import variables_named
from assay.records.gate import GateRecord, Scorecard
from assay.records.record import digest_of, read_as
from assay.records.releases.release import Champion
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.rules.release.approval import (
    Verdict,
    check_approval,
    check_champion,
    check_same_deployment,
)
from assay.rules.release.policy import check_age, scorecard_faults, spec_faults, strict_approval
from assay.settings import Settings
from assay.spec.approval import ApprovalSpec
from assay.spec.place.policy import PolicySpec
from assay.spec.spec import Spec
from assay.stages import gate
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from assay.store.schema.rows import RecordRow

KNOWN_BY = ("gate", "compress", "deploy")
"""The stages whose records tell of an evaluated run."""


@dataclass(frozen=True)
class Evaluated:
    """A run whose gate has spoken, as the ledger has it."""

    run: str
    spec: Spec
    gate: GateRecord
    model: ModelRecord
    deployment: DeploymentRecord | None = None
    """Where it was evaluated; None where an older version has not kept it."""

    @property
    def scorecard(self) -> Scorecard:
        """What the gate has said."""
        return self.gate.scorecard

    @property
    def scorecard_digest(self) -> str:
        """What an approval is bound to."""
        return digest_of(self.gate.scorecard.model_dump(mode="json"))


@dataclass(frozen=True)
class Seen:
    """What somebody had before them when they decided, by digest."""

    artifact: str
    scorecard: str
    champion: str
    """Of who had the traffic; empty for nobody."""


def check_seen(seen: Seen, it: Evaluated, champion: Champion | None) -> None:
    """Raises `NotApproved` unless it is still what they had before them."""
    now = Seen(
        artifact=it.scorecard.artifact_digest,
        scorecard=it.scorecard_digest,
        champion=champion.artifact_digest if champion else "",
    )
    changed = []
    for name in ("artifact", "scorecard", "champion"):
        before, there = getattr(seen, name), getattr(now, name)
        if before != there:
            changed.append(f"the {name} is {there[:12] or 'nothing'}, not {before[:12] or 'none'}")
    if changed:
        raise NotApproved(
            f"run {it.run} is not what was shown any more: {', '.join(changed)}; nothing was "
            "recorded, so look at it again"
        )


def evaluated(run: str, ledger: Ledger) -> Evaluated:
    """The newest verdict of a run, named by the start of its id; of the newest run that has one,
    when the name is empty. Raises `NotApproved` when the gate has not spoken yet."""
    rows = [ledger.find_run(run)] if run else [ledger.find_run(run), *ledger.runs()]
    for row in rows:
        found: dict[str, RecordRow | None] = {}
        for stage in ledger.stages(row.id):
            if stage.stage in KNOWN_BY and stage.state in ("done", "cached"):
                found[stage.stage] = ledger.record(stage.key)
        verdict, model = found.get("gate"), found.get("compress")
        deployment = found.get("deploy")
        if verdict and model:
            return Evaluated(
                row.id,
                Spec.model_validate_json(row.spec),
                GateRecord.model_validate_json(verdict.record),
                ModelRecord.model_validate_json(model.record),
                read_as(DeploymentRecord, deployment.record) if deployment else None,
            )
        # It has no candidate: what was evaluated was somebody's model or URL.
        if run and verdict:
            raise NotApproved(
                f"{row.id} was evaluated by `assay gate run`; only what `assay run` has made can "
                "be released"
            )
    raise NotApproved(f"run {rows[0].id} has no verdict yet; `assay run` takes it to the gate")


def check_bytes(it: Evaluated, store: ArtifactStore) -> None:
    """Reads every byte of the model and of the evidence, and decides the verdict once more. Raises
    `IntegrityError` for what is not as it was evaluated."""
    gate.verify(it.gate, store)
    store.verify(it.model.artifact)


def check_may_serve(
    it: Evaluated,
    *,
    champion: Champion | None,
    ledger: Ledger,
    api: ray_serve.ServeApi,
    settings: Settings,
    held_at: float | None = None,
) -> ray_serve.SlotState:
    """What can change from one moment to the next: the approvals, the place's policy, the champion
    that the candidate was compared with, and what its slot holds. Raises `NotApproved` or
    `IntegrityError`. `held_at` is for a former champion, whose approvals had to hold when it got
    its traffic, and which was compared with an earlier one."""
    if held_at is None:
        check_words(it, champion=champion, ledger=ledger, settings=settings)
        return _check_deployed(it, api, settings.loaded_folder)
    _check_approval(it, it.spec.approval, ledger, held_at)
    restored = ledger.restorations.newest(it.run, held_at)
    restored_at = restored.deployed_at if restored else None
    return _check_deployed(it, api, settings.loaded_folder, is_former=True, restored_at=restored_at)


def check_words(
    it: Evaluated, *, champion: Champion | None, ledger: Ledger, settings: Settings
) -> None:
    """The approvals, the place's policy, and the champion that the candidate was compared with:
    what can be told without asking the cluster. Raises `NotApproved` or `IntegrityError`."""
    _check_approval(it, it.spec.approval, ledger, None)
    policy = read_place(settings, ledger).policy
    check_policy(it, policy)
    check_age(policy, it.run, it.scorecard, time.time())
    _check_strict_approval(it, policy, ledger, is_first=champion is None)
    check_champion(it.scorecard, champion.artifact_digest if champion else None)


def check_policy(it: Evaluated, policy: PolicySpec) -> None:
    """Raises `NotApproved` where the run's spec or its scorecard is not up to the place's
    policy."""
    faults = [fault.message for fault in spec_faults(policy, it.spec, variables_named(it.spec))]
    faults += scorecard_faults(policy, it.scorecard)
    if faults:
        raise NotApproved(
            f"run {it.run} is not up to what this place demands (`assay policy show`): "
            f"{'; '.join(faults)}"
        )


def _check_strict_approval(
    it: Evaluated, policy: PolicySpec, ledger: Ledger, *, is_first: bool
) -> None:
    strict = strict_approval(policy, it.spec.approval, is_first=is_first)
    try:
        _check_approval(it, strict, ledger, None)
    except NotApproved as error:
        raise NotApproved(
            f"{error}; the spec asks for less, and the place's policy for this "
            "(`assay policy show`)"
        ) from error


def _check_approval(
    it: Evaluated, approval: ApprovalSpec, ledger: Ledger, held_at: float | None
) -> None:
    verdict = Verdict(it.run, it.scorecard, it.scorecard_digest, ledger.starters(it.run))
    check_approval(verdict, approval, ledger.approvals(it.run), time.time(), held_at=held_at)


def _check_deployed(
    it: Evaluated,
    api: ray_serve.ServeApi,
    reports: Path,
    *,
    is_former: bool = False,
    restored_at: float | None = None,
) -> ray_serve.SlotState:
    """Raises `IntegrityError` unless the slot holds the very deployment that was evaluated, or the
    one that was `restored_at` in its stead (see `restore`); returns what it holds."""
    scorecard, model = it.scorecard, it.model
    state = ray_serve.state(api, traffic_slot(scorecard.deployment_slot))
    # One that does not answer counts as none: nobody could be served by it.
    running = state if state and state.answers else None
    slot_digest = (
        model.artifact.digest if running and running.model_path == model.artifact.path else None
    )
    deployed_at = running.deployed_at if running else None
    # What stands in a lost deployment's stead was proved to be of the same bytes, by `restore`.
    if deployed_at is not None and deployed_at == restored_at:
        deployed_at = scorecard.deployed_at
    check_same_deployment(
        scorecard,
        deployed_at,
        running.replicas if running else (),
        slot_digest,
        ray_serve.loaded(reports, running.replicas) if running else {},
        is_former=is_former,
    )
    assert running is not None
    said = ray_serve.artifacts_said(running.url)
    if said != [model.artifact.digest]:
        names = ", ".join(one[:12] for one in said) or "none"
        raise IntegrityError(
            f"what answers in slot {running.slot} says that it is of artifact {names}, and the "
            f"gateway lets {model.artifact.digest[:12]} through: it was deployed by an older "
            "version, or by something else; run `assay run SPEC` again"
        )
    return running


def traffic_slot(name: str) -> Slot:
    """The slot of a name. Raises `IntegrityError` for one that never has traffic."""
    if name == "blue":
        return "blue"
    if name == "green":
        return "green"
    raise IntegrityError(f"slot {name} never has traffic")
