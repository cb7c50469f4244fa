"""Who acts: whoever a personal token says, or, where the place's policy takes people's word for it,
whoever they say they are."""

import sys

from assay.errors import NotApproved
from assay.flow.place.book import Place, place_keys, read_place, verified
from assay.flow.place.known import KnownPlace
from assay.records.record import read_as
from assay.records.releases.audit import Actor
from assay.records.releases.grant import Grant, Role, SignedAct
from assay.settings import Settings
from assay.spec.approval import folded_name
from assay.store import tokens
from assay.store.audit import this_process
from assay.store.ledger import CLOCK_SKEW_S, Ledger

ACT_LIFE_S = 3600.0
"""How long a signed command may wait for a cluster to begin it."""


def act(
    settings: Settings, ledger: Ledger, role: Role, *, claimed: str = "", about: str = ""
) -> Actor:
    """Who is about to do what takes a role; the ledger writes it down in their name from now on.
    `claimed` is the name that they have given with the command, `about` the run that it makes.

    Raises `NotApproved` for who may not, and `IntegrityError` when the ledger says what was not
    done: then nobody may do anything.
    """
    # First of all: nothing is added to a chain that somebody has changed.
    verified(settings, ledger)
    ledger.audit.keys = place_keys(settings)
    ledger.actor = _actor(settings, ledger, role, claimed, about)
    return ledger.actor


def whoever(settings: Settings, ledger: Ledger) -> Actor:
    """Who acts, where anybody may: what a controller has left is taken back by whoever comes next.
    A name that nothing proves is left out where the place asks for tokens."""
    place = read_place(settings, ledger)
    ledger.audit.keys = place_keys(settings)
    try:
        return _known(settings, ledger, place)[0] or this_process(settings.user)
    except NotApproved:
        return this_process("")


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


def _actor(settings: Settings, ledger: Ledger, role: Role, claimed: str, about: str) -> Actor:
    place = read_place(settings, ledger)
    known, grant = _known(settings, ledger, place)
    if known is None or grant is None:
        return this_process(claimed or settings.user)
    if known.act is not None:
        check_act(SignedAct.model_validate_json(settings.act), about, ledger)
    # A token says who it is, and `--as` must not say otherwise.
    if claimed and folded_name(claimed) != folded_name(grant.name):
        raise NotApproved(
            f"the token is {grant.name}'s, so nothing is done here as {claimed}: `--as` is for "
            "places whose policy says `identity: local`, without a token"
        )
    if role not in grant.roles:
        raise NotApproved(
            f"{grant.name} has the roles {', '.join(grant.roles)}, and this takes `{role}`; an "
            "admin of this place gives it (`assay users add`)"
        )
    return known


def _known(settings: Settings, ledger: Ledger, place: Place) -> tuple[Actor | None, Grant | None]:
    """Whom a token, or what was signed with one, says; nobody where the place takes people's word
    and none is given. Raises `NotApproved` for what opens nothing."""
    token = given_token(settings)
    if token or not settings.act:
        if not token and place.policy.identity == "local":
            return None, None
        found = authenticated(token, place, ledger)
        return this_process(found.name, found.token), found
    act = read_as(SignedAct, settings.act)
    if act is None:
        raise NotApproved("ASSAY_ACT holds no signed command")
    found = _valid(act.token, place, ledger)
    if not tokens.has_signed(found.act_key, act):
        raise NotApproved(f"the command was not signed by {found.name}, or was changed since")
    return this_process(found.name, found.token, act.signature), found


def check_act(act: SignedAct, about: str, ledger: Ledger) -> None:
    """Raises `NotApproved` unless what this process is about to do is what was signed, a short
    while ago, and nobody has done it yet."""
    # What this process was really called with: a job that was signed cannot be made another one.
    if act.arguments != tuple(sys.argv[1:]) or act.about != about:
        raise NotApproved(
            f"what was signed is `assay {' '.join(act.arguments)}`"
            f"{f' that makes run {act.about}' if act.about else ''}, and not this"
        )
    age = ledger.grants.now() - act.at
    if not -CLOCK_SKEW_S <= age <= ACT_LIFE_S:
        raise NotApproved(
            f"the command was signed {age:.0f} s ago, and holds for {ACT_LIFE_S:.0f} s"
        )
    # One command may write several events, all from one process; from another it is a repetition.
    here = this_process("")
    for event in ledger.audit.events():
        if event.actor.act == act.signature:
            by = event.actor
            if (by.host, by.process) != (here.host, here.process):
                raise NotApproved("the command was done already; sign it again to repeat it")


def authenticated(token: str, place: Place, ledger: Ledger) -> Grant:
    """Whose token it is. Raises `NotApproved` for one that opens nothing."""
    if not token:
        raise NotApproved(
            "this place asks who you are: `assay login` with your token, or set ASSAY_TOKEN; an "
            "admin makes one (`assay users add NAME`)"
        )
    prefix = tokens.prefix_of(token)
    found = _valid(prefix, place, ledger)
    if not tokens.is_hash_of(found.secret_hash, token):
        raise NotApproved(f"token {prefix} is not known at this place; `assay login` takes another")
    return found


def _valid(prefix: str, place: Place, ledger: Ledger) -> Grant:
    """What a prefix names. Raises `NotApproved` for what is not known, revoked or expired."""
    found = next((one for one in place.tokens if one.token == prefix), None)
    if found is None:
        raise NotApproved(f"token {prefix} is not known at this place; `assay login` takes another")
    if prefix in place.revoked:
        raise NotApproved(f"token {prefix} of {found.name} was revoked; ask an admin for another")
    if not place.is_valid(found, ledger.grants.now()):
        raise NotApproved(f"token {prefix} of {found.name} has expired; ask an admin for another")
    return found
