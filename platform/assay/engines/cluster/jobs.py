"""Ray's job API: hand a run to a cluster, follow its output, stop it.

The token of a cluster with authentication is the one that Ray itself would take, from the
environment: `RAY_AUTH_MODE=token`, and `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or
`~/.ray/auth_token`.
"""

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import PlaceError, Unreachable, UsageError

RESOLVED_SPEC = "assay-spec.yaml"
"""The spec's name in the folder that `pack` makes."""

# Ray's own limit is 512 MiB for the zipped folder.
MAX_UPLOAD_BYTES = 500 * 10**6

# A connection that brings no output for so long is opened anew: it may have been lost without a
# sign.
QUIET_S = 60.0

# How long `submit` waits for the agent of a head that has only just started.
AGENT_WAIT_S = 120.0

# How long `follow` tries to reach a cluster that it has already spoken to.
PATIENCE_S = 600.0

CHATTY = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)
"""Ray's loggers that tell of every upload and every closed socket."""

_RAYS_OWN = re.compile(r"[-\d]+ [:,\d]+\tINFO job_manager\.py:\d+ -- |Running entrypoint for job ")
"""How the lines begin that Ray writes into a job's output before the job's own first line."""

_NEVER_PACKED = (".gitignore", ".rayignore", "__pycache__", ".git")


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended."""

    status: str
    """Ray's word: `SUCCEEDED`, `FAILED` or `STOPPED`."""

    exit_code: int | None
    """The process's own exit code; None when it never ran or was stopped."""

    message: str
    """Ray's explanation."""


def pack(spec_text: str, root: Path, needed: Sequence[Path]) -> Path:
    """A new temporary folder with the resolved spec and the files and folders that it needs.

    Paths relative to `root` are kept. Nothing is left out on account of a `.gitignore`. Raises
    `UsageError` when something is missing, lies outside `root`, or all of it is too big to upload.
    """
    root = root.resolve()
    sources = [(source if source.is_absolute() else root / source).resolve() for source in needed]
    for source in sources:
        _check_packable(source, root)
    # Before anything is copied.
    _check_size(sources, root)
    folder = Path(tempfile.mkdtemp(prefix="assay-submit-"))
    for source in sources:
        target = folder / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns(*_NEVER_PACKED), dirs_exist_ok=True
            )
        else:
            shutil.copy2(source, target)
    (folder / RESOLVED_SPEC).write_text(spec_text, encoding="utf-8")
    return folder


def submit(
    address: str,
    *,
    entrypoint: list[str],
    working_dir: Path,
    env: dict[str, str],
    submission_id: str,
) -> None:
    """Start a job and return at once. `env` is seen by the entrypoint and by the workers that it
    starts.

    Raises `PlaceError` when the cluster cannot be reached or refuses the job.
    """
    client = _connect(address)
    end = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            with _plain_errors(address):
                client.submit_job(
                    entrypoint=shlex.join(entrypoint),
                    runtime_env={"working_dir": str(working_dir), "env_vars": env},
                    submission_id=submission_id,
                )
            return
        except PlaceError as error:
            # A head answers before its agent does, and refuses jobs until then.
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1.0)


class OwnOutput:
    """Passes a job's output on, without the lines that Ray wrote before the job's first."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._held = ""
        self._began = False

    def __call__(self, text: str) -> None:
        """Takes some more of the output."""
        self._held += text
        while not self._began and "\n" in self._held:
            line, _, rest = self._held.partition("\n")
            self._began = not _RAYS_OWN.match(line)
            if not self._began:
                self._held = rest
        if self._began:
            self.close()

    def close(self) -> None:
        """Writes what is held back."""
        held, self._held = self._held, ""
        if held:
            self._write(held)


def follow(address: str, submission_id: str, write: Callable[[str], None]) -> JobOutcome:
    """Pass a job's output to `write` as it comes, line ends included, until the job has ended.

    A lost connection is made again, and nothing is written twice. Raises `PlaceError` when the
    cluster cannot be reached at first or for `PATIENCE_S` later, refuses the token, or does not
    know the job.
    """
    num_written = 0
    last_contact: float | None = None
    wait_s = 1.0
    while True:
        try:
            client = _connect(address)
            last_contact, wait_s = time.monotonic(), 1.0
            for text in _output(client, address, submission_id, skip=num_written):
                write(text)
                num_written += len(text)
                last_contact = time.monotonic()
            with _plain_errors(address):
                job = client.get_job_info(submission_id)
            if job.status.is_terminal():
                return JobOutcome(job.status.value, job.driver_exit_code, job.message or "")
        except Unreachable as error:
            if last_contact is None or time.monotonic() - last_contact > PATIENCE_S:
                raise PlaceError(str(error)) from error
            # Seldom enough to harm nobody for ten minutes, often enough to be there soon.
            wait_s = min(2 * wait_s, 30.0)
        time.sleep(wait_s)


def stop(address: str, submission_id: str) -> None:
    """Ask a job to end; it gets SIGTERM, and SIGKILL some seconds later."""
    client = _connect(address)
    with _plain_errors(address):
        client.stop_job(submission_id)


def _check_packable(source: Path, root: Path) -> None:
    if not source.is_relative_to(root):
        raise UsageError(
            f"{source} lies outside {root}, so it cannot travel with the job; "
            "move it there, or name its place on the cluster's shared file system"
        )
    if not source.exists():
        raise UsageError(f"{source} does not exist")


def _check_size(sources: Sequence[Path], root: Path) -> None:
    files = set()
    for source in sources:
        for file in [source] if source.is_file() else source.rglob("*"):
            files.add(file)
    total_bytes = sum(file.stat().st_size for file in files if file.is_file())
    if total_bytes > MAX_UPLOAD_BYTES:
        raise UsageError(
            f"the files that the job needs under {root} are {total_bytes / 1e6:.0f} MB; at most "
            f"{MAX_UPLOAD_BYTES / 1e6:.0f} MB travel with a job: put them on the cluster's shared "
            "file system"
        )


def _connect(address: str) -> Any:
    """A `JobSubmissionClient` of exactly this address."""
    from ray.job_submission import JobSubmissionClient

    if "://" not in address:
        # Ray's client takes an address without a scheme for the cluster's own.
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address}: jobs go to the dashboard's address, http://HOST:8265")
    for name in CHATTY:
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    with _plain_errors(address), _without_address_variables():
        return JobSubmissionClient(address, headers=_auth_headers())


@contextmanager
def _without_address_variables() -> Iterator[None]:
    """Ray's client would silently prefer these variables to the address that it is given."""
    hidden = {}
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        if name in os.environ:
            hidden[name] = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ.update(hidden)


def _auth_headers() -> dict[str, str]:
    """The token, read anew; Ray's own loader remembers what the environment was when it was
    imported."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        try:
            token = path.read_text()
        except OSError as error:
            raise PlaceError(
                f"RAY_AUTH_MODE is token, but {path} cannot be read: {error.strerror}"
            ) from error
    return {"Authorization": f"Bearer {token.strip()}"}


@contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into errors that say what to do."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    unreachable = (
        f"no Ray cluster answers at {address}; is it up, and is this the address of its dashboard "
        "(http://HOST:8265, or the near end of `ray dashboard cluster.yaml`)?"
    )
    unknown = f"the cluster at {address} does not know this job; was it restarted?"
    unauthorized = (
        f"the cluster at {address} refuses the token; set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH "
        "to a file with the cluster's token (or RAY_AUTH_TOKEN to the token itself)"
    )
    try:
        yield
    except AuthenticationError as error:
        raise PlaceError(unauthorized) from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403, 404):
            raise PlaceError(unknown if error.status == 404 else unauthorized) from error
        raise Unreachable(unreachable) from error
    except (OSError, aiohttp.ClientError) as error:  # the errors of `requests` are OSErrors
        raise Unreachable(unreachable) from error
    except RuntimeError as error:
        if "WebSocket" in str(error):
            raise Unreachable(unreachable) from error
        if "status code 404" in str(error):
            raise PlaceError(unknown) from error
        raise PlaceError(f"the cluster at {address} refused: {error}") from error


def _output(client: Any, address: str, submission_id: str, *, skip: int) -> Iterator[str]:
    """A job's output from its character number `skip` on, until it ends, breaks off or is long
    silent."""
    chunks = client.tail_job_logs(submission_id)  # always starts with the first character
    with asyncio.Runner() as runner:
        while True:
            with _plain_errors(address):
                chunk = runner.run(_next_chunk(chunks))
            if chunk is None:
                return
            fresh, skip = chunk[skip:], max(0, skip - len(chunk))
            if fresh:
                yield fresh


async def _next_chunk(chunks: AsyncIterator[str]) -> str | None:
    """The next piece of output; None at its end, or after `QUIET_S`."""
    try:
        return await asyncio.wait_for(anext(chunks, None), QUIET_S)
    except TimeoutError:
        return None
