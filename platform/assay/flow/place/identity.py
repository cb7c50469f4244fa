"""Who acts: whoever a personal token says, or, where the place's policy takes people's word for it,
whoever they say they are."""

from assay.errors import NotApproved
from assay.flow.place.book import Place, place_keys, read_place, verified
from assay.flow.place.known import KnownPlace
from assay.records.releases.audit import Actor
from assay.records.releases.grant import Grant, Role
from assay.settings import Settings
from assay.spec.approval import folded_name
from assay.store import tokens
from assay.store.audit import this_process
from assay.store.ledger import Ledger


def act(settings: Settings, ledger: Ledger, role: Role, *, claimed: str = "") -> Actor:
    """Who is about to do what takes a role; the ledger writes it down in their name from now on.
    `claimed` is the name that they have given with the command.

    Raises `NotApproved` for who may not, and `IntegrityError` when the ledger says what was not
    done: then nobody may do anything.
    """
    verified(settings, ledger)
    ledger.audit.keys = place_keys(settings)
    ledger.actor = _actor(settings, ledger, role, claimed)
    return ledger.actor


def whoever(settings: Settings, ledger: Ledger) -> Actor:
    """Who acts, where anybody may: what a controller has left is taken back by whoever comes next.
    A name that nothing proves is left out where the place asks for tokens."""
    place = read_place(settings, ledger)
    ledger.audit.keys = place_keys(settings)
    token = given_token(settings)
    if place.policy.identity == "local" and not token:
        return this_process(settings.user)
    try:
        found = authenticated(token, place, ledger)
    except NotApproved:
        return this_process("")
    return this_process(found.name, found.token)


def place_as_written(settings: Settings) -> KnownPlace:
    """The policy that the ledger holds, and who would act. Raises `IntegrityError` when the policy
    was tampered with."""
    place = read_place(settings, Ledger(settings.ledger_url))
    token = given_token(settings)
    if not token:
        user = settings.user if place.policy.identity == "local" else None
        return KnownPlace(user, place.policy)
    prefix = tokens.prefix_of(token)
    named = [one.name for one in place.tokens if one.token == prefix]
    return KnownPlace(named[0] if named else None, place.policy)


def given_token(settings: Settings) -> str:
    """The token of whoever works here: of `ASSAY_TOKEN`, or of `assay login`; empty for none."""
    return settings.token or tokens.read_token(settings.token_file)


def _actor(settings: Settings, ledger: Ledger, role: Role, claimed: str) -> Actor:
    place = read_place(settings, ledger)
    token = given_token(settings)
    if not token and place.policy.identity == "local":
        return this_process(claimed or settings.user)
    found = authenticated(token, place, ledger)
    if claimed and folded_name(claimed) != folded_name(found.name):
        raise NotApproved(
            f"the token is {found.name}'s, so nothing is done here as {claimed}: `--as` is for "
            "places whose policy says `identity: local`, without a token"
        )
    if role not in found.roles:
        raise NotApproved(
            f"{found.name} has the roles {', '.join(found.roles)}, and this takes `{role}`; an "
            "admin of this place gives it (`assay users add`)"
        )
    return this_process(found.name, found.token)


def authenticated(token: str, place: Place, ledger: Ledger) -> Grant:
    """Whose token it is. Raises `NotApproved` for one that opens nothing."""
    if not token:
        raise NotApproved(
            "this place asks who you are: `assay login` with your token, or set ASSAY_TOKEN; an "
            "admin makes one (`assay users add NAME`)"
        )
    prefix = tokens.prefix_of(token)
    found = next((one for one in place.tokens if one.token == prefix), None)
    if found is None or not tokens.is_hash_of(found.secret_hash, token):
        raise NotApproved(f"token {prefix} is not known at this place; `assay login` takes another")
    if prefix in place.revoked:
        raise NotApproved(f"token {prefix} of {found.name} was revoked; ask an admin for another")
    if not place.is_valid(found, ledger.grants.now()):
        raise NotApproved(f"token {prefix} of {found.name} has expired; ask an admin for another")
    return found
