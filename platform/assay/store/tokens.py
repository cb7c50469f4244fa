"""Personal tokens: made, hashed and compared. Argon2id, by `cryptography`."""

import os
import re
import secrets
from pathlib import Path

from assay.errors import NotApproved, PlaceError

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


def read_token(file: Path) -> str:
    """The token in a file; empty where there is none. Raises `PlaceError` for a file that others
    could have read or written."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PlaceError(f"the token in {file} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor) as opened:
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
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(token + "\n")
    draft.replace(file)
