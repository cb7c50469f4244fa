"""Setting the place's policy."""

from pathlib import Path

from assay.errors import InvalidInput, NotApproved
from assay.flow.place.book import place_keys, read_place
from assay.flow.place.head import keep_head
from assay.flow.place.identity import act, given_token
from assay.loader.parse import in_order, parse
from assay.records.releases.grant import PolicyChange
from assay.settings import Settings
from assay.spec.place.policy import PolicySpec
from assay.store.ledger import Ledger


def set_policy(settings: Settings, file: Path) -> PolicySpec:
    """Makes what the file says the place's policy, signed by the place's key. Raises `InvalidInput`
    for a file with mistakes, and `NotApproved` unless an admin asks, who has a token where the
    policy asks for tokens: nobody could change it otherwise."""
    policy, _, problems = parse(file, PolicySpec)
    if problems or policy is None:
        raise InvalidInput(in_order(problems))
    ledger = Ledger(settings.ledger_url)
    actor = act(settings, ledger, "admin")
    if policy.identity == "tokens" and not given_token(settings):
        raise NotApproved(
            "with `identity: tokens` nobody without a token could change the policy again: make "
            "one for an admin (`assay users add NAME --role admin`), log in with it, and set the "
            "policy then"
        )
    said = policy.model_dump(mode="json", exclude_defaults=True)
    change = PolicyChange(policy=said, at=ledger.grants.now())
    ledger.grants.add("policy", change, keys=place_keys(settings), actor=actor)
    keep_head(settings, ledger.audit.events())
    return policy


def current_policy(settings: Settings) -> PolicySpec:
    """The policy that holds. Raises `IntegrityError` when it was tampered with."""
    return read_place(settings, Ledger(settings.ledger_url)).policy
