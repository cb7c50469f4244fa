"""The key of the place: what is masked is named with it, and so are rows."""

import hashlib
import os
import secrets
from pathlib import Path

from assay.errors import PlaceError

FILE = "data.key"
KEY_BYTES = 32


def place_key(home: Path) -> bytes:
    """The key, made where there is none. Places that are to give one name to one person share the
    file. Raises `PlaceError` for a file that is no key."""
    file = home / FILE
    try:
        if not file.exists():
            home.mkdir(parents=True, exist_ok=True)
            _make(file)
        return bytes.fromhex(_checked(file))
    except (OSError, ValueError) as error:
        raise PlaceError(f"the key of this place, {file}, cannot be used: {error}") from None


def _make(file: Path) -> None:
    draft = file.with_name(f".{FILE}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(KEY_BYTES) + "\n")
    try:
        os.link(draft, file)  # unlike a rename, it never takes another's key away
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def key_fingerprint(home: Path) -> str:
    """What tells two keys apart and says nothing of them."""
    return hashlib.sha256(b"assay data key:" + place_key(home)).hexdigest()[:16]


def _checked(file: Path) -> str:
    text = file.read_text().strip()
    if len(text) != 2 * KEY_BYTES:
        raise ValueError(f"it must be {2 * KEY_BYTES} hexadecimal digits")
    if file.stat().st_mode & 0o077:
        raise ValueError(f"others can read it: chmod 600 {file}")
    return text
