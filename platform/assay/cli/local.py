"""`assay up` and `assay down`: the local Ray head and the gateway."""

import os
from contextlib import suppress
from pathlib import Path

from assay.cli.terminal.echo import echo
from assay.engines.cluster import local_head
from assay.engines.cluster.cpu_features import has_avx2
from assay.errors import PlaceError, Unreachable, UsageError
from assay.serving import gateway, supervisor
from assay.settings import Settings

START_TIMEOUT_S = 900.0
"""How long an engine that another process starts is waited for."""

LOOK_S = 2.0
"""Between two looks at whether the gateway still runs."""


def start_place(
    settings: Settings,
    *,
    new_key: bool = False,
    save_key: bool = False,
    gateway_only: bool = False,
    foreground: bool = False,
) -> None:
    """Starts what is not running yet, makes the first API key, and brings the champion back. In the
    `foreground` the key is kept and not printed."""
    from assay.flow.release import controller

    if not gateway_only:
        check_processor()
        ensure_place(settings)
    gateway.start(settings)
    set_traffic_right(settings)
    controller.start(settings)
    if new_key or not gateway.has_keys(settings):
        key = gateway.create_key(settings, settings.user)
        if not foreground:
            echo(f"API key, shown this once: {key}")
        if save_key or foreground:  # what a container prints stands in logs
            save(key, key_file(settings))
            echo(f"API key in {key_file(settings)}")
    echo(f"gateway   {settings.gateway_url}")
    if not gateway_only:
        echo(f"dashboard {settings.dashboard_url}  (token in {settings.token_path})")
    start_console(settings)
    bring_back(settings)


def start_console(settings: Settings) -> None:
    """Starts the console. What keeps it from that keeps production from nothing."""
    from assay.console import server

    try:
        server.start(settings)
    except (PlaceError, UsageError) as error:
        echo(f"no console: {error}", err=True)
        return
    echo(f"console   {server.way_in(settings)}")


def ensure_place(settings: Settings) -> None:
    """Starts the local Ray head and the gateway unless they run, or another cluster is named."""
    if not settings.ray_address and not local_head.is_running(settings):
        check_processor()
        echo("starting a local Ray head (`assay down` stops it)", err=True)
        local_head.start(settings)
    if not settings.ray_address:
        os.environ.update(
            {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(settings.token_path),
                "RAY_ADDRESS": settings.cluster_address,
            }
        )
        gateway.start(settings)


def set_traffic_right(settings: Settings) -> None:
    """Takes back a promotion that was cut off, and gives the gateway the weights that the ledger
    tells of."""
    from assay.flow.release.operations import reconcile_releases

    reconcile_releases(settings, say=lambda text: echo(text, err=True))


def bring_back(settings: Settings) -> None:
    """Brings the champion back where a restart has ended it, and waits for that. Raises what keeps
    it from its traffic; the controller goes on trying."""
    from assay.flow.release.restore import restore

    with suppress(Unreachable):  # the controller waits for the cluster
        restore(settings, say=lambda text: echo(text, err=True), wait_s=START_TIMEOUT_S)


def stay_in_place(settings: Settings, *, new_key: bool, gateway_only: bool) -> None:
    """Starts the place, waits for SIGTERM or Ctrl-C, and stops it then. Raises `PlaceError` when
    the gateway is gone before that: whoever runs the container starts it again."""
    from assay.engines.cluster.signals import asked_to_stop

    with asked_to_stop() as asked:
        try:
            start_place(settings, new_key=new_key, gateway_only=gateway_only, foreground=True)
            while not asked.wait(LOOK_S):
                if not gateway.is_running(settings):
                    log = supervisor.log_file(settings)
                    raise PlaceError(f"the gateway has ended; see {log}")
        finally:
            stop_place(settings)


def stop_place(settings: Settings) -> None:
    """Stops the console, the controller, the gateway and the head, in this order."""
    from assay.console import server
    from assay.flow.release import controller

    server.stop(settings)
    controller.stop(settings)
    was_running = gateway.is_running(settings) or local_head.is_running(settings)
    gateway.stop(settings)
    local_head.stop(settings)
    echo("stopped" if was_running else "nothing was running")


def key_file(settings: Settings) -> Path:
    """Where `--save-key` keeps the key for `assay chat`."""
    return settings.home / "api-key"


def save(secret: str, path: Path) -> None:
    """Writes a secret that only its owner may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)


def check_processor() -> None:
    """vLLM's CPU build needs AVX2 at least; a machine with a GPU does not care. Raises
    `PlaceError`."""
    if Path("/dev/nvidia0").exists():
        return
    if not has_avx2():
        raise PlaceError(
            "the CPU engine needs a processor with AVX2, which this one lacks; use a machine with "
            "a GPU"
        )
