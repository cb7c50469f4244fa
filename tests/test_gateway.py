"""The gateway: a real HAProxy, kept by the real supervisor, before a small real server in Ray
Serve's place."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import psutil
import pytest

from assay.errors import PlaceError, UsageError
from assay.serving import admin, gateway, supervisor
from assay.serving.haproxy import ARTIFACT_HEADER
from assay.settings import Settings
from servers import Server, free_port, serving
from traffic import APPROVED, set_weights

CHUNK_PAUSE_S = 0.15


class ServeServer(Server):
    """What it says that it has loaded, a header each."""

    said: tuple[str, ...] = (APPROVED,)


class FakeServe(BaseHTTPRequestHandler):
    """Answers with what it was asked; `/stream` sends three chunks with pauses, `/broken` a 500."""

    protocol_version = "HTTP/1.1"
    server: ServeServer
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.endswith("/stream"):
            self._stream()
        else:
            self._echo()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._echo()

    def _echo(self) -> None:
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(500 if self.path.endswith("/broken") else 200)
        self.send_header("Content-Length", str(len(body)))
        for said in self.server.said:
            self.send_header(ARTIFACT_HEADER, said)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header(ARTIFACT_HEADER, APPROVED)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in (b"one", b"two", b"six"):
            self.wfile.write(b"3\r\n" + text + b"\r\n")
            self.wfile.flush()
            time.sleep(CHUNK_PAUSE_S)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@dataclass(frozen=True)
class Running:
    settings: Settings
    key: str
    client: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path, headers={"Authorization": f"Bearer {self.key}"})

    def slots_of(self, num_requests: int) -> Counter[str]:
        """Which slots answered so many requests."""
        paths = [self.get("/v1/models").json()["path"] for _ in range(num_requests)]
        return Counter(path.split("/")[1] for path in paths)


@pytest.fixture(scope="module")
def serve() -> Iterator[ServeServer]:
    with serving(FakeServe, ServeServer) as server:
        yield server


@pytest.fixture(scope="module")
def serve_port(serve: ServeServer) -> int:
    return serve.port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, serve_port: int) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("gateway home")  # a space in the path must not matter
    settings = Settings(home=home, gateway_port=free_port(), serve_port=serve_port)
    gateway.start(settings)
    try:
        key = gateway.create_key(settings, "tests")
        with httpx.Client(base_url=f"http://127.0.0.1:{settings.gateway_port}") as client:
            yield Running(settings, key, client)
    finally:
        gateway.stop(settings)


def haproxy_of(settings: Settings) -> psutil.Process:
    pid = supervisor.running_pid(settings)
    assert pid is not None
    (haproxy,) = psutil.Process(pid).children()
    return haproxy


def code_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def test_sends_nothing_while_no_slot_has_traffic(running: Running) -> None:
    set_weights(running.settings, {"blue": 0, "green": 0})
    response = running.get("/v1/models")
    assert (response.status_code, code_of(response)) == (503, "no_traffic")
    health = running.client.get("/healthz")
    assert (health.status_code, health.json()) == (503, {"traffic": {"blue": 0, "green": 0}})


def test_a_request_reaches_the_slot_that_has_the_traffic(running: Running) -> None:
    for slot, other in (("blue", "green"), ("green", "blue")):
        set_weights(running.settings, {slot: 256, other: 0})
        response = running.get("/v1/models?limit=1")
        assert response.json()["path"] == f"/{slot}/v1/models?limit=1"
        assert response.headers["X-Assay-Slot"] == slot
        assert "Authorization" not in response.json()["headers"]
        assert running.client.get("/healthz").json() == {"traffic": {slot: 256, other: 0}}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic KEY", "KEY"])
def test_a_request_without_a_known_key_is_refused(running: Running, header: str | None) -> None:
    set_weights(running.settings, {"blue": 256, "green": 0})
    headers = {} if header is None else {"Authorization": header.replace("KEY", running.key)}
    response = running.client.get("/v1/models", headers=headers)
    assert (response.status_code, code_of(response)) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "target", ["/", "/blue/v1/models", "/v1", "/v1/../green/v1/models", "/v1/%2e%2E/green/v1/x"]
)
def test_only_paths_under_v1_are_served(running: Running, target: str) -> None:
    set_weights(running.settings, {"blue": 256, "green": 0})
    with socket.create_connection(
        ("127.0.0.1", running.settings.gateway_port)
    ) as raw:  # clients tidy such paths up
        head = (
            f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            f"{running.key}\r\nConnection: close\r\n\r\n"
        )
        raw.sendall(head.encode())
        with raw.makefile() as answer:
            assert answer.readline().split()[1] == "404"


def test_a_body_over_the_limit_is_refused(running: Running) -> None:
    set_weights(running.settings, {"blue": 256, "green": 0})
    headers = {"Authorization": f"Bearer {running.key}"}
    url = "/v1/chat/completions"
    assert running.client.post(url, headers=headers, content=b"x" * 1024 * 1024).status_code == 200
    response = running.client.post(url, headers=headers, content=b"x" * (1024 * 1024 + 1))
    assert (response.status_code, code_of(response)) == (413, "too_large")
    response = running.client.post(url, headers=headers, content=iter([b"x"]))
    assert (response.status_code, code_of(response)) == (411, "length_required")


def test_weights_split_the_requests_and_are_counted(running: Running) -> None:
    set_weights(running.settings, {"blue": 192, "green": 64})
    assert gateway.get_weights(running.settings) == {"blue": 192, "green": 64}
    before = gateway.counters(running.settings)
    assert running.slots_of(40) == {"blue": 30, "green": 10}
    set_weights(running.settings, {"blue": 0, "green": 256})
    assert running.slots_of(10) == {"green": 10}
    assert running.get("/v1/broken").status_code == 500
    after = gateway.counters(running.settings)
    assert after["blue"].requests - before["blue"].requests == 30
    assert after["green"].requests - before["green"].requests == 21
    assert after["green"].responses_5xx - before["green"].responses_5xx == 1
    assert after["blue"].responses_5xx == before["blue"].responses_5xx


@pytest.mark.parametrize(
    "weights", [{"blue": 256}, {"blue": 257, "green": 0}, {"blue": -1, "green": 0}]
)
def test_wrong_weights_change_nothing(running: Running, weights: dict[str, int]) -> None:
    set_weights(running.settings, {"blue": 5, "green": 0})
    with pytest.raises(ValueError, match="weight"):
        set_weights(running.settings, weights)
    assert gateway.get_weights(running.settings) == {"blue": 5, "green": 0}


def test_streamed_chunks_pass_at_once(running: Running) -> None:
    set_weights(running.settings, {"blue": 256, "green": 0})
    headers = {"Authorization": f"Bearer {running.key}"}
    with running.client.stream("GET", "/v1/stream", headers=headers) as response:
        arrivals = [(chunk, time.monotonic()) for chunk in response.iter_raw()]
    assert [chunk for chunk, _ in arrivals] == [b"one", b"two", b"six"]
    assert arrivals[1][1] - arrivals[0][1] > CHUNK_PAUSE_S / 2
    assert arrivals[2][1] - arrivals[1][1] > CHUNK_PAUSE_S / 2


def test_a_killed_haproxy_comes_back_with_weights_and_keys(running: Running) -> None:
    set_weights(running.settings, {"blue": 64, "green": 192})
    killed = haproxy_of(running.settings)
    killed.kill()
    set_weights(running.settings, {"blue": 192, "green": 64})  # waits for the new one
    killed = haproxy_of(running.settings)
    killed.kill()
    gateway.start(running.settings)  # waits for the new one
    assert haproxy_of(running.settings).pid != killed.pid
    assert gateway.get_weights(running.settings) == {"blue": 192, "green": 64}
    assert running.slots_of(20) == {"blue": 15, "green": 5}


def test_a_key_is_not_kept_in_clear(running: Running) -> None:
    key = gateway.create_key(running.settings, "another")
    assert key.startswith("assay-")
    assert len(key) == len("assay-") + 43
    files = [path for path in running.settings.home.rglob("*") if path.is_file()]
    assert supervisor.keys_map(running.settings) in files
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert stat.S_IMODE(supervisor.keys_map(running.settings).stat().st_mode) == 0o600
    assert gateway.has_keys(running.settings)
    with pytest.raises(UsageError, match="label"):
        gateway.create_key(running.settings, "two\nlines")


def test_a_second_supervisor_leaves_the_place_alone(running: Running) -> None:
    first = supervisor.running_pid(running.settings)
    settings = {
        "ASSAY_HOME": str(running.settings.home),
        "ASSAY_GATEWAY_PORT": str(running.settings.gateway_port),
    }
    second = subprocess.run(
        [sys.executable, "-m", supervisor.MODULE],
        env={**os.environ, **settings},
        timeout=10,
        capture_output=True,
    )
    assert second.returncode == 0
    assert b"another supervisor" in second.stdout
    assert supervisor.running_pid(running.settings) == first


def test_a_supervisor_seen_in_its_last_moment_is_gone_and_no_error(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    supervisor.prepare(settings)
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print(flush=True); time.sleep(0.5)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(supervisor.pid_file(settings))], stdout=subprocess.PIPE
    ) as dying:
        assert dying.stdout is not None
        dying.stdout.readline()
        assert supervisor.running_pid(settings) is None


def test_a_port_in_use_is_said_before_anything_starts(running: Running, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = Settings(home=tmp_path, gateway_port=taken.getsockname()[1])
        with pytest.raises(
            PlaceError,
            match=rf"port {other.gateway_port} .*process {os.getpid()}.*ASSAY_GATEWAY_PORT",
        ):
            gateway.start(other)
    assert not gateway.is_running(other)
    with pytest.raises(PlaceError, match="haproxy"):
        gateway.start(replace(other, gateway_port=running.settings.gateway_port))


def test_a_slot_that_cannot_be_reached_is_an_error_of_that_slot(tmp_path: Path) -> None:
    """And: stopped, killed and started again, the gateway is whole each time."""
    settings = Settings(home=tmp_path, gateway_port=free_port(), serve_port=free_port())
    key = gateway.create_key(settings, "made-before-the-start")
    headers = {"Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{settings.gateway_port}/v1/models"
    with pytest.raises(PlaceError, match="does not run"):
        set_weights(settings, {"blue": 256, "green": 0})
    gateway.start(settings)
    try:
        set_weights(settings, {"blue": 0, "green": 256})
        response = httpx.get(url, headers=headers)
        assert (response.status_code, code_of(response)) == (503, "unreachable")
        assert response.headers["X-Assay-Slot"] == "green"
        green = gateway.counters(settings)["green"]
        assert (green.requests, green.responses_5xx) == (1, 1)
        assert green.connection_errors >= 1

        haproxy, pid = haproxy_of(settings), supervisor.running_pid(settings)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # leaves its pid file behind
        psutil.wait_procs([haproxy], timeout=5)
        assert not haproxy.is_running()
        assert not gateway.is_running(settings)
        gateway.start(settings)
        assert gateway.get_weights(settings) == {"blue": 0, "green": 256}
    finally:
        gateway.stop(settings)
    assert not gateway.is_running(settings)
    assert not settings.socket_dir.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    gateway.stop(settings)


OTHER = "b" * 64


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("",),
        (OTHER,),
        (APPROVED[:-1],),
        (APPROVED.upper(),),
        (f"{OTHER}, {APPROVED}",),
        (f"{APPROVED},{OTHER}",),
        (APPROVED, OTHER),
        (OTHER, APPROVED),
        (APPROVED, APPROVED),
    ],
)
def test_no_answer_gets_through_but_of_an_approved_artifact(
    running: Running, serve: ServeServer, said: tuple[str, ...]
) -> None:
    """Whatever Serve was told to put into the slot, and by whom."""
    set_weights(running.settings, {"blue": 256, "green": 0})
    assert running.get("/v1/models").is_success
    serve.said = said
    try:
        for path in ("/v1/models", "/v1/broken"):
            response = running.get(path)
            assert (response.status_code, code_of(response)) == (503, "not_approved")
            assert "path" not in response.text
    finally:
        serve.said = (APPROVED,)
    assert running.get("/v1/models").headers[ARTIFACT_HEADER] == APPROVED


def test_what_is_approved_is_changed_without_a_restart_and_survives_one(running: Running) -> None:
    settings = running.settings
    set_weights(settings, {"blue": 256, "green": 0}, (OTHER,))
    assert gateway.get_approved(settings) == supervisor.read_approved(settings) == {OTHER}
    assert code_of(running.get("/v1/models")) == "not_approved"
    before = haproxy_of(settings)
    before.kill()
    before.wait(10)
    set_weights(settings, {"blue": 256, "green": 0}, (OTHER,))  # waits for the new one
    assert code_of(running.get("/v1/models")) == "not_approved"
    set_weights(settings, {"blue": 256, "green": 0}, (OTHER, APPROVED))
    assert running.get("/v1/models").is_success
    assert haproxy_of(settings).pid != before.pid
    assert supervisor.approved_map(settings).stat().st_mode & 0o077 == 0


def test_what_somebody_has_approved_by_hand_is_taken_back(running: Running) -> None:
    settings = running.settings
    set_weights(settings, {"blue": 256, "green": 0})
    admin.ask(settings, f"add map approved.map {OTHER} 1")
    assert gateway.get_approved(settings) == {APPROVED, OTHER}
    writer = gateway.newest_writer(settings)
    weights = {"blue": 256, "green": 0}
    assert not gateway.settle(settings, weights, {APPROVED}, writer=writer)
    assert gateway.get_approved(settings) == {APPROVED}


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "a" * 64 + "\n", "a b"])
def test_only_digests_are_approved(running: Running, digest: str) -> None:
    with pytest.raises(ValueError, match="is no digest"):
        set_weights(running.settings, {"blue": 256, "green": 0}, (digest,))
