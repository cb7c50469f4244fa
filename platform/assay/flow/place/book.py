"""What is laid down at a place: its policy, and who has which token."""

from dataclasses import dataclass

from pydantic import ValidationError

from assay.errors import IntegrityError
from assay.flow.place.head import check_head
from assay.records.releases.audit import AuditEvent
from assay.records.releases.grant import Grant, PolicyChange, Revocation
from assay.settings import Settings
from assay.spec.place.policy import PolicySpec
from assay.store.audit import check_seals
from assay.store.ledger import Ledger
from assay.store.receipts import PlaceKeys


@dataclass(frozen=True)
class Place:
    """What holds now."""

    policy: PolicySpec
    tokens: tuple[Grant, ...]
    """Every token that was ever given, the oldest first."""
    revoked: frozenset[str]
    """Prefixes of those that open nothing any more."""

    def is_valid(self, token: Grant, now: float) -> bool:
        """Whether a token opens anything at this time, in seconds since the epoch."""
        return token.token not in self.revoked and now < token.expires_at


def place_keys(settings: Settings) -> PlaceKeys:
    """The place's keys."""
    return PlaceKeys(settings.home / "keys")


def verified(settings: Settings, ledger: Ledger) -> list[AuditEvent]:
    """The whole audit, which goes on from what this place has seen, says what the tables say, and
    is signed by the place where that counts. Raises `IntegrityError`."""
    events = ledger.verify()
    check_head(settings, events)
    check_seals(events, place_keys(settings))
    return events


def read_place(settings: Settings, ledger: Ledger) -> Place:
    """What holds at this place now. Raises `IntegrityError` for a policy or a token that the place
    has not signed, or that was changed, moved or left out: then nothing holds, and nobody may do
    anything."""
    ledger.check_grants()
    said = ledger.grants.all(place_keys(settings))
    policies = [one.policy for one in said if isinstance(one, PolicyChange)]
    try:
        policy = PolicySpec.model_validate(policies[-1] if policies else {})
    except ValidationError as error:
        raise IntegrityError(
            "the place's policy was signed by another version of Assay, which knew other keys; set "
            f"it again (`assay policy set`): {str(error).splitlines()[0]}"
        ) from error
    revoked = []
    for one in said:
        if isinstance(one, Revocation):
            for token in one.tokens:
                revoked.append(token)
    tokens = tuple(one for one in said if isinstance(one, Grant))
    return Place(policy, tokens, frozenset(revoked))
