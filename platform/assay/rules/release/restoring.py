"""Whether what serves a champion is lost, and what may stand in its stead."""

from collections.abc import Sequence

from assay.errors import IntegrityError
from assay.records.releases.release import Champion, Release
from assay.records.releases.restoration import EngineIdentity, Restoration
from assay.spec.serve import EngineSpec


def accepted_deployment(
    champion: Champion, restoration: Restoration | None, releases: Sequence[Release]
) -> float | None:
    """When the deployment that may have the champion's traffic was made, in seconds since the
    epoch; None where that is not known, or none may."""
    if restoration is not None:
        return restoration.deployed_at if restoration.state == "done" else None
    deployed_at = None
    for release in releases:
        if release.state == "done" and release.intent.candidate == champion:
            deployed_at = release.intent.deployed_at
    return deployed_at


def check_engine(receipt: EngineIdentity, settings: EngineSpec, build: Sequence[str]) -> None:
    """Raises `IntegrityError`, with what is different, unless an engine of these settings and this
    build is the one that the receipt tells of: another may answer otherwise than it was
    evaluated."""
    if EngineSpec.model_validate(receipt.settings) != settings:
        raise IntegrityError(
            "its engine's settings are not those that it was evaluated with; run the spec again"
        )
    lacking = sorted(set(receipt.build) - set(build))
    added = sorted(set(build) - set(receipt.build))
    if lacking or added:
        then, now = ", ".join(lacking) or "nothing", ", ".join(added) or "nothing"
        raise IntegrityError(
            f"the engine is another build than it was evaluated on: {then} then, {now} now; "
            "install what was there (`make setup`), or run the spec again"
        )
