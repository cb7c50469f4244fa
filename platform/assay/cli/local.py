"""`assay up` and `assay down`: the local Ray head and the gateway."""

import os
from pathlib import Path

import click

from assay.engines.cluster import local_head
from assay.engines.cluster.cpu_features import has_avx2
from assay.errors import PlaceError
from assay.serving import gateway
from assay.settings import Place


def start_place(place: Place, *, new_key: bool = False, save_key: bool = False, gateway_only: bool = False) -> None:
    """Starts what is not running yet, and makes the first API key."""
    if not gateway_only:
        check_processor()
        ensure_place(place)
    gateway.start(place)
    if new_key or not gateway.has_keys(place):
        key = gateway.create_key(place, place.user)
        click.echo(f"API key, shown this once: {key}")
        if save_key:
            save(key, key_file(place))
    click.echo(f"gateway   {place.gateway_url}")
    if not gateway_only:
        click.echo(f"dashboard {place.dashboard_url}  (token in {place.token_path})")


def ensure_place(place: Place) -> None:
    """Starts the local Ray head and the gateway unless they run, or another cluster is named."""
    if not place.ray_address and not local_head.is_running(place):
        check_processor()
        click.echo("starting a local Ray head (`assay down` stops it)", err=True)
        local_head.start(place)
    if not place.ray_address:
        os.environ.update(
            {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(place.token_path),
                "RAY_ADDRESS": place.cluster_address,
            }
        )
        gateway.start(place)


def stop_place(place: Place) -> None:
    """Stops the gateway and the head, in this order."""
    was_running = gateway.is_running(place) or local_head.is_running(place)
    gateway.stop(place)
    local_head.stop(place)
    click.echo("stopped" if was_running else "nothing was running")


def key_file(place: Place) -> Path:
    """Where `--save-key` keeps the key for `assay chat`."""
    return place.home / "api-key"


def save(secret: str, path: Path) -> None:
    """Writes a secret that only its owner may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)


def check_processor() -> None:
    """vLLM's CPU build needs AVX2 at least; a machine with a GPU does not care. Raises `PlaceError`."""
    if Path("/dev/nvidia0").exists():
        return
    if not has_avx2():
        raise PlaceError("the CPU engine needs a processor with AVX2, which this one lacks; use a machine with a GPU")
