"""`assay gate run --url`: somebody else's server, evaluated without a run and without a cluster."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from project import Project
from served import Counting, OpenAI
from servers import serving
from tiny import YES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("gate-url"), PARTNER_KEY="secret")
    yield project
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(project.env["ASSAY_DASHBOARD_PORT"])))
    assert not list(project.home.glob("ray*")), "nothing of a cluster was started"


SUITE = ("--suite", "evals/tiny.yaml")


class Partner(BaseHTTPRequestHandler):
    """A server that says yes, to those who have its key."""

    asked = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        self._say({"data": [{"id": "partner-1", "owned_by": "partner"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with Partner.lock:
            Partner.asked += 1
        message = {"role": "assistant", "content": YES}
        self._say({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def _say(self, said: dict[str, Any]) -> None:
        allowed = self.headers["Authorization"] == "Bearer secret"
        body = json.dumps(said).encode() if allowed else b"{}"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def test_a_server_is_weighed_by_what_can_be_known_of_it(project: Project) -> None:
    with serving(Partner) as server:
        there = ("gate", "run", *SUITE, "--url", f"http://127.0.0.1:{server.port}/v1", "--json")
        project.assay(*there, exit_code=2)  # no key
        keyed = (*there, "--api-key-env", "PARTNER_KEY")
        card = json.loads(project.assay(*keyed, "--revision", "7", exit_code=10))
        assert card["bytes_known"] is False
        assert card["scorecard"]["artifact_digest"].startswith("url:")
        assert "secret" not in json.dumps(card)
        outcomes = {
            (limit["task"], limit["metric"]): limit["outcome"]
            for limit in card["scorecard"]["limits"]
        }
        assert outcomes["tiny_known", "exact_match"] == "PASS"
        assert outcomes["tiny_known", "over_abstention"] == "PASS"
        assert outcomes["tiny_unknown", "hallucination_rate"] == "FAIL"
        assert outcomes["service", "ttft_p50"] == "INCONCLUSIVE", (
            "nobody loads a server that is not ours"
        )
        assert Partner.asked == 80
        project.assay(*keyed, "--revision", "7", exit_code=10)
        assert Partner.asked == 80, "a revision is not asked twice"
        project.assay(*keyed, exit_code=10)
        assert Partner.asked == 160, "what has no revision may have changed"


def test_several_suites_are_asked_together_and_decided_each(project: Project) -> None:
    evals = project.folder / "evals"
    shutil.copytree(evals / "tiny", evals / "second")
    limits = "limits: {tiny_known: {metric: exact_match, at_least: 60%}}\n"
    (evals / "second.yaml").write_text(limits + "tasks: {tiny_known: {max_items: 20}}\n")
    with serving(Partner) as server:
        there = (
            "gate",
            "run",
            *SUITE,
            "--suite",
            "evals/second.yaml",
            "--url",
            f"http://127.0.0.1:{server.port}/v1",
        )
        call = (*there, "--api-key-env", "PARTNER_KEY", "--revision", "8", "--json")
        before = Partner.asked
        cards = json.loads(
            project.assay(*call, "--html", str(project.folder / "both.html"), exit_code=10)
        )
        assert Partner.asked == before + 80, "what both suites ask is asked once"
        assert [card["scorecard"]["outcome"] for card in cards] == ["FAIL", "PASS"]
        assert [card["scorecard"]["suite"] for card in cards] == [
            "evals/tiny.yaml",
            "evals/second.yaml",
        ]
        assert [card["candidate"]["num_items"] for card in cards] == [80, 20]
        assert "tiny_unknown" in (project.folder / "both-tiny.html").read_text()
        assert "tiny_unknown" not in (project.folder / "both-second.html").read_text()
        assert (
            json.loads(project.assay("report", cards[1]["name"], "--json"))["scorecard"]["outcome"]
            == "PASS"
        )
        project.assay(*call, exit_code=10)
        assert Partner.asked == before + 80


def test_a_suite_that_stops_early_asks_no_more_than_decides(project: Project) -> None:
    evals = project.folder / "evals"
    shutil.copytree(evals / "tiny", evals / "early")
    limits = (
        "tiny_known: {metric: exact_match, at_least: 60%}, tiny_unknown: {metric: "
        "hallucination_rate, at_most: 30%}"
    )
    (evals / "early.yaml").write_text(f"limits: {{{limits}}}\nstop_early: true\n")
    with serving(Partner) as server:
        there = (
            "gate",
            "run",
            "--suite",
            "evals/early.yaml",
            "--url",
            f"http://127.0.0.1:{server.port}/v1",
        )
        before = Partner.asked
        call = (*there, "--api-key-env", "PARTNER_KEY", "--revision", "9", "--json")
        card = json.loads(project.assay(*call, exit_code=10))
        found = {
            limit["task"]: limit for limit in card["scorecard"]["limits"] if limit["kind"] == "task"
        }
        assert [found[task]["outcome"] for task in ("tiny_known", "tiny_unknown")] == [
            "PASS",
            "FAIL",
        ]
        assert found["tiny_known"]["num_items"] == 32, "two blocks of as many as are in flight"
        assert all(limit["num_items"] + limit["num_unasked"] == 40 for limit in found.values())
        assert Partner.asked - before == card["candidate"]["num_items"] < 80
        project.assay(*call, exit_code=10)
        assert Partner.asked - before == card["candidate"]["num_items"]


def test_free_text_is_scored_and_a_judge_counts_once_it_was_measured(project: Project) -> None:
    evals = project.folder / "evals"
    shutil.copytree(evals / "tiny", evals / "text")
    labels = [
        {"question": f"q{n}", "answer": "yes" if n % 2 else "no", "label": 5 if n % 2 else 1}
        for n in range(40)
    ]
    (evals / "text" / "labels.jsonl").write_text(
        "".join(json.dumps(label) + "\n" for label in labels)
    )
    limits = [
        {"metric": metric, "at_least": 0.9}
        for metric in ("judge", "rougeL", "chrf", "token_f1", "contains", "regex", "json_schema")
    ]
    with serving(Partner) as server, serving(OpenAI, Counting) as judge:
        judge.answer = lambda prompt: "SCORE: 5" if "\nyes\n" in prompt else "It is not.\nSCORE: 1"
        asked = {
            "url": judge.url,
            "model": "judge",
            "rubric": "5: says yes.",
            "labels": "labels.jsonl",
        }
        suite = {
            "limits": {"tiny_known": limits[:-1], "tiny_unknown": [limits[-1]]},
            "tasks": {
                "tiny_known": {"regex": "^yes$"},
                "tiny_unknown": {"json_schema": {"type": "string"}},
            },
            "judge": {**asked, "min_agreement": 0.9, "min_kappa": 0.6},
        }
        (evals / "text.yaml").write_text(json.dumps(suite))
        there = (
            "gate",
            "run",
            "--suite",
            "evals/text.yaml",
            "--url",
            f"http://127.0.0.1:{server.port}/v1",
        )
        call = (*there, "--api-key-env", "PARTNER_KEY", "--revision", "7", "--json")
        found = [_limits(project.assay(*call, exit_code=10))]
        project.assay("gate", "selftest", "evals/text.yaml", "--draws", "100")
        found.append(_limits(project.assay(*call, exit_code=10)))
        assert len(judge.bodies) == 40 + 40, (
            "forty answers of the model, forty labels, and none of them twice"
        )
    unmeasured, measured = found
    assert unmeasured["judge"] == ("INCONCLUSIVE", 1.0)
    assert measured["judge"] == ("PASS", 1.0)
    for metric in ("rougeL", "chrf", "token_f1", "contains", "regex"):
        assert unmeasured[metric] == measured[metric] == ("PASS", 1.0)
    assert measured["json_schema"] == ("FAIL", 0.0)


def _limits(card: str) -> dict[str, tuple[str, float]]:
    """Metric to its outcome and what was observed."""
    return {
        limit["metric"]: (limit["outcome"], limit["observed"])
        for limit in json.loads(card)["scorecard"]["limits"]
        if limit["kind"] == "task"
    }
