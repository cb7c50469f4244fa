"""From a verdict to traffic and back: a real ledger, artifact store and gateway, before a small server that
answers like Ray Serve's REST API and like the slots."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from assay.engines.evaluation.harness import TaskFile
from assay.errors import AssayError, ExitCode, IntegrityError, NotApproved
from assay.flow.release.operations import promote_run, record_decision, rollback_run
from assay.flow.release.promote import model_slot
from assay.records.gate import Evaluation, EvaluationRecord, GateRecord, Sample, TaskResult
from assay.records.stages import DeploymentRecord, ModelRecord
from assay.serving import gateway
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.stages import gate
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from servers import Server, free_port, serving

APPLICATIONS = "/api/serve/applications/"
TO_BLUE, TO_GREEN, TO_NOBODY = ({"blue": b, "green": g} for b, g in ((256, 0), (0, 256), (0, 0)))
CANARY = {"steps": ["50%", "100%"], "hold": "400ms"}


class ServeServer(Server):
    """What Serve would know: its applications, and which of them answer with errors."""

    applications: dict[str, Any]
    broken: set[str]


class FakeServe(BaseHTTPRequestHandler):
    """Serve's REST API, and the slots' own routes."""

    protocol_version = "HTTP/1.1"
    server: ServeServer

    def do_GET(self) -> None:
        slot = self.path.split("/")[1]
        said = {"applications": self.server.applications} if self.path == APPLICATIONS else {"slot": slot}
        body = json.dumps(said).encode()
        self.send_response(500 if slot in self.server.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@dataclass(frozen=True)
class Running:
    settings: Settings
    serve: ServeServer
    client: httpx.Client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(FakeServe, ServeServer) as serve:
        settings = Settings(
            home=tmp_path_factory.mktemp("home"),
            ledger_url="replaced in each test",
            gateway_port=free_port(),
            serve_port=serve.port,
            dashboard_port=serve.port,
            engine_python=sys.executable,
            user="ben",
        )
        gateway.start(settings)
        try:
            headers = {"Authorization": f"Bearer {gateway.create_key(settings, 'tests')}"}
            with httpx.Client(base_url=settings.gateway_url, headers=headers) as client:
                yield Running(settings, serve, client)
        finally:
            gateway.stop(settings)


class Office:
    """A place whose runs are evaluated as the test says."""

    def __init__(self, running: Running, ledger_url: str) -> None:
        self.settings = replace(running.settings, ledger_url=ledger_url)
        self.serve = running.serve
        self.client = running.client
        self.ledger = Ledger(ledger_url)
        self.serve.applications, self.serve.broken = {}, set()
        gateway.set_weights(self.settings, TO_NOBODY)

    def run(self, name: str) -> str:
        """A run that has not come to the gate."""
        spec = {
            "version": 1,
            "name": name,
            "model": "hf:some/model",
            "data": {"train": "train.jsonl"},
            "gate": {"suite": "evals/suite.yaml"},
            "approval": {"reviewers": ["anna", "ben"]},
            "serve": {"canary": CANARY if name == "careful" else {}},
        }
        said = Spec.model_validate(spec).model_dump_json()
        self.ledger.open_run(f"{name}-1a2b3c", name=name, spec=said, started_by="ben")
        return f"{name}-1a2b3c"

    def evaluated(self, name: str, slot: str, outcome: str = "PASS") -> str:
        """A run whose candidate answers in `slot` and was evaluated there."""
        run, store = self.run(name), ArtifactStore(self.settings.home / "artifacts")
        made = self.settings.home / "made"
        made.mkdir()
        (made / "model.safetensors").write_text(f"{self.settings.ledger_url}, {name}")
        model = store.put(made, "model")
        self.deploy(slot, model.path)
        compress = ModelRecord(
            artifact=model, architecture="LlamaForCausalLM", num_parameters=1, num_layers=1, context_length=8
        )
        self._finish(run, "compress", compress)
        self._finish(run, "gate", self._gate(run, slot, model.digest, {"PASS": 60, "FAIL": 0}.get(outcome, 30)))
        return run

    def _gate(self, run: str, slot: str, digest: str, num_right: int) -> GateRecord:
        """The gate's word on a model that answered so many of 60 questions right; half of them are asked for."""
        work = Work(
            self.settings, self.settings.home / "work" / run, self.settings.home / "progress.jsonl", self.settings.home
        )

        def evaluate(deployment: DeploymentRecord) -> EvaluationRecord:
            items = tuple(
                Sample(id=f"{i}", prompt="?", target="!", response="!", scores={"exact_match": float(i < num_right)})
                for i in range(60)
            )
            tasks = (TaskResult(task="facts", digest="facts", items=items),)
            said = Evaluation(artifact_digest=digest, model_name="bot", tasks=tasks, seconds=1.0)
            folder = work.fresh_folder("weighing")
            (folder / "evaluation.json").write_text(said.model_dump_json())
            evidence = work.store.put(folder, "evidence")
            return EvaluationRecord(evidence=evidence, artifact_digest=digest, num_items=60, seconds=1.0)

        inputs = gate.Inputs(
            suite=SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}}),
            suite_file="evals/suite.yaml",
            tasks=(TaskFile("facts", "facts.yaml", "facts"),),
            deployment=DeploymentRecord(
                slot=model_slot(slot),
                model_name="bot",
                artifact_digest=digest,
                url="",
                deployed_at=1000.0,
                replicas=(f"{slot}#1",),
            ),
        )
        return gate.run(inputs, work, evaluate=evaluate)

    def edit(self, run: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Somebody writes into the ledger what the gate has not said."""
        key = next(stage.key for stage in self.ledger.stages(run) if stage.stage == "gate")
        row = self.ledger.record(key)
        assert row is not None
        said = json.loads(row.record)
        change(said)
        self._finish(run, "gate", GateRecord.model_validate(said))

    def _finish(self, run: str, stage: str, record: Any) -> None:
        attempt = self.ledger.begin_stage(run, stage, f"{run} {stage} {len(self.ledger.stages(run))}")
        self.ledger.finish_stage(attempt, record)

    def deploy(self, slot: str, model_path: str, **changes: Any) -> None:
        """Serve says that `slot` holds the model in `model_path`."""
        loading = {"model_id": "bot", "model_source": model_path}
        self.serve.applications[slot] = {
            "status": "RUNNING",
            "message": "",
            "last_deployed_time_s": 1000.0,
            "deployed_app_config": {"args": {"llm_configs": [{"model_loading_config": loading}]}},
            "deployments": {"LLMServer": {"replicas": [{"replica_id": f"{slot}#1", "state": "RUNNING"}]}},
            **changes,
        }

    def approve(self, run: str, reviewer: str = "anna") -> None:
        record_decision(run, decision="approve", reviewer=reviewer, reason="", settings=self.settings)

    def promote(self, run: str) -> Any:
        return promote_run(run, settings=self.settings, say=lambda _: None)

    def model_file(self, run: str) -> Path:
        row = self.ledger.record(next(stage.key for stage in self.ledger.stages(run) if stage.stage == "compress"))
        assert row is not None
        return Path(ModelRecord.model_validate_json(row.record).artifact.path) / "model.safetensors"

    def weights(self) -> dict[str, int]:
        return gateway.get_weights(self.settings)

    def ask(self) -> httpx.Response:
        """A client's request, through the gateway."""
        return self.client.get("/models")

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The `assay` command at this place."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ASSAY_"))}
        for name in ("home", "ledger_url", "gateway_port", "serve_port", "dashboard_port", "engine_python", "user"):
            env[f"ASSAY_{name.upper()}"] = str(getattr(self.settings, name))
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        call = [sys.executable, "-m", "assay.cli.main", *arguments]
        return subprocess.run(call, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def office(running: Running, tmp_path: Path) -> Office:
    return Office(running, f"sqlite:///{tmp_path / 'ledger.db'}")


def refused(office: Office, run: str, kind: type[AssayError], said: str) -> None:
    """Promotion is refused, and nothing has changed."""
    before = office.weights(), office.ledger.traffic()
    with pytest.raises(kind, match=said):
        office.promote(run)
    assert (office.weights(), office.ledger.traffic()) == before


def test_an_approved_run_gets_the_traffic(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    assert office.ask().status_code == 503
    office.approve(run)
    assert office.ask().status_code == 503  # approval alone moves nothing
    office.promote(run)
    assert office.weights() == TO_BLUE
    assert office.ask().json() == {"slot": "blue"}
    (traffic,) = office.ledger.traffic()
    assert (traffic.action, traffic.by, traffic.former) == ("promote", "ben", None)
    assert traffic.champion == office.ledger.champion()
    assert traffic.champion is not None
    assert (traffic.champion.run, traffic.champion.slot) == (run, "blue")

    office.promote(run)  # once more changes nothing
    assert (office.weights(), len(office.ledger.traffic())) == (TO_BLUE, 1)


def test_nothing_is_promoted_without_a_passing_verdict(office: Office) -> None:
    refused(office, office.run("unweighed"), NotApproved, "has no verdict yet")
    for outcome in ("FAIL", "INCONCLUSIVE"):
        run = office.evaluated(outcome.lower(), "blue", outcome)
        with pytest.raises(NotApproved, match="nothing to approve"):
            office.approve(run)
        refused(office, run, NotApproved, f"the gate's verdict is {outcome}")


def test_nothing_is_promoted_without_a_valid_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    refused(office, run, NotApproved, "is not approved; .* is for anna, ben")
    for reviewer, fault in (("ben", "they started this run"), ("zoe", "the spec's reviewers are anna, ben")):
        with pytest.raises(NotApproved, match=fault):
            office.approve(run, reviewer)
    refused(office, run, NotApproved, "is not approved")
    office.approve(run)
    record_decision(run, decision="reject", reviewer="anna", reason="wrong tone", settings=office.settings)
    refused(office, run, NotApproved, "was rejected by anna: wrong tone")


def test_a_new_verdict_needs_a_new_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    assert office.evaluated("bot", "green") == run
    refused(office, run, NotApproved, "it is for scorecard .*, this is")
    office.approve(run)
    office.promote(run)
    assert office.weights() == TO_GREEN


def test_one_changed_byte_voids_the_approval(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    file = office.model_file(run)
    before, text = file.stat(), file.read_text()
    file.write_text(text.replace("bot", "bos"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as one who hides it would
    refused(office, run, IntegrityError, "model.safetensors is not what was evaluated")
    with pytest.raises(IntegrityError, match="is not what was evaluated"):
        office.approve(run)
    file.write_text(text)
    office.promote(run)
    assert office.weights() == TO_BLUE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"last_deployed_time_s": 1001.0}, "slot blue was deployed anew"),
        ({"deployments": {"LLMServer": {"replicas": []}}}, "replicas blue#1 were evaluated, now there are none"),
        (
            {"deployments": {"LLMServer": {"replicas": [{"replica_id": "blue#2", "state": "RUNNING"}]}}},
            "replicas blue#1 were evaluated, now there are blue#2",
        ),
        ({"status": "UNHEALTHY"}, "slot blue serves nothing"),
        ({"deployed_app_config": None}, "slot blue serves nothing"),
    ],
)
def test_a_slot_that_is_not_as_it_was_weighed_gets_no_traffic(office: Office, change: Any, said: str) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.deploy("blue", str(office.model_file(run).parent), **change)
    refused(office, run, IntegrityError, said)


def test_a_slot_that_serves_other_bytes_gets_no_traffic(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    other = office.evaluated("other", "green")
    office.deploy("blue", str(office.model_file(other).parent))
    refused(office, run, IntegrityError, "slot blue serves nothing")
    office.serve.applications = {}
    refused(office, run, IntegrityError, "slot blue serves nothing")


def test_rollback_gives_the_traffic_back(office: Office) -> None:
    first = office.evaluated("first", "blue")
    with pytest.raises(IntegrityError, match="no former champion"):
        rollback_run(settings=office.settings, reason="")
    office.approve(first)
    office.promote(first)
    with pytest.raises(IntegrityError, match="no former champion"):
        rollback_run(settings=office.settings, reason="")

    second = office.evaluated("second", "green")
    office.approve(second)
    office.promote(second)
    assert office.weights() == TO_GREEN
    assert office.ask().json() == {"slot": "green"}

    traffic = rollback_run(settings=office.settings, reason="it rhymes")
    assert office.weights() == TO_BLUE
    assert office.ask().json() == {"slot": "blue"}
    assert (traffic.action, traffic.reason, traffic.by) == ("rollback", "it rhymes", "ben")
    champion = office.ledger.champion()
    assert champion is not None
    assert champion.run == first
    assert traffic.former is not None
    assert traffic.former.run == second


def test_there_is_no_way_back_to_a_slot_that_holds_another_model(office: Office) -> None:
    for name, slot in (("first", "blue"), ("second", "green")):
        run = office.evaluated(name, slot)
        office.approve(run)
        office.promote(run)
    office.evaluated("third", "blue")
    with pytest.raises(IntegrityError, match="slot blue no longer holds first-1a2b3c"):
        rollback_run(settings=office.settings, reason="")
    assert office.weights() == TO_GREEN
    assert len(office.ledger.traffic()) == 2


def test_a_careful_promotion_goes_step_by_step(office: Office) -> None:
    champion = office.evaluated("first", "blue")
    office.approve(champion)
    office.promote(champion)
    run = office.evaluated("careful", "green")
    office.approve(run)
    seen: list[dict[str, int]] = []

    def look(stop: threading.Event) -> None:
        while not stop.wait(0.05):
            seen.append(office.weights())

    with beside(look):
        office.promote(run)
    assert {"blue": 128, "green": 128} in seen
    assert TO_NOBODY not in seen
    assert office.weights() == TO_GREEN


def test_the_command_says_by_its_exit_code_what_happened(office: Office) -> None:
    first = office.evaluated("first", "blue")
    done = office.command("promote", first)
    assert (done.returncode, office.weights()) == (ExitCode.NOT_APPROVED, TO_NOBODY)
    assert f"`assay approve {first}` is for anna, ben" in done.stderr
    assert office.command("approve", "first", "--as", "anna").returncode == ExitCode.DONE
    done = office.command("promote", "first")
    assert (done.returncode, office.weights()) == (ExitCode.DONE, TO_BLUE)
    assert "has the traffic (slot blue)" in done.stdout
    assert office.command("rollback").returncode == ExitCode.DRIFT

    # A candidate whose answers are errors gives the traffic back.
    run = office.evaluated("careful", "green")
    office.approve(run)
    office.serve.broken = {"green"}

    def ask(stop: threading.Event) -> None:
        while not stop.wait(0.01):
            office.ask()

    with beside(ask):
        done = office.command("promote", "careful")
    assert (done.returncode, office.weights()) == (ExitCode.ROLLED_BACK, TO_BLUE)
    assert "rolled back: server errors at 50%" in done.stderr
    assert office.ledger.traffic()[-1].action == "rollback"
    champion = office.ledger.champion()
    assert champion is not None
    assert champion.run == first


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Does `work` in a thread, until the event that it is given is set at the block's end."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card.update(outcome="PASS"), "another verdict"),
        (lambda card: card["limits"][0].update(outcome="PASS"), "facts exact_match is"),
        (lambda card: card["limits"][0].update(limit=0.1), "facts exact_match is"),
        (lambda card: card.update(limits=[], outcome="PASS"), "another number of limits"),
        (lambda card: card.update(confidence=0.5), "another confidence"),
        (lambda card: card.update(schema_version=1), "another version"),
        (lambda card: card["evidence"].update(candidate="0" * 64), "names other evidence"),
    ],
)
def test_a_scorecard_edited_after_the_fact_lets_nobody_through(
    office: Office, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    run = office.evaluated("bot", "blue", "INCONCLUSIVE")

    def edit(record: dict[str, Any]) -> None:
        change(record["scorecard"])
        record["scorecard"]["outcome"] = "PASS"

    office.edit(run, edit)
    with pytest.raises(IntegrityError, match=said):
        office.approve(run)
    refused(office, run, NotApproved, "is not approved")


def test_an_edit_after_the_approval_voids_it(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    office.edit(run, lambda record: record["scorecard"]["limits"][0].update(reason="all is well"))
    refused(office, run, NotApproved, "it is for scorecard")


def test_evidence_that_was_changed_lets_nobody_through(office: Office) -> None:
    run = office.evaluated("bot", "blue")
    office.approve(run)
    key = next(stage.key for stage in office.ledger.stages(run) if stage.stage == "gate")
    row = office.ledger.record(key)
    assert row is not None
    answers = Path(GateRecord.model_validate_json(row.record).candidate.evidence.path) / "evaluation.json"
    whole = answers.read_text()
    try:
        answers.write_text(whole.replace('"response":"!"', '"response":"?"', 1))
        refused(office, run, IntegrityError, "SHA-256 has changed")
    finally:
        answers.write_text(whole)
    office.promote(run)


def test_evidence_from_elsewhere_lets_nobody_through(office: Office, tmp_path: Path) -> None:
    run = office.evaluated("bot", "blue", "INCONCLUSIVE")
    flattering = {"id": "1", "prompt": "?", "target": "!", "response": "!", "scores": {"exact_match": 1.0}}

    def edit(record: dict[str, Any]) -> None:
        evaluation = json.loads((Path(record["candidate"]["evidence"]["path"]) / "evaluation.json").read_text())
        evaluation["tasks"][0]["items"] = [{**flattering, "id": f"{index}"} for index in range(60)]
        (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
        record["candidate"]["evidence"]["path"] = str(tmp_path)
        record["scorecard"].update(outcome="PASS")

    office.edit(run, edit)
    with pytest.raises(IntegrityError, match="which is not the store"):
        office.approve(run)
