"""Giving back what nobody needs: the slots of candidates that will get no traffic."""

from collections.abc import Callable

from assay.engines.deployment import ray_serve
from assay.errors import Unreachable, UsageError
from assay.flow.release.writer import Writer, reconcile, writing
from assay.flow.resources.holdings import KEEP, deployment_of, holdings
from assay.records.stages import DeploymentRecord, Slot
from assay.settings import Settings
from assay.stages import deploy
from assay.store.ledger import Ledger


def free_run(run: str, *, settings: Settings, say: Callable[[str], None]) -> bool:
    """Gives back what a run's candidate holds; False where it holds nothing. Raises `UsageError`
    for one that has traffic, or is about to get some."""
    ledger = Ledger(settings.ledger_url)
    row = ledger.find_run(run)
    (settings.run_folder(row.id) / KEEP).unlink(missing_ok=True)
    deployment = deployment_of(row.id, ledger)
    if deployment is None:
        return False
    with writing(settings, ledger) as writer:
        reconcile(writer, say=say)
        if deployment.slot in _in_use(writer):
            raise UsageError(
                f"{row.id} has traffic, or is being promoted, in slot {deployment.slot}: `assay "
                "rollback` or another promotion comes first"
            )
        return _remove(deployment, settings)


def give_up_the_way_back(settings: Settings, *, say: Callable[[str], None]) -> bool:
    """Gives back the slot of the former champion, if it holds one: a run whose candidate would be
    deployed there in the end lacks its room before that. `assay rollback` then has nobody to go
    back to. Returns whether there was one."""
    ledger = Ledger(settings.ledger_url)
    for one in holdings(settings, ledger):
        deployment = deployment_of(one.run, ledger) if one.role == "former champion" else None
        if deployment is None:
            continue
        with writing(settings, ledger) as writer:
            is_freed = one.slot not in _in_use(writer) and _remove(deployment, settings)
        if is_freed:
            say(
                f"slot {one.slot} is given back, whose room is wanted: there is no way back to "
                f"{one.run} any more"
            )
            return True
    return False


def free_needless(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Gives back every candidate that is needed no more (see `holdings`). Does nothing where no
    cluster answers."""
    ledger = Ledger(settings.ledger_url)
    try:
        needless = [one for one in holdings(settings, ledger) if one.returns]
    except Unreachable:
        return
    for one in needless:
        deployment = deployment_of(one.run, ledger)
        if deployment is None:
            continue
        with writing(settings, ledger) as writer:
            is_freed = one.slot not in _in_use(writer) and _remove(deployment, settings)
        if is_freed:
            say(f"slot {one.slot} is free again: nobody needs {one.run} any more")


def _in_use(writer: Writer) -> set[Slot]:
    """Slots that have traffic, or are about to get some."""
    release, champion = writer.ledger.releases.under_way(), writer.ledger.champion()
    used = [champion, release.intent.candidate if release else None]
    return {one.slot for one in used if one is not None} | set(writer.slots_with_weight())


def _remove(deployment: DeploymentRecord, settings: Settings) -> bool:
    api = deploy.serve_api(settings)
    if not ray_serve.holds(api, deployment):
        return False
    ray_serve.remove(api, deployment.slot)
    return True
