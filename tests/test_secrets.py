"""The place's secrets: who may read their file, who gets which of them for how long, and that Ray,
logs, ledger and folders have none of them."""

import os
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray

from assay import secrets_file
from assay.engines.cluster import tasks
from assay.engines.data import remote
from assay.errors import PlaceError
from assay.flow.release.doctor import examine
from assay.settings import Settings

TOKEN = "hf_Zq8-only-in-the-file"
OTHER = "rotated-Kw3-only-in-the-file"
KEY = "aws-Pf5-only-in-the-file"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the secrets of a place of its own would be."""
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    monkeypatch.delenv("ASSAY_SECRETS", raising=False)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "secrets"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_secrets_are_lent_by_name_and_taken_back(place: Path) -> None:
    lines = f"# keys\n\nexport HF_TOKEN='{TOKEN}'\nAWS_SECRET_ACCESS_KEY={KEY}=\nJUDGE_KEY=j\n"
    write(place, lines)
    with secrets_file.lent(secrets_file.HUB):
        assert os.environ["HF_TOKEN"] == TOKEN
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert "HF_TOKEN" not in os.environ
    with secrets_file.lent(secrets_file.DATA):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == f"{KEY}="
    assert secrets_file.value("JUDGE_KEY") == "j"
    assert secrets_file.value("HF_TOKEN") == ""  # a suite says itself where a judge's key goes


def test_what_was_there_before_is_there_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, f"HF_TOKEN={TOKEN}\n")
    monkeypatch.setenv("HF_TOKEN", "the shell's")

    @secrets_file.lent(secrets_file.HUB)
    def fail() -> None:
        raise ValueError(os.environ["HF_TOKEN"])

    with pytest.raises(ValueError, match=TOKEN):
        fail()
    assert os.environ["HF_TOKEN"] == "the shell's"


def test_a_mounted_folder_is_read_through_its_links_and_anew_each_time(place: Path) -> None:
    """As Kubernetes mounts a Secret, and renews it."""
    for version, said in (("..1", TOKEN), ("..2", OTHER)):
        folder = place / version
        folder.mkdir(parents=True)
        write(folder / "HF_TOKEN", f"{said}\n", 0o440)
    (place / "..data").symlink_to("..1")
    (place / "HF_TOKEN").symlink_to("..data/HF_TOKEN")
    if os.getuid():  # a group may read what belongs to root alone
        for file in place.glob("..?/*"):
            file.chmod(0o400)
    assert secrets_file.read(place) == {"HF_TOKEN": TOKEN}
    (place / "..new").symlink_to("..2")
    (place / "..new").replace(place / "..data")
    assert secrets_file.read(place) == {"HF_TOKEN": OTHER}


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o660])
def test_a_file_that_others_may_read_is_refused_and_doctor_says_so(place: Path, mode: int) -> None:
    write(place, f"HF_TOKEN={TOKEN}\n", mode)
    with pytest.raises(PlaceError, match=r"others may read .* chmod 600"):
        secrets_file.read(place)
    (check,) = [one for one in examine(Settings()) if one.name == "secrets"]
    assert [fault.what for fault in check.faults] == [f"others may read {place} (mode {mode:04o})"]


def test_a_line_that_is_none_is_told_by_its_number_alone(place: Path) -> None:
    write(place, f"HF_TOKEN={TOKEN}\n{KEY}\n")
    with pytest.raises(PlaceError, match=r"line 2 of .* is not NAME=VALUE") as caught:
        secrets_file.read(place)
    assert KEY not in str(caught.value)
    (check,) = [one for one in examine(Settings()) if one.name == "secrets"]
    assert len(check.faults) == 1


def test_without_secrets_nothing_is_lent_and_doctor_is_content(place: Path) -> None:
    with secrets_file.lent(secrets_file.DATA):
        assert "HF_TOKEN" not in os.environ
    (check,) = [one for one in examine(Settings()) if one.name == "secrets"]
    assert check.faults == ()


def test_addresses_are_taken_at_the_start_but_no_key_and_no_password(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"ASSAY_HOME": str(place.parent)})
    write(
        place,
        f"HF_ENDPOINT=http://hub:80\nAWS_ENDPOINT_URL=http://me:{KEY}@s3\nHF_TOKEN={TOKEN}\n",
    )
    secrets_file.take_addresses()
    assert {name for name in os.environ if name[:3] != "ASS"} == {"HF_ENDPOINT"}


class _Store(BaseHTTPRequestHandler):
    """A file over HTTP for those who have the password."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b'{"text": "a"}\n')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "14")
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def seen_while_fetching(url: str, folder: Path) -> dict[str, str]:
    """What a worker that fetches data has in its environment then, and what it has left after."""
    import fsspec
    from fsspec.implementations.http import HTTPFileSystem

    seen: dict[str, str] = {}

    class Seeing(HTTPFileSystem):  # type: ignore[misc]
        def isfile(self, path: str) -> bool:
            seen["during"] = ",".join(
                os.environ.get(name, "") for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
            )
            return True

    fsspec.register_implementation("http", Seeing, clobber=True)
    remote.fetch(url, folder)
    seen["after"] = ",".join(one for one in (TOKEN, OTHER, KEY) if one in os.environ.values())
    return seen


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_worker_sees_them_while_it_needs_them_and_ray_never(
    on_ray: Settings, store_url: str, tmp_path: Path
) -> None:
    # The worker cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    secrets = on_ray.home / "secrets"
    write(secrets, f"HF_TOKEN={TOKEN}\nAWS_SECRET_ACCESS_KEY={KEY}\n")
    first = tasks.call(seen_while_fetching, f"{store_url}/a.jsonl", tmp_path / "1")
    assert first == {"during": f"{TOKEN},{KEY}", "after": ""}
    write(secrets, f"HF_TOKEN={OTHER}\n")  # rotated: the next use has it, and nothing was restarted
    second = tasks.call(seen_while_fetching, f"{store_url}/a.jsonl", tmp_path / "2")
    assert second == {"during": f"{OTHER},", "after": ""}
    said = dashboard(on_ray)
    assert str(secrets) in said  # the runtime environment is among what the dashboard says
    for secret in (TOKEN, OTHER, KEY):
        assert secret not in said
        assert secret not in written(on_ray, secrets)


def dashboard(settings: Settings) -> str:
    """Everything that Ray's dashboard says of jobs, tasks, actors, workers and nodes."""
    paths = ["/api/jobs/", "/nodes?view=details", "/logical/actors", "/api/serve/applications/"]
    paths += [f"/api/v0/{one}?detail=1&limit=1000" for one in ("tasks", "workers", "jobs")]
    said = ""
    for path in (*paths, "/api/v0/runtime_envs?detail=1"):
        request = urllib.request.Request(
            settings.dashboard_url + path,
            headers={"Authorization": f"Bearer {settings.ray_token()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said += answer.read().decode()
        except urllib.error.HTTPError as error:  # an agent that is not up yet
            said += error.read().decode()
    return said


def written(settings: Settings, but: Path) -> str:
    """Every file of the place and of Ray's session, its logs among them, but the secrets'."""
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    said = ""
    for folder in (settings.home, session):
        for file in folder.rglob("*"):
            if file != but and stat.S_ISREG(file.lstat().st_mode):
                said += file.read_text(errors="replace")
    return said
