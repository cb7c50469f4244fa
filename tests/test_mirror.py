"""A hub's mirror: models come from it, workers are told of it, and what it does not have is told
with its name."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from assay.engines.cluster.passed_on import endpoint_fault, hub_named, passed_on
from tiny import make_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny"


class Mirror(ThreadingHTTPServer):
    """The calls of the hub's API that fetching a model takes, for one repository in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(self.path)
        about, _, file = self.path.partition(f"/{NAME}/resolve/")
        data = b""
        if self.path.startswith(f"/api/models/{NAME}/tree/"):
            found = sorted(self.server.folder.iterdir())
            tree = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"}
                for path in found
            ]
            data = json.dumps(tree).encode()
        elif self.path.startswith(f"/api/models/{NAME}/"):
            files = [{"rfilename": path.name} for path in sorted(self.server.folder.iterdir())]
            data = json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode()
        elif not about and (path := self.server.folder / file.partition("/")[2]).is_file():
            data = path.read_bytes()
        self.send_response(200 if data else 404)
        if data:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("mirror")
    make_model(folder)
    server = Mirror(folder)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(name: str, target: Path, endpoint: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, as a worker has it: the hub's client reads its environment when it
    is imported."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from assay.engines.models.folders import fetch\nfrom assay.spec.model import ModelSpec\n"
        "print(fetch(ModelSpec(source=sys.argv[1]), Path(sys.argv[2]), Path()).architecture)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(target.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-c", code, f"hf:{name}", str(target)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_model_comes_from_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    done = fetch(NAME, tmp_path / "model", mirror.url)
    assert (done.returncode, done.stdout.split()) == (0, ["LlamaForCausalLM"]), done.stderr
    weights = "model.safetensors"
    assert (tmp_path / "model" / weights).read_bytes() == (mirror.folder / weights).read_bytes()
    assert any(weights in path for path in mirror.asked)


def test_what_a_mirror_does_not_have_is_told_with_its_name(mirror: Mirror, tmp_path: Path) -> None:
    done = fetch("someone/else", tmp_path / "model", mirror.url)
    assert done.returncode != 0
    assert f"could not be fetched from the mirror {mirror.url}" in done.stderr


def test_workers_are_told_of_the_mirror_and_of_no_password() -> None:
    said = {
        "HF_ENDPOINT": "https://hf-mirror.com",
        "HF_TOKEN": "secret",
        "HF_HUB_ETAG_TIMEOUT": "30",
        "WANDB_API_KEY": "secret",
        "WANDB_BASE_URL": "https://me:secret@wandb.example",
        "WANDB_PROJECT": "",
    }
    assert passed_on(said) == {"HF_ENDPOINT": "https://hf-mirror.com", "HF_HUB_ETAG_TIMEOUT": "30"}


@pytest.mark.parametrize(
    "said", ["hf-mirror.com", "https//hf-mirror.com", "ftp://hf-mirror.com", "https:// x"]
)
def test_an_address_that_is_none_is_told(said: str) -> None:
    assert "write its whole address" in endpoint_fault({"HF_ENDPOINT": said})


@pytest.mark.parametrize(
    "said",
    [{}, {"HF_ENDPOINT": "https://hf-mirror.com"}, {"HF_ENDPOINT": "http://10.0.0.2:80/hub"}],
)
def test_an_address_that_is_one_is_not(said: dict[str, str]) -> None:
    assert endpoint_fault(said) == ""
    assert said.get("HF_ENDPOINT", "HF_ENDPOINT names a mirror") in hub_named(said)
