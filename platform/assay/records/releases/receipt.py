"""Receipts: what a decision rests on, as signed statements that can be checked without the ledger.

A statement has the form of in-toto's Statement v1; the envelope is DSSE's, version 1.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args

from assay.records.record import Record, canonical_json, digest_of

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
FIELDS_TYPE = "application/vnd.assay.fields+json"

Kind = Literal[
    "evaluation", "approval", "deployment", "release", "user", "revocation", "policy", "head"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


Form = Literal["rfc8785", "escaped"]
"""How a statement is written: by RFC 8785, the JSON Canonicalization Scheme, or as versions before
wrote it, sorted by code points and with everything beyond ASCII escaped. A receipt of before is
read as it was written, so that what names it by its digest still does."""


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
    form: Form = "rfc8785"

    def payload(self) -> bytes:
        """The bytes that are signed. Raises ValueError for what RFC 8785 has no form for, such as a
        whole number beyond 2^53."""
        import rfc8785  # not where no receipt is read: `validate` shall start fast

        said: dict[str, Any] = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.run, "digest": {"sha256": self.artifact}}],
            "predicateType": predicate_type(self.kind),
            "predicate": self.predicate,
        }
        if self.form == "escaped":
            return canonical_json(said).encode()
        return rfc8785.dumps(said)

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


class FieldDigests(Record):
    """A digest of each field of a statement, signed apart from it. Nothing is believed because of
    it: it tells a reader of a statement that was changed in which field."""

    digests: dict[str, str]
    signature: Signature

    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        return encoded(FIELDS_TYPE, canonical_json(self.digests).encode())


class Envelope(Record):
    """A signed statement, as it stands in a file."""

    payload: str
    """Base64."""
    payloadType: str  # noqa: N815  DSSE's own name
    signatures: tuple[Signature, ...]
    fields: FieldDigests | None = None
    """None in receipts of before. DSSE lets its readers pass by what they do not know."""

    def signed_bytes(self) -> bytes:
        """What the signatures are of: DSSE's pre-authentication encoding."""
        return encoded(self.payloadType, base64.b64decode(self.payload, validate=True))


def encoded(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: lengths keep type and content from running into each
    other."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def field_digests(payload: bytes) -> dict[str, str]:
    """Of each field of a JSON document, by its dotted path, the first half of its SHA-256. Raises
    ValueError for what is no JSON."""
    return {path: digest_of(value)[:32] for path, value in _fields(json.loads(payload), "")}


def _fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        inner = value.items()
    elif isinstance(value, list) and value:
        inner = dict(enumerate(value)).items()
    else:
        yield path, value
        return
    for name, part in inner:
        yield from _fields(part, f"{path}.{name}" if path else str(name))


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
    for form in get_args(Form):
        statement = Statement(
            kind=kinds[said["predicateType"]],
            run=subject.name,
            artifact=subject.digest.get("sha256", ""),
            predicate=said["predicate"],
            form=form,
        )
        if statement.payload() == payload:
            return statement
    raise ValueError("it is not canonical JSON (RFC 8785)")
