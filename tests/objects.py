"""An S3 server for tests: moto's, in a process of its own on this machine."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import free_port

KEYS = "AWS_ACCESS_KEY_ID=tests\nAWS_SECRET_ACCESS_KEY=tests\nAWS_REGION=us-east-1\n"
WAIT_S = 120.0


@contextmanager
def s3_server(port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A server with an empty bucket named `bucket`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + WAIT_S
        while not _makes_bucket(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def url_of(port: int, prefix: str) -> str:
    """Where artifacts go."""
    return f"s3://bucket/{prefix}?endpoint_override=127.0.0.1:{port}&scheme=http"


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that is up for all tests."""
    pytest.importorskip("moto", reason="`make setup` brings the S3 server of the tests")
    port = free_port()
    with s3_server(port, tmp_path_factory.mktemp("s3") / "log"):
        yield port


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's keys, as secrets of the place, and nowhere else."""
    file = tmp_path / "secrets"
    file.write_text(KEYS)
    file.chmod(0o600)
    monkeypatch.setenv("ASSAY_SECRETS", str(file))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return file


def _makes_bucket(port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False
