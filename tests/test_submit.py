"""Handing a run to a cluster: what travels with it, and what comes back."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from assay.engines.cluster import jobs
from assay.errors import PlaceError, UsageError


def test_pack_takes_the_spec_and_what_it_needs_whatever_gitignore_says(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("data/train.jsonl", "evals/suite.yaml", "evals/tasks/facts.yaml", "secret.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for folder in (root, root / "evals"):
        (folder / ".gitignore").write_text("*")

    packed = jobs.pack("version: 1\n", root, [Path("data/train.jsonl"), root / "evals"])

    try:
        found = {
            str(path.relative_to(packed)): path.read_text()
            for path in packed.rglob("*")
            if path.is_file()
        }
        assert found == {
            jobs.RESOLVED_SPEC: "version: 1\n",
            "data/train.jsonl": "data/train.jsonl",
            "evals/suite.yaml": "evals/suite.yaml",
            "evals/tasks/facts.yaml": "evals/tasks/facts.yaml",
        }
    finally:
        shutil.rmtree(packed)


def test_pack_refuses_what_cannot_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "elsewhere.jsonl").write_text("{}")
    (root / "big.jsonl").write_text("0123456789")

    with pytest.raises(UsageError, match="lies outside"):
        jobs.pack("", root, [Path("../elsewhere.jsonl")])
    with pytest.raises(UsageError, match=r"missing\.jsonl does not exist"):
        jobs.pack("", root, [Path("missing.jsonl")])
    monkeypatch.setattr(jobs, "MAX_UPLOAD_BYTES", 9)
    with pytest.raises(UsageError, match="shared file system"):
        jobs.pack("", root, [Path("big.jsonl")])


@pytest.mark.ray
def test_an_address_where_nobody_answers_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef"
    )  # a new machine has none
    nobody = f"http://127.0.0.1:{_free_port()}"
    with pytest.raises(PlaceError, match="no Ray cluster answers"):
        jobs.follow(nobody, "job", print)
    with pytest.raises(UsageError, match="dashboard's address"):
        jobs.stop("ray://127.0.0.1:10001", "job")


@pytest.mark.ray
def test_a_job_on_a_cluster_with_a_token(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = jobs.pack("name: parcel\n", tmp_path, [])
    script = (
        "import os, pathlib, sys, time; "
        f"print(pathlib.Path('{jobs.RESOLVED_SPEC}').read_text(), os.environ['GREETING']); "
        "time.sleep(3); print('last line'); sys.exit(7)"
    )
    # The address that is asked for counts, not the one in the environment.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    jobs.submit(
        cluster,
        entrypoint=[sys.executable, "-c", script],
        working_dir=packed,
        env={"GREETING": "it's here"},
        submission_id="parcel-1",
    )
    shutil.rmtree(packed)

    written: list[str] = []
    with _relay(cluster) as (relay, break_connections):

        def write(text: str) -> None:
            if "name: parcel" in text:
                break_connections()
            written.append(text)

        outcome = jobs.follow(relay, "parcel-1", write)

    assert (outcome.status, outcome.exit_code) == ("FAILED", 7)
    output = "".join(written)
    assert output.count("name: parcel\n it's here\n") == 1
    assert output.count("last line\n") == 1
    assert output.endswith("last line\n")

    with pytest.raises(PlaceError, match="does not know this job"):
        jobs.follow(cluster, "parcel-2", print)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-token")
    with pytest.raises(PlaceError, match="refuses the token"):
        jobs.follow(cluster, "parcel-1", print)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray head with token authentication; its token is in this process's
    environment."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    dashboard_port = _free_port()
    address = f"http://127.0.0.1:{dashboard_port}"
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray puts UNIX sockets into it
    options = {
        "port": _free_port(),
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": _free_port(),
        "ray-client-server-port": _free_port(),
        "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "object-store-memory": 100 * 10**6,
        "temp-dir": folder,
    }
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
    ]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(address, head, tmp_path / "head.log")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            head.send_signal(signal.SIGTERM)
        try:
            head.wait(15)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 150  # eight seconds on an idle machine
    while time.monotonic() < deadline and head.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/api/jobs/", timeout=5).status_code == 401:
                return
        time.sleep(0.3)
    pytest.fail(f"the Ray head did not come up: {log.read_text()}")


@contextlib.contextmanager
def _relay(address: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """An address that passes everything on, and a call that breaks every connection made so far."""
    target = ("127.0.0.1", int(address.rpartition(":")[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(target)
                connections.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def break_all() -> None:
        for connection in list(connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", break_all
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for connection in (listener, *connections):
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
