"""The console's process: `python -m assay.console.server`, started by `assay up`, or by `assay
console` in a terminal."""

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from assay.errors import PlaceError, UsageError
from assay.flow.place.book import read_place
from assay.flow.place.daemon import Daemon
from assay.settings import Settings
from assay.store.ledger import Ledger

MODULE = "assay.console.server"
START_WAIT_S = 60.0
END_S = 1
"""How long a page that listens for events is waited for when the console ends."""


def start(settings: Settings) -> None:
    """Starts the console beside the other processes of the place; nothing is done where it runs.
    Raises `PlaceError`."""
    daemon = _daemon(settings)
    if daemon.is_running():
        return
    _check_address(settings)
    _key_file(settings).unlink(missing_ok=True)
    # It is written when the console listens and has the place's lock.
    daemon.start(settings, is_ready=_key_file(settings).exists, wait_s=START_WAIT_S)
    if not _key_file(settings).exists():
        raise PlaceError(f"the console did not start in time; see {daemon.log_file}")


def stop(settings: Settings) -> None:
    """Stops it; nothing is done where none runs."""
    _daemon(settings).stop()


def is_running(settings: Settings) -> bool:
    """Whether a console lives."""
    return _daemon(settings).is_running()


def way_in(settings: Settings) -> str:
    """How to come in: an address, with the key behind `#` where the place takes people's word. No
    browser sends what stands there, and no log has it."""
    policy = read_place(settings, Ledger(settings.ledger_url)).policy
    if policy.identity != "local":
        return f"{settings.console_url}  (log in with your token)"
    try:
        key = _key_file(settings).read_text().strip()
    except OSError:
        return settings.console_url
    return f"{settings.console_url}/login#{key}"


def serve(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGINT or SIGTERM. Raises `PlaceError` where it cannot listen, and `UsageError`
    where another console runs."""
    import uvicorn

    from assay.console.app import make_app

    _check_address(settings)
    daemon = _daemon(settings)
    with _listening(settings) as listener, daemon.lives():
        daemon.keep_pid()
        key = _new_key(settings)
        config = uvicorn.Config(
            make_app(settings, key),
            access_log=False,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=END_S,
            limit_concurrency=200,
        )
        ready()
        uvicorn.Server(config).run(sockets=[listener])


def main() -> int:
    """Serves the place that the environment describes."""
    try:
        serve(Settings())
    except (PlaceError, UsageError) as error:
        print(error, flush=True)
        return 1
    return 0


def _daemon(settings: Settings) -> Daemon:
    return Daemon(MODULE, "console", settings.home / "console")


def _new_key(settings: Settings) -> str:
    """A key for this console, which its owner alone may read."""
    file = _key_file(settings)
    key = secrets.token_urlsafe(32)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(key)
    return key


def _key_file(settings: Settings) -> Path:
    return settings.home / "console" / "key"


def _check_address(settings: Settings) -> None:
    """Raises `UsageError` for an address on which tokens would cross a network in the clear."""
    if settings.console_url.startswith("https://") or _is_loopback(settings.console_host):
        return
    raise UsageError(
        f"the console would listen on {settings.console_host} without TLS, and tokens would cross "
        "the network in the clear: let a proxy end TLS, and set ASSAY_CONSOLE_URL=https://…; or "
        "leave ASSAY_CONSOLE_HOST on the loopback and come in by `ssh -L`"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(settings: Settings) -> socket.socket:
    """A listening socket. Raises `PlaceError` where the port is taken."""
    host, port = settings.console_host, settings.console_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise PlaceError(
            f"the console cannot listen on {host}:{port}: {error.strerror}; stop what uses it, or "
            "set ASSAY_CONSOLE_PORT"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
