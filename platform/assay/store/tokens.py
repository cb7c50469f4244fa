"""Personal tokens: made, hashed and compared. Argon2id, by `cryptography`."""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import NotApproved, PlaceError
from assay.records.releases.grant import SignedAct

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORM = re.compile(r"assay_([0-9a-f]{8})_[0-9a-f]{64}")

# OWASP's first choice for Argon2id (Password Storage Cheat Sheet, 2023): 19 MiB, 2 passes, 1 lane.
# A token has 256 random bits, so nobody guesses it whatever the hash; this is for a database that
# is read by somebody who should not.
MEMORY_KIB, PASSES, LANES, HASH_BYTES, SALT_BYTES = 19 * 1024, 2, 1, 32, 16


def new_token() -> tuple[str, str]:
    """A token and its prefix. The token is shown once and kept nowhere."""
    prefix = secrets.token_hex(4)
    return f"assay_{prefix}_{secrets.token_hex(32)}", prefix


def prefix_of(token: str) -> str:
    """The part of a token by which it is called. Raises `NotApproved` for what is no token."""
    found = FORM.fullmatch(token)
    if found is None:
        raise NotApproved(
            "what was given is no token of Assay: it begins with `assay_`; ask an admin of this "
            "place (`assay users add`)"
        )
    return found[1]


def hash_of(token: str) -> str:
    """What the ledger keeps of a token."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(
        salt=os.urandom(SALT_BYTES),
        length=HASH_BYTES,
        iterations=PASSES,
        lanes=LANES,
        memory_cost=MEMORY_KIB,
    )
    return kdf.derive_phc_encoded(token.encode())


def is_hash_of(secret_hash: str, token: str) -> bool:
    """Whether this is the token."""
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        Argon2id.verify_phc_encoded(token.encode(), secret_hash)
    except InvalidKey:
        return False
    return True


def act_key_of(token: str) -> str:
    """The public key, in hex, of the key by which the token's owner signs commands."""
    return _act_key(token).public_key().public_bytes_raw().hex()


def sign_act(token: str, arguments: Sequence[str], about: str) -> SignedAct:
    """A command that is to be done elsewhere, signed with a token."""
    act = SignedAct(token=prefix_of(token), arguments=tuple(arguments), about=about, at=time.time())
    signature = _act_key(token).sign(act.signed_bytes()).hex()
    return act.model_copy(update={"signature": signature})


def has_signed(act_key: str, act: SignedAct) -> bool:
    """Whether the owner of this public key has signed the command."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(act_key))
        public.verify(bytes.fromhex(act.signature), act.signed_bytes())
    except (InvalidSignature, ValueError):
        return False
    return True


def _act_key(token: str) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    # The token is 256 random bits: one hash, told apart from all other uses, makes a key of it.
    return Ed25519PrivateKey.from_private_bytes(
        hashlib.sha256(f"assay act 1 {token}".encode()).digest()
    )


def read_token(file: Path) -> str:
    """The token in a file; empty where there is none. Raises `PlaceError` for a file that others
    could have read or written."""
    try:
        # A link could lead to a file that somebody else may write.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PlaceError(f"the token in {file} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor) as opened:
        # Of what was opened: the name may stand for another file by now.
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PlaceError(
                f"{file} holds a token and is not yours alone: remove it, have the token revoked "
                "(`assay users revoke`), and log in with a new one"
            )
        return opened.read().strip()


def keep_token(file: Path, token: str) -> None:
    """Writes a token where its owner alone may read it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    # O_EXCL: what somebody has put there before, a link too, is not written into.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(token + "\n")
    draft.replace(file)
