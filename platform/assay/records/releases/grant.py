"""What the place's admins lay down: tokens that are given and revoked, and policies. Each is the
predicate of a statement that the place's key signs."""

from typing import Any, Literal

from pydantic import Field

from assay.records.record import Record, canonical_json
from assay.records.releases.receipt import Kind, Statement

Role = Literal["run", "review", "release", "admin"]
ROLES: tuple[Role, ...] = ("run", "review", "release", "admin")

GRANT_KINDS: tuple[Kind, ...] = ("user", "revocation", "policy")
"""The kinds of statements that the place itself makes, in a row of their own."""


class Grant(Record):
    """A personal token, as the ledger knows it: who has it, and what it opens."""

    name: str
    roles: tuple[Role, ...] = Field(min_length=1)
    token: str
    """The token's prefix, by which it is called."""
    secret_hash: str
    """Argon2id of the whole token, in the form of the Password Hashing Competition."""
    given_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Likewise; the token opens nothing from then on."""
    act_key: str = ""
    """The public key, in hex, of the key that is made of the token, by which acts are signed."""


class SignedAct(Record):
    """One command that somebody has signed with their token, for a machine that must not see the
    token itself: Ray shows a job's environment to whoever may see the job."""

    token: str
    """The token's prefix."""
    arguments: tuple[str, ...]
    """The command's, as they will be given."""
    about: str
    """The id of the run that is to be made; empty for a command that makes none."""
    at: float
    """Seconds since the epoch, by the clock of who signs."""
    signature: str = ""
    """Ed25519, in hex, of the canonical JSON of all else."""

    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        return canonical_json(self.model_dump(exclude={"signature"})).encode()


class Revocation(Record):
    """Tokens that open nothing any more."""

    tokens: tuple[str, ...]
    """Their prefixes."""
    at: float
    """Seconds since the epoch."""


class PolicyChange(Record):
    """A policy, from now on until the next."""

    policy: dict[str, Any]
    """As `assay policy set` read it, defaults left out."""
    at: float
    """Seconds since the epoch."""


GRANT_FORMS: dict[Kind, type[Record]] = {
    "user": Grant,
    "revocation": Revocation,
    "policy": PolicyChange,
}


def grant_statement(number: int, kind: Kind, said: Grant | Revocation | PolicyChange) -> Statement:
    """A statement as it is signed. Its number counts all of the place's without gaps, so that none
    can be left out, put elsewhere or said again."""
    content = said.model_dump(mode="json")
    name = said.name if isinstance(said, Grant) else kind
    return Statement(
        kind=kind, run=name, artifact="", predicate={"number": number, "content": content}
    )
