"""The gateway's control path: start and stop it, move traffic, make keys, read counters.

The data path is HAProxy's alone. Every change is written to the gateway's folder first and told to
the running HAProxy next, so that a HAProxy that is started again comes up as the last one was.
"""

import csv
import errno
import fcntl
import hashlib
import http.client
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psutil

from assay.errors import PlaceError, Superseded, UsageError
from assay.serving import admin, supervisor
from assay.serving.haproxy import BACKEND, SERVER, SLOTS, check_digests, check_weights
from assay.settings import KEYS, Settings

START_WAIT_S = 10.0
STOP_WAIT_S = 10.0
# Longer than one change takes.
LOCK_WAIT_S = 25.0
# Longer than the supervisor's longest pause between two HAProxies.
CHANGE_WAIT_S = 10.0

_POLL_S = 0.05
_LABEL = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True)
class SlotCounters:
    """What a slot has done since HAProxy was last started; a restart sets all to 0."""

    requests: int
    responses_5xx: int
    """Server errors, those that the gateway itself gave for the slot included."""

    connection_errors: int
    """Attempts to reach Ray Serve that failed, retries included."""

    current_sessions: int
    """Requests in flight."""


def start(settings: Settings) -> None:
    """Start the gateway and wait until it answers; nothing is done where it runs already. Raises
    PlaceError."""
    address = (
        f"{settings.gateway_host}:{settings.gateway_port} (ASSAY_GATEWAY_HOST, ASSAY_GATEWAY_PORT)"
    )
    if is_running(settings):
        if not _eventually(lambda: _answers(settings), START_WAIT_S):
            raise PlaceError(
                f"the gateway runs but not on {address}; stop it before its settings are changed"
            )
        return
    supervisor.haproxy_binary()
    _require_free_port(settings)
    supervisor.prepare(settings)
    pid = _spawn(settings)
    _eventually(
        lambda: _answers(settings) or (_has_ended(pid) and not is_running(settings)), START_WAIT_S
    )
    if not _answers(settings):
        # One that is slow to come up holds no lock yet, so `stop` would not see it.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        stop(settings)
        raise PlaceError(f"the gateway did not start on {address}; {_last_words(settings)}")


def stop(settings: Settings) -> None:
    """Stop the gateway and wait until it is gone; requests in flight are cut. Nothing is done where
    none runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = supervisor.running_pid(settings)
        if pid is None:
            break
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if _eventually(lambda: not is_running(settings), STOP_WAIT_S):
            break
    else:
        raise PlaceError(
            "the gateway does not stop; its supervisor is process "
            f"{supervisor.running_pid(settings)}"
        )
    shutil.rmtree(settings.socket_dir, ignore_errors=True)


def is_running(settings: Settings) -> bool:
    """Whether the place's gateway is kept running, be it between two HAProxies."""
    return supervisor.running_pid(settings) is not None


def claim(settings: Settings, writer: int) -> None:
    """Make `writer` the one whose changes of traffic are taken; those of lower numbers are refused
    from now on, even from a process that was paused in the middle of one. Raises Superseded when
    there is a newer writer."""
    supervisor.prepare(settings)
    with _changing(settings):
        _require_newest(settings, writer)
        supervisor.keep_writer(settings, writer)


def newest_writer(settings: Settings) -> int:
    """The number of the writer that the gateway listens to; 0 before the first."""
    return supervisor.read_writer(settings)


def give(
    settings: Settings, weights: dict[str, int], approved: Collection[str], *, writer: int
) -> None:
    """Give each slot its weight, 0 (no traffic) to 256, at once, and let answers through that say
    they are an approved artifact's, by digest; returns when HAProxy has confirmed both.

    Raises ValueError for other weights or digests, and, with nothing changed, PlaceError when the
    gateway does not run, and Superseded when a newer writer than `writer` has claimed the gateway.
    """
    check_weights(weights)
    check_digests(approved)
    _require_running(settings)
    with _changing(settings):
        _require_newest(settings, writer)
        supervisor.keep_approved(settings, approved)
        supervisor.keep_weights(settings, weights)
        # Digests come before traffic does, and go after it has gone.
        applied = (
            lambda: admin.approve(settings, approved),
            lambda: admin.apply_weights(settings, weights),
            lambda: admin.approve(settings, approved, only=True),
        )
        if not all(_eventually(one, CHANGE_WAIT_S) for one in applied):
            raise PlaceError(
                f"the gateway did not confirm the weights {weights}; it takes them when it next "
                "starts"
            )


def settle(
    settings: Settings, weights: dict[str, int], approved: Collection[str], *, writer: int
) -> bool:
    """Make sure of `weights` and of what is `approved`, now and at the next start; where the
    gateway does not run, at the next start alone. Returns whether the weights were others
    before."""
    check_weights(weights)
    were_others = not supervisor.read_weights(settings) == weights == get_weights(settings)
    wanted = set(approved)
    is_approved = supervisor.read_approved(settings) == wanted == get_approved(settings)
    if is_approved and not were_others:
        return False
    if is_running(settings):
        give(settings, weights, approved, writer=writer)
        return were_others
    check_digests(approved)
    with _changing(settings):
        _require_newest(settings, writer)
        supervisor.keep_approved(settings, approved)
        supervisor.keep_weights(settings, weights)
    return were_others


def get_weights(settings: Settings) -> dict[str, int]:
    """The weights in effect; where HAProxy does not answer, those that it will come up with."""
    try:
        return admin.live_weights(settings)
    except OSError:
        return supervisor.read_weights(settings)


def get_approved(settings: Settings) -> set[str]:
    """The digests whose answers are let through; where HAProxy does not answer, those that it will
    come up with."""
    try:
        return admin.live_approved(settings)
    except OSError:
        return supervisor.read_approved(settings)


def counters(settings: Settings) -> dict[str, SlotCounters]:
    """What each slot has done. Raises PlaceError when HAProxy does not answer."""
    try:
        table = admin.ask(settings, "show stat")
    except OSError as error:
        raise PlaceError(
            "the gateway does not run, so it has no counters; start it with `assay up`"
        ) from error
    rows = {(row["# pxname"], row["svname"]): row for row in csv.DictReader(io.StringIO(table))}
    return {slot: _slot_counters(rows[BACKEND, slot], rows[slot, SERVER]) for slot in SLOTS}


def create_key(settings: Settings, label: str) -> str:
    """Make an API key, valid at once. It is returned this one time; only its SHA-256 and `label`
    are kept."""
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"key label {label!r}: 1 to 64 letters, digits, dots, dashes, underscores or @ are "
            "wanted"
        )
    supervisor.prepare(settings)
    key = "assay-" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    with _changing(settings):
        # Kept before it is told: a HAProxy that dies in between comes up with the key.
        with supervisor.keys_map(settings).open("a") as file:
            file.write(f"{digest} {label}\n")
            file.flush()
            os.fsync(file.fileno())
        if is_running(settings) and not _eventually(
            lambda: admin.load_key(settings, digest, label), CHANGE_WAIT_S
        ):
            raise PlaceError(
                f"the gateway did not take the key {label!r}; it does when it next starts"
            )
    return key


def has_keys(settings: Settings) -> bool:
    """Whether there is an API key at all; without one every request is refused."""
    try:
        return bool(supervisor.keys_map(settings).read_text().strip())
    except FileNotFoundError:
        return False


def _require_newest(settings: Settings, writer: int) -> None:
    newest = supervisor.read_writer(settings)
    if writer < newest:
        raise Superseded(
            f"writer {writer} comes too late: the gateway listens to writer {newest} by now"
        )


def _require_running(settings: Settings) -> None:
    if not is_running(settings):
        raise PlaceError("the gateway does not run; start it with `assay up`")


def _require_free_port(settings: Settings) -> None:
    """Say now what HAProxy would only say in its log."""
    host, port = settings.gateway_host, settings.gateway_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PlaceError(
                f"port {port} is in use{_owner_of(port)}; stop what uses it or set "
                "ASSAY_GATEWAY_PORT"
            ) from error
        raise PlaceError(
            f"the gateway cannot listen on {host}:{port} ({error.strerror}); "
            "set ASSAY_GATEWAY_HOST or ASSAY_GATEWAY_PORT"
        ) from error


def _owner_of(port: int) -> str:
    """Who listens on `port`, as far as this user may know."""
    for connection in psutil.net_connections("tcp"):
        listens = (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
        )
        if listens and connection.pid:
            with suppress(psutil.Error):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def _spawn(settings: Settings) -> int:
    """Start the supervisor as a process of its own session, which outlives this one; returns its
    pid."""
    variables = {
        "ASSAY_HOME": str(settings.home),
        "ASSAY_GATEWAY_HOST": settings.gateway_host,
        "ASSAY_GATEWAY_PORT": str(settings.gateway_port),
        "ASSAY_SERVE_PORT": str(settings.serve_port),
    }
    # A personal token is nothing that outlives its command.
    left_out = ("ASSAY_TOKEN", *KEYS)
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    log = str(supervisor.log_file(settings))
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", supervisor.MODULE],
        {**inherited, **variables},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _answers(settings: Settings) -> bool:
    """Whether this place's HAProxy runs and the port is its own."""
    # Another program may have the port, and answer there: only the gateway tells of its traffic.
    try:
        admin.live_weights(settings)
        connection = http.client.HTTPConnection(
            _reachable(settings.gateway_host), settings.gateway_port, timeout=1.0
        )
        with closing(connection):
            connection.request("GET", "/healthz")
            return "traffic" in json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def _reachable(host: str) -> str:
    """An address to call, for the address that is bound."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)


def _last_words(settings: Settings) -> str:
    path = supervisor.log_file(settings)
    lines = path.read_text(errors="replace").splitlines()[-6:]
    return "\n".join([f"{path} ends with:", *lines])


def _slot_counters(front: Mapping[str, str], hop: Mapping[str, str]) -> SlotCounters:
    """Counters from the slot's row in the backend and its row in its own hop, which alone calls Ray
    Serve."""
    return SlotCounters(
        requests=int(front["req_tot"]),
        responses_5xx=int(front["hrsp_5xx"]),
        connection_errors=int(front["econ"]) + int(hop["econ"]),
        current_sessions=int(front["scur"]),
    )


@contextmanager
def _changing(settings: Settings) -> Iterator[None]:
    """One change at a time, so that what is kept and what is in effect stay the same."""
    # The file stays: if it were removed, two processes could hold locks on two files of one name.
    with (supervisor.folder(settings) / "change.lock").open("a") as lock:
        if not _eventually(lambda: _locked(lock.fileno()), LOCK_WAIT_S):
            raise PlaceError(
                f"another process has been changing the gateway for {LOCK_WAIT_S:.0f} s; is it "
                "stopped?"
            )
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _eventually(condition: Callable[[], bool], wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
