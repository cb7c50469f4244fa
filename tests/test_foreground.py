"""`assay up --foreground`, as a container runs it: it stays, prints no key, and stops what it has
started."""

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from assay.errors import ExitCode
from assay.serving import gateway
from assay.settings import Settings
from servers import free_ports


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A place in which nothing runs, also for the commands that are started."""
    names = ("RAY", "DASHBOARD", "SERVE", "GATEWAY", "CONSOLE")
    for name, port in zip(names, free_ports(len(names)), strict=True):
        monkeypatch.setenv(f"ASSAY_{name}_PORT", str(port))
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Settings()


def up(settings: Settings) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "assay.cli.main", "up", "--gateway-only", "--foreground"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=dict(os.environ))


def said_until(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stdout is not None
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said + (process.stderr.read() if process.stderr else "")
        said += line
    return said


@pytest.mark.timeout(240)
def test_it_stays_until_it_is_asked_to_stop_and_prints_no_key(place: Settings) -> None:
    process = up(place)
    said = said_until(process, "console ")
    assert gateway.is_running(place)
    key = (place.home / "api-key").read_text()
    assert stat.S_IMODE((place.home / "api-key").stat().st_mode) == 0o600
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=120)
    assert (process.returncode, "stopped" in rest) == (ExitCode.DONE, True), errors
    assert not gateway.is_running(place)
    assert key not in said + rest + errors
    assert key not in "".join(
        file.read_text(errors="replace") for file in place.home.rglob("*.log")
    )


@pytest.mark.timeout(240)
def test_it_ends_with_an_error_when_its_gateway_does(place: Settings) -> None:
    process = up(place)
    said_until(process, "console ")
    gateway.stop(replace(place))
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.USAGE, rest
    assert "the gateway has ended; see " in errors
