"""What can be told of a place before anything is started."""

from dataclasses import dataclass, field
from pathlib import Path

from assay.settings import Settings
from assay.spec.place.policy import PolicySpec

SQLITE = "sqlite:///"


@dataclass(frozen=True)
class KnownPlace:
    """What can be told of a place before anything is started."""

    user: str | None
    """Who would start a run; None when that is not known."""
    policy: PolicySpec = field(default_factory=PolicySpec)


def known_place(settings: Settings) -> KnownPlace:
    """The policy that a spec must be up to, and who would act; for what is only planned. A ledger
    that is not there yet is not made, and its library, half of what `validate` would take, is not
    imported. Raises `IntegrityError` when the policy was tampered with."""
    file = settings.ledger_url.removeprefix(SQLITE)
    if file != settings.ledger_url and not Path(file).exists():
        return KnownPlace(settings.user)
    from assay.flow.place.identity import place_as_written

    return place_as_written(settings)
