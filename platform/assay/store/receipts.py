"""The place's keys, and the receipts that they have signed. Ed25519, by `cryptography`."""

import base64
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import IntegrityError, PlaceError
from assay.records.releases.receipt import (
    PAYLOAD_TYPE,
    Envelope,
    FieldDigests,
    Signature,
    Statement,
    encoded,
    field_digests,
    read_statement,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class PlaceKeys:
    """The keys of one place: `ID.key` (mode 0600) and `ID.pub`, and `current`, which names the one
    that signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> str | None:
        """Id of the key that signs; None before the first."""
        file = self.folder / "current"
        return file.read_text().strip() if file.exists() else None

    def make(self) -> str:
        """A new key, which signs from now on. Public keys of before stay, and what they have signed
        stays valid."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.generate()
        raw = private.public_key().public_bytes_raw()
        key = hashlib.sha256(raw).hexdigest()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            secret = private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            descriptor = os.open(
                self.folder / f"{key}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(secret)
            self.public_file(key).write_bytes(_public_pem(private.public_key()))
            # Named last, when both of its files are whole.
            draft = self.folder / f"current.{os.getpid()}"
            draft.write_text(key)
            draft.replace(self.folder / "current")
        except OSError as error:
            raise PlaceError(f"cannot keep a key in {self.folder}: {error.strerror}") from error
        return key

    def public_file(self, key: str) -> Path:
        """Where the public key is, for whoever verifies."""
        return self.folder / f"{key}.pub"

    def public_files(self) -> list[Path]:
        """All public keys of the place, those of before too."""
        return sorted(self.folder.glob("*.pub"))

    def sign(self, statement: Statement) -> Envelope:
        """Signs with the current key; the first is made when there is none. Raises `PlaceError` for
        a key that others may read."""
        payload = statement.payload()
        signature = self.signature(encoded(PAYLOAD_TYPE, payload))
        fields = FieldDigests(digests=field_digests(payload), signature=signature)
        signed = self.signature(fields.signed_bytes())
        return Envelope(
            payload=base64.b64encode(payload).decode(),
            payloadType=PAYLOAD_TYPE,
            signatures=(signature,),
            fields=FieldDigests(digests=fields.digests, signature=signed),
        )

    def signature(self, data: bytes) -> Signature:
        """The current key's signature of some bytes; see `sign`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = self.current() or self.make()
        file = self.folder / f"{key}.key"
        if file.stat().st_mode & 0o077:
            raise PlaceError(f"others may read {file}: rotate it (`assay keys rotate`)")
        private = load_pem_private_key(file.read_bytes(), password=None)
        assert isinstance(private, Ed25519PrivateKey)
        signed = private.sign(data)
        return Signature(keyid=key, sig=base64.b64encode(signed).decode())

    def has_signed(self, signature: Signature, data: bytes) -> bool:
        """Whether one of the place's keys, of before too, has signed these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        file = self.public_file(signature.keyid)
        # The id is whatever the signature says: a path in it must not lead to another key.
        if file not in self.public_files():
            return False
        public = load_pem_public_key(file.read_bytes())
        assert isinstance(public, Ed25519PublicKey)
        try:
            public.verify(base64.b64decode(signature.sig, validate=True), data)
        except (InvalidSignature, ValueError):
            return False
        return True


class ReceiptStore:
    """Receipts of one place, a folder a run."""

    def __init__(self, folder: Path, keys: PlaceKeys) -> None:
        self.folder, self.keys = folder, keys

    def write(self, statements: Iterable[Statement]) -> list[Path]:
        """Signs each and keeps it; one that is there already is left as it is."""
        files = []
        for statement in statements:
            file = self.folder / statement.run / f"{statement.kind}-{statement.digest[:16]}.json"
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not file.exists():
                draft = file.with_suffix(f".{os.getpid()}")
                draft.write_text(self.keys.sign(statement).model_dump_json(indent=1))
                draft.replace(file)
            files.append(file)
        return files


def open_receipt(file: Path, public_keys: Iterable[Path]) -> Statement:
    """The statement in a receipt's file. Raises `IntegrityError` unless one of these keys has
    signed it."""
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file} is no receipt: {str(error).splitlines()[0]}") from error
    return open_envelope(text, public_keys, str(file))


def open_envelope(text: str, public_keys: Iterable[Path], file: str) -> Statement:
    """The statement in an envelope, which messages call `file`; see `open_receipt`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        envelope = Envelope.model_validate_json(text)
        signed, payload = envelope.signed_bytes(), base64.b64decode(envelope.payload, validate=True)
        signatures = {}
        for one in envelope.signatures:
            signatures[one.keyid] = base64.b64decode(one.sig, validate=True)
    except ValueError as error:
        raise IntegrityError(f"{file} is no receipt: {str(error).splitlines()[0]}") from error
    if envelope.payloadType != PAYLOAD_TYPE:
        raise IntegrityError(f"{file} is no receipt: it holds {envelope.payloadType}")
    for key_file in public_keys:
        public = load_pem_public_key(key_file.read_bytes())
        assert isinstance(public, Ed25519PublicKey)
        # By what it is made of, not by the name of its file.
        key = hashlib.sha256(public.public_bytes_raw()).hexdigest()
        if key not in signatures:
            continue
        try:
            public.verify(signatures[key], signed)
        except InvalidSignature as error:
            where = _changed_fields(envelope, payload, public)
            raise IntegrityError(
                f"{file} was changed after key {key[:12]} signed it: {where}"
            ) from error
        try:
            return read_statement(payload)
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"{file}: {error}") from error
    named = ", ".join(key[:12] for key in signatures) or "nobody"
    raise IntegrityError(f"{file} is signed by {named}, and not by a key that was given")


def _changed_fields(envelope: Envelope, payload: bytes, public: "Ed25519PublicKey") -> str:
    """Which fields are not those that were signed, in words."""
    from cryptography.exceptions import InvalidSignature

    if envelope.fields is None:
        return "a version of before signed it, which kept no digest of each field"
    try:
        signed = base64.b64decode(envelope.fields.signature.sig, validate=True)
        public.verify(signed, envelope.fields.signed_bytes())
    except (InvalidSignature, ValueError):
        return "the digests of its fields were, too"
    try:
        found = field_digests(payload)
    except ValueError:
        return "it is no JSON any more"
    wanted = envelope.fields.digests
    changed = {path for path in {*wanted, *found} if wanted.get(path) != found.get(path)}
    # An object that has lost its only field stands for itself, too; the field is what was changed.
    holders = {path.rpartition(".")[0] for path in changed}
    if changed - holders:
        return ", ".join(sorted(changed - holders))
    return "the order of its keys, its spaces or its signature"


def _public_pem(public: object) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    assert isinstance(public, Ed25519PublicKey)
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
