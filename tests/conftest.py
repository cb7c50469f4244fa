"""What several test files share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.settings import Settings
from servers import free_ports
from tiny import make_model

# Ray and `datasets` read these once, when the first test imports them. No test asks a hub.
os.environ |= {"RAY_AUTH_MODE": "token", "HF_HUB_OFFLINE": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that may take long first, so that no process is left with one of them at the end."""
    longest: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        allowed = float(marker.args[0]) if marker else 0.0
        longest[item.path] = max(allowed, longest.get(item.path, 0.0))
    items.sort(key=lambda item: -longest[item.path])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of random weights; nobody writes to it."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def ray_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A local Ray head, joined by this process: one for all tests, because Ray reads its token once
    in a process."""
    from assay.engines.cluster import local_head, tasks

    ports = free_ports(4)
    settings = Settings(
        home=tmp_path_factory.mktemp("ray"),
        ray_address="",
        ray_port=ports[0],
        dashboard_port=ports[1],
        serve_port=ports[2],
        gateway_port=ports[3],
        num_cpus=4,
    )
    try:
        with _environment(settings):
            local_head.start(settings)
            tasks.connect(settings.cluster_address)
        yield settings
    finally:
        tasks.disconnect()
        local_head.stop(settings)


@pytest.fixture(scope="module")
def on_ray(ray_place: Settings) -> Iterator[Settings]:
    """The same, with the environment of a process that works there."""
    with _environment(ray_place):
        yield ray_place


@contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"RAY_ADDRESS": settings.cluster_address, "RAY_AUTH_MODE": "token"}
    os.environ |= {
        "RAY_AUTH_TOKEN_PATH": str(settings.token_path),
        "ASSAY_HOME": str(settings.home),
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
