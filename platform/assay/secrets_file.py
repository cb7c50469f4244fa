"""The place's secrets: keys, passwords and addresses in a file, or in a folder with a file for each
as Kubernetes and Compose mount them.

Every process reads them on its own node, for as long as it does what needs them, and no longer.
They travel with nothing: Ray's dashboard shows a runtime environment to whoever may see a job. And
because they are read anew each time, a file that was changed holds from the next use on.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from assay.errors import PlaceError
from assay.settings import Settings

HUB = ("HF_*", "HUGGING_FACE_*")
"""What the Hugging Face hub's client reads."""

STORES = ("AWS_*", "GOOGLE_*", "GCS_*", "AZURE_*")
"""What the clients of object stores read."""

DATA = (*HUB, *STORES, "FSSPEC_*")
"""What training data that lie elsewhere may take."""

TRACKERS = ("WANDB_*", "MLFLOW_*")
"""What the services that draw curves read."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(r".*(ENDPOINT|REGION|_URL|_URI|_OFFLINE|_TIMEOUT)")
_PASSWORD = re.compile(r"//[^/]*@")
# A secret that is mounted into a container belongs to root, and is read by way of a group.
MOUNTED_MODE = 0o040


@contextmanager
def lent(wanted: tuple[str, ...]) -> Iterator[None]:
    """Puts the secrets whose names fit these patterns into this process's environment, where
    libraries look for them, and takes them out again. What the file says goes before what was
    there. Raises `PlaceError` for a file that others may read, or that is no such file."""
    secrets = matching(read(Settings().secrets), wanted)
    former = {name: os.environ.get(name) for name in secrets}
    os.environ |= secrets
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def value(name: str) -> str:
    """One secret by the name that a suite or an option says: the place's, or else the
    environment's; empty where there is none. The place's keys to hub and stores are not given out
    like that: a suite may come from somebody else, and says itself where the key is sent to."""
    secrets = read(Settings().secrets)
    for reserved in matching(secrets, (*DATA, *TRACKERS)):
        del secrets[reserved]
    return (secrets.get(name) or os.environ.get(name, "")).strip()


def take_addresses() -> None:
    """Puts what is no secret into this process's environment, where nothing else is said: where the
    hub and the stores are. Libraries read those once, when they are imported."""
    for name, said in read(Settings().secrets).items():
        if _ADDRESS.fullmatch(name) and not _PASSWORD.search(said):
            os.environ.setdefault(name, said)


def matching(secrets: Mapping[str, str], wanted: tuple[str, ...]) -> dict[str, str]:
    """Those whose names fit one of the patterns."""
    found = {}
    for name, said in secrets.items():
        if any(fnmatchcase(name, pattern) for pattern in wanted):
            found[name] = said
    return found


def read(path: Path) -> dict[str, str]:
    """All secrets of a file of lines `NAME=VALUE`, or of a folder of files; none where there is
    nothing at the path. Raises `PlaceError`, which quotes no value."""
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.exists():
            _require_private(path)
            return _parsed(path, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise PlaceError(f"the secrets in {path} cannot be read: {_reason(error)}") from error
    return {}


def exposure(path: Path) -> str:
    """Why others may read a file of secrets; empty when they may not."""
    status = path.stat()  # of what a link leads to: Kubernetes mounts links
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (os.getuid(), 0):
        return f"{path} is another user's"
    allowed = 0o700 | (MOUNTED_MODE if status.st_uid == 0 else 0)
    if mode & ~allowed:
        return f"others may read {path} (mode {mode:04o})"
    return ""


def files_of(path: Path) -> list[Path]:
    """The files that hold the secrets."""
    if path.is_dir():
        # Kubernetes keeps the versions of a mounted secret in hidden folders beside the links.
        return [one for one in sorted(path.iterdir()) if one.is_file() and one.name[0] != "."]
    return [path] if path.exists() else []


def _require_private(path: Path) -> None:
    if fault := exposure(path):
        raise PlaceError(
            f"{fault}; secrets are read from files that nobody else may read: chmod 600 {path}, or "
            "defaultMode: 0440 where Kubernetes mounts it"
        )


def _read_folder(folder: Path) -> dict[str, str]:
    found = {}
    for file in files_of(folder):
        _require_private(file)
        if not _NAME.fullmatch(file.name):
            raise PlaceError(f"{file} is not named as a variable is, such as HF_TOKEN")
        found[file.name] = file.read_text().rstrip("\n")
    return found


def _parsed(path: Path, text: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.strip().removeprefix("export ")
        if not said or said.startswith("#"):
            continue
        name, sign, content = said.partition("=")
        if not sign or not _NAME.fullmatch(name):
            raise PlaceError(f"line {number} of {path} is not NAME=VALUE")
        if len(content) > 1 and content[0] == content[-1] and content[0] in "'\"":
            content = content[1:-1]
        found[name] = content
    return found


def _reason(error: Exception) -> str:
    """Without the text that could not be read."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8"
