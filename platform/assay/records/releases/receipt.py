"""Receipts: what a decision rests on, as signed statements that can be checked without the ledger.

A statement has the form of in-toto's Statement v1; the envelope is DSSE's, version 1.
"""

import base64
import hashlib
import json
from typing import Any, Literal, get_args

from assay.records.record import Record, canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

Kind = Literal[
    "evaluation", "approval", "deployment", "release", "user", "revocation", "policy", "head"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Subject(Record):
    """What a statement is about: a run, and the digest of the artifact that it made."""

    name: str
    digest: dict[str, str]


class Statement(Record):
    """One fact. Its predicate is described in platform/operations.md, by kind."""

    kind: Kind
    run: str
    artifact: str
    """SHA-256 of the artifact's manifest."""
    predicate: dict[str, Any]

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": self.run, "digest": {"sha256": self.artifact}}],
                "predicateType": predicate_type(self.kind),
                "predicate": self.predicate,
            }
        ).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the signed bytes: how other statements name this one."""
        return hashlib.sha256(self.payload()).hexdigest()


class Signature(Record):
    """One signature of an envelope."""

    keyid: str
    """SHA-256 of the raw public key, in hex."""
    sig: str
    """Base64."""


class Envelope(Record):
    """A signed statement, as it stands in a file."""

    payload: str
    """Base64."""
    payloadType: str  # noqa: N815  DSSE's own name
    signatures: tuple[Signature, ...]

    def signed_bytes(self) -> bytes:
        """What the signatures are of: DSSE's pre-authentication encoding."""
        return encoded(self.payloadType, base64.b64decode(self.payload, validate=True))


def encoded(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: lengths keep type and content from running into each
    other."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def predicate_type(kind: Kind) -> str:
    """The URI of a predicate's form."""
    return f"urn:assay:{kind}:1"


def read_statement(payload: bytes) -> Statement:
    """The statement in signed bytes. Raises ValueError for anything that this version did not
    write."""
    said = json.loads(payload)
    if not isinstance(said, dict) or said.keys() != {
        "_type",
        "subject",
        "predicateType",
        "predicate",
    }:
        raise ValueError("it is no statement")
    kinds = {predicate_type(kind): kind for kind in KINDS}
    if (
        said["_type"] != STATEMENT_TYPE
        or said["predicateType"] not in kinds
        or len(said["subject"]) != 1
    ):
        raise ValueError(f"it is of a form that is not known: {said['predicateType']}")
    subject = Subject.model_validate(said["subject"][0])
    statement = Statement(
        kind=kinds[said["predicateType"]],
        run=subject.name,
        artifact=subject.digest.get("sha256", ""),
        predicate=said["predicate"],
    )
    if statement.payload() != payload:
        raise ValueError("it is not written as this version writes it")
    return statement
