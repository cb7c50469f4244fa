"""Personal tokens: given, listed and taken away."""

from collections.abc import Sequence

from assay.errors import NotApproved, UsageError
from assay.flow.place.book import place_keys, read_place
from assay.flow.place.head import keep_head
from assay.flow.place.identity import act, authenticated
from assay.records.releases.grant import ROLES, Grant, Revocation, Role
from assay.settings import Settings
from assay.spec.approval import folded_name
from assay.store import tokens
from assay.store.ledger import Ledger

DEFAULT_LIFE_S = 90 * 24 * 3600.0


def add_user(
    settings: Settings, name: str, roles: Sequence[Role], life_s: float = DEFAULT_LIFE_S
) -> tuple[str, Grant]:
    """A new token for somebody, who may have others. It is returned this one time. Raises
    `NotApproved` unless an admin asks; where there is no token yet, and the place takes people's
    word, anybody may."""
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "admin")
    if not folded_name(name) or not name.isprintable():
        raise UsageError(f"{name!r} is no name that could be shown")
    token, prefix = tokens.new_token()
    now = ledger.grants.now()
    grant = Grant(
        name=name.strip(),
        roles=tuple(role for role in ROLES if role in roles),
        token=prefix,
        secret_hash=tokens.hash_of(token),
        given_at=now,
        expires_at=now + life_s,
        act_key=tokens.act_key_of(token),
    )
    ledger.grants.add("user", grant, keys=place_keys(settings), actor=actor)
    keep_head(settings, ledger.audit.events())
    return token, grant


def revoke(settings: Settings, who: str) -> list[Grant]:
    """Takes away all tokens of a person, or the one of a prefix; returns which. Raises `UsageError`
    when there is none, and `NotApproved` when no admin would be left."""
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "admin")
    place, now = read_place(settings, ledger), ledger.grants.now()
    valid = [one for one in place.tokens if place.is_valid(one, now)]
    gone = []
    for one in valid:
        if who == one.token or folded_name(who) == folded_name(one.name):
            gone.append(one)
    if not gone:
        raise UsageError(f"{who} has no token that opens anything; `assay users list` has them all")
    admins = [one for one in valid if "admin" in one.roles and one not in gone]
    if place.policy.identity == "tokens" and not admins:
        raise NotApproved("no admin would be left; give another one a token first")
    said = Revocation(tokens=tuple(one.token for one in gone), at=now)
    ledger.grants.add("revocation", said, keys=place_keys(settings), actor=actor)
    keep_head(settings, ledger.audit.events())
    return gone


def login(settings: Settings, token: str) -> Grant:
    """Keeps a token for the commands to come, where its owner alone may read it. Raises
    `NotApproved` for one that opens nothing here."""
    ledger = Ledger(settings.ledger_url)
    found = authenticated(token, read_place(settings, ledger), ledger)
    tokens.keep_token(settings.token_file, token)
    return found
