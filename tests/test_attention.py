"""Telling people elsewhere: what is sent, to whom it is not sent, and that it keeps nothing up."""

import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from assay.errors import StageFailed
from assay.flow.pipeline.run import RunRequest, run, tell_verdict
from assay.flow.place.attention import NUM_TRIES, News, message, tell
from assay.flow.release.operations import rollback_run
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from evaluations import decide, evaluation, items, settings_in
from office import Office, office, running  # noqa: F401
from servers import Server, serving

TASK = """
task: facts
dataset_path: json
dataset_kwargs: {data_files: facts.jsonl}
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""


class Listener(Server):
    """Keeps what is sent to it; answers with `status`."""

    status = 200

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.told: list[tuple[dict[str, str], bytes]] = []


class Hook(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Location", f"http://127.0.0.1:{self.server.port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815  http.server's own name

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with serving(Hook, Listener) as found:
        yield found


def told_to(listener: Listener, settings: Settings, **changes: str) -> Settings:
    said = {
        "webhook_url": f"http://127.0.0.1:{listener.port}/hook?channel=models",
        "webhook_allow": "127.0.0.1",
        "webhook_secret": "s3cret",
    }
    return replace(settings, **{**said, **changes})  # type: ignore[arg-type]


def done(news: News, settings: Settings) -> None:
    """Tells, and waits until it was told or given up."""
    thread = tell(news, settings)
    assert thread is not None
    thread.join()


def test_it_says_what_and_where_and_is_signed(listener: Listener, tmp_path: Path) -> None:
    settings = told_to(listener, settings_in(tmp_path))
    done(News("failed", "bot-1a2b3c", "train: out of memory"), settings)
    ((headers, body),) = listener.told
    page = f"{settings.console_url}/runs/bot-1a2b3c"
    said = json.loads(body)
    assert said["text"] == f"<{page}|bot-1a2b3c> has failed: train: out of memory"
    assert (said["assay"]["kind"], said["assay"]["page"]) == ("failed", page)
    at, _, digest = headers["X-Assay-Signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(b"s3cret", f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert digest == expected


def test_nobody_is_told_where_the_place_names_nobody(tmp_path: Path) -> None:
    assert tell(News("waiting", "bot"), settings_in(tmp_path)) is None


def test_what_others_wrote_calls_nobody(tmp_path: Path) -> None:
    why = "<!channel> <https://evil.example|click> & \x1b[31m" + "x" * 9000
    said = json.loads(message(News("rolled_back", "a|<b>", why), settings_in(tmp_path)))["text"]
    assert "<!channel>" not in said
    assert "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp;" in said
    assert "\x1b" not in said
    assert len(said) < 1000
    assert said.startswith("<http://127.0.0.1:8090/runs/a%7C%3Cb%3E|a|&lt;b&gt;>")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"webhook_allow": ""}, "is without TLS, and not in ASSAY_WEBHOOK_ALLOW"),
        ({"webhook_url": "https://127.0.0.1:{port}/"}, "is at 127.0.0.1, which is private"),
        ({"webhook_url": "https://localhost:{port}/"}, "which is private"),
        ({"webhook_url": "https://[::ffff:10.0.0.1]/"}, "which is private"),
        ({"webhook_url": "https://169.254.169.254/latest"}, "which is private"),
        ({"webhook_url": "https://me:secret@127.0.0.1/"}, "is no address of the form"),
        ({"webhook_url": "file:///etc/passwd"}, "is no address of the form"),
        ({"webhook_url": "https://host:99999/x"}, "Port out of range"),
    ],
)
def test_private_addresses_are_refused_unless_allowed(
    listener: Listener,
    tmp_path: Path,
    changes: dict[str, str],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {"webhook_allow": ""} | changes
    settings = told_to(listener, settings_in(tmp_path), **changes)
    settings = replace(settings, webhook_url=settings.webhook_url.format(port=listener.port))
    with caplog.at_level(logging.WARNING):
        done(News("waiting", "bot"), settings)
    assert said in caplog.text
    assert "secret@" not in caplog.text
    assert listener.told == []


@pytest.mark.parametrize("status", [302, 307, 500])
def test_redirects_are_not_followed_and_a_refusal_is_tried_again(
    listener: Listener, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener.status = status
    done(News("waiting", "bot"), told_to(listener, settings_in(tmp_path)))
    assert len(listener.told) == NUM_TRIES
    assert f"answered {status}" in caplog.text
    assert "channel=models" not in caplog.text, "the address is a secret"


def test_a_rollback_is_told_whoever_does_it(office: Office, listener: Listener) -> None:
    first = office.evaluated("first", "blue")
    office.approve(first)
    office.promote(first)
    champion = office.ledger.champion()
    assert champion is not None
    second = office.evaluated("second", "green", champion_digest=champion.artifact_digest)
    office.approve(second)
    office.promote(second)
    office.settings = told_to(listener, office.settings)
    rollback_run(settings=office.settings, reason="wrong tone")
    office.wait_for_news()
    ((_, body),) = listener.told
    assert json.loads(body)["assay"]["why"] == "wrong tone"
    assert (json.loads(body)["assay"]["run"], json.loads(body)["assay"]["kind"]) == (
        second,
        "rolled_back",
    )


def test_a_run_tells_its_verdict_and_its_failure(
    office: Office, listener: Listener, tmp_path: Path
) -> None:
    settings = told_to(listener, office.settings)
    suite = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}})
    for name, rights in (("good", [1.0] * 60), ("bad", [0.0] * 60)):
        ours = evaluation(name, {"facts": items(rights)})
        place = settings_in(office.settings.home / name)
        tell_verdict(name, decide(suite, ours, None, place), settings)
        office.wait_for_news()

    def no_cluster() -> None:
        raise StageFailed("nobody answers at 10.0.0.5")

    (tmp_path / "facts.yaml").write_text(TASK)
    (tmp_path / "facts.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    (tmp_path / "train.jsonl").write_text('{"prompt": "?", "completion": "!"}\n')
    request = RunRequest(office.spec("bot"), suite, tmp_path)
    with pytest.raises(StageFailed, match="nobody answers"):
        run(request, settings=settings, watcher=office, before_work=no_cluster)  # type: ignore[arg-type]
    office.wait_for_news()
    kinds = [json.loads(body)["assay"]["kind"] for _, body in listener.told]
    assert kinds == ["waiting", "failed", "failed"]
