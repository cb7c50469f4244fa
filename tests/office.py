"""A place to release in: a real ledger, artifact store and gateway, before a small server that
answers like Ray Serve's REST API and like the slots."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from assay.console import server as console
from assay.engines.cluster import tasks
from assay.engines.deployment import ray_serve
from assay.engines.deployment.application import SAYS_ARTIFACT, engine_packages
from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import AssayError
from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.graph import stages_of
from assay.flow.place.head import head_file
from assay.flow.release import controller
from assay.flow.release.operations import ReviewerWord, promote_run, record_decision
from assay.records.gate import Evaluation, EvaluationRecord, GateRecord, Sample, TaskResult
from assay.records.releases.release import Champion
from assay.records.stages import DeploymentRecord, ModelRecord, Slot
from assay.serving import gateway
from assay.serving.haproxy import ARTIFACT_HEADER
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.stages import gate
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from servers import Server, free_port, serving
from traffic import set_weights

APPLICATIONS = "/api/serve/applications/"
TO_BLUE, TO_GREEN, TO_NOBODY = ({"blue": b, "green": g} for b, g in ((256, 0), (0, 256), (0, 0)))
ASSAY = (sys.executable, "-m", "assay.cli.main")
SUITE = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}})
CANARY = {"steps": ["50%", "100%"], "hold": "400ms"}


class ServeServer(Server):
    """What Serve would know: its applications, and which of them answer with errors."""

    applications: dict[str, Any]
    broken: set[str]
    reports: Path
    num_deployed = 0
    starts_as = "RUNNING"
    """What Serve says of an application that it has just been told of."""

    def report(self, replica: str, artifact: str) -> None:
        """Where a replica says what it has loaded."""
        self.reports.mkdir(exist_ok=True)
        (self.reports / f"{replica}.json").write_text(
            json.dumps({"replica": replica, "artifact": artifact})
        )

    def deploy(self, wanted: dict[str, Any]) -> None:
        """Starts what is new, and ends what is not wanted any more."""
        there = {
            name: app for name, app in self.applications.items() if app.get("deployed_app_config")
        }
        for name in there.keys() - wanted.keys():
            del self.applications[name]
        for name in there.keys() & wanted.keys():  # so does Serve, whatever was changed
            self.applications[name] |= {
                "status": "DEPLOYING",
                "last_deployed_time_s": time.time(),
            }
        for name, config in wanted.items():
            if name in there and there[name]["deployed_app_config"] == config:
                continue
            self.num_deployed += 1
            model = config["args"]["llm_configs"][0]
            wanted_digest = model["callback_config"]["callback_kwargs"]["artifact"]
            assert wanted_digest == Path(model["model_loading_config"]["model_source"]).name
            self.report(f"{name}#{self.num_deployed}", wanted_digest)
            self.applications[name] = {
                "status": self.starts_as,
                "message": "",
                "last_deployed_time_s": time.time() + self.num_deployed,
                "deployed_app_config": config,
                "deployments": {
                    "LLMServer": {
                        "replicas": [
                            {"replica_id": f"{name}#{self.num_deployed}", "state": "RUNNING"}
                        ]
                    }
                },
            }


class FakeServe(BaseHTTPRequestHandler):
    """Serve's REST API, and the slots' own routes."""

    protocol_version = "HTTP/1.1"
    server: ServeServer

    def do_GET(self) -> None:
        slot = self.path.split("/")[1]
        if self.path == APPLICATIONS:
            self._answer(200, json.dumps({"applications": self.server.applications}))
        elif slot in self.server.applications:
            self._answer(500 if slot in self.server.broken else 200, json.dumps({"slot": slot}))
        else:  # so says Serve of a route that no application has
            self._answer(404, f"Path '{self.path}' not found.", "text/plain")

    def _answer(self, status: int, body: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        slot = self.path.split("/")[1]
        if slot in self.server.applications:
            self.send_header(ARTIFACT_HEADER, self._artifact(slot))
        self.end_headers()
        self.wfile.write(body.encode())

    def _artifact(self, slot: str) -> str:
        """What the slot's replicas have loaded, as `assay_replica` says with every answer."""
        config = self.server.applications[slot]["deployed_app_config"] or {}
        models = config.get("args", {}).get("llm_configs", [{}])
        return Path(models[0].get("model_loading_config", {}).get("model_source", "nothing")).name

    def do_PUT(self) -> None:
        """Serve is told which applications there are to be; those that are new or changed start
        anew."""
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["applications"]
        self.server.deploy({app["name"]: app for app in wanted})
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@dataclass(frozen=True)
class Running:
    settings: Settings
    serve: ServeServer
    client: httpx.Client


def engine_environment(folder: Path) -> Path:
    """The interpreter of an environment whose replicas verify what they load, as far as it is
    looked at."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    for name in ("assay_replica.py", "assay_files.py"):
        (packages / name).write_text(SAYS_ARTIFACT)
    (packages / "vllm-1.0.dist-info").mkdir()
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(FakeServe, ServeServer) as serve:
        settings = Settings(
            home=tmp_path_factory.mktemp("home"),
            ledger_url="replaced in each test",
            gateway_port=free_port(),
            serve_port=serve.port,
            dashboard_port=serve.port,
            console_port=free_port(),
            engine_python=str(engine_environment(tmp_path_factory.mktemp("engine"))),
            user="ben",
        )
        serve.reports = settings.loaded_folder
        gateway.start(settings)
        try:
            headers = {"Authorization": f"Bearer {gateway.create_key(settings, 'tests')}"}
            with httpx.Client(base_url=settings.gateway_url, headers=headers) as client:
                yield Running(settings, serve, client)
        finally:
            console.stop(settings)
            controller.stop(settings)
            gateway.stop(settings)


def with_token(office: "Office", token: str) -> Settings:
    """The place for whoever has this token."""
    return replace(office.settings, token=token)


class Office:
    """A place whose runs are evaluated as the test says."""

    canaries: ClassVar[dict[str, Any]] = {
        "careful": CANARY,
        "slow": {"steps": ["50%", "75%", "100%"], "hold": "60s"},
    }

    says = "!"
    """What a model answers that is right."""

    def __init__(self, running: Running, ledger_url: str) -> None:
        self.settings = replace(running.settings, ledger_url=ledger_url)
        self.running = running
        self.serve = running.serve
        self.client = running.client
        console.stop(self.settings)
        controller.stop(self.settings)  # ones that an earlier test has started
        self.ledger = Ledger(ledger_url)
        self.serve.applications, self.serve.broken, self.serve.num_deployed = {}, set(), 100
        set_weights(self.settings, TO_NOBODY, ())
        head_file(self.settings).unlink(missing_ok=True)

    def run(self, name: str, spec: Spec | None = None) -> str:
        """A run that has not come to the gate."""
        said = (spec or self.spec(name)).model_dump_json()
        self.ledger.open_run(f"{name}-1a2b3c", name=name, spec=said, started_by="ben")
        return f"{name}-1a2b3c"

    def spec(self, name: str) -> Spec:
        """What a run was made from."""
        said = {
            "version": 1,
            "name": name,
            "model": "hf:some/model",
            "data": {"train": "train.jsonl"},
            "gate": {"suite": "evals/suite.yaml"},
            "approval": {"reviewers": ["anna", "ben"]},
            "serve": {"canary": self.canaries.get(name, {})},
        }
        return Spec.model_validate(said)

    def evaluated(
        self,
        name: str,
        slot: Slot,
        outcome: str = "PASS",
        champion_digest: str | None = None,
        spec: Spec | None = None,
        num_right: int | None = None,
        champion_right: int | None = None,
    ) -> str:
        """A run whose candidate answers in `slot` and was evaluated there."""
        run, store = self.run(name, spec), ArtifactStore(self.settings.home / "artifacts")
        made = self.settings.home / "made"
        made.mkdir()
        (made / "model.safetensors").write_text(f"{self.settings.ledger_url}, {name}")
        model = store.put(made, "model")
        self.deploy(slot, model.path)
        compress = ModelRecord(
            artifact=model,
            architecture="LlamaForCausalLM",
            num_parameters=1,
            num_layers=1,
            context_length=8,
        )
        self._finish(run, "compress", compress)
        deployment = self._deployment(slot, model.digest)
        self._finish(run, "deploy", deployment)
        if num_right is None:
            num_right = {"PASS": 60, "FAIL": 0}.get(outcome, 30)
        rights = {model.digest: num_right}
        if champion_digest:
            rights[champion_digest] = num_right if champion_right is None else champion_right
        self._finish(run, "gate", self._gate(run, slot, model.digest, rights))
        return run

    def _gate(self, run: str, slot: Slot, digest: str, num_right: dict[str, int]) -> GateRecord:
        """The gate's word on a model that answered so many of 60 questions right, beside the
        champion where there are two; half of them are asked for."""
        champion_digest = next((one for one in num_right if one != digest), None)
        work = Work(
            self.settings,
            self.settings.home / "work" / run,
            self.settings.home / "progress.jsonl",
            self.settings.home,
        )

        def evaluate(digest: str) -> EvaluationRecord:
            items = tuple(
                Sample(
                    id=f"{i}",
                    prompt=f"question {i}?",
                    target="!",
                    response=self.says if i < num_right[digest] else f"{self.says} not",
                    scores={"exact_match": float(i < num_right[digest])},
                )
                for i in range(60)
            )
            tasks = (TaskResult(task="facts", digest="facts", items=items),)
            said = Evaluation(artifact_digest=digest, model_name="bot", tasks=tasks, seconds=1.0)
            folder = work.fresh_folder("evaluation")
            (folder / "evaluation.json").write_text(said.model_dump_json())
            evidence = work.store.put(folder, "evidence")
            return EvaluationRecord(
                evidence=evidence, artifact_digest=digest, num_items=60, seconds=1.0
            )

        inputs = gate.Inputs(
            suite=SUITE,
            suite_file="evals/suite.yaml",
            tasks=(TaskFile("facts", "facts.yaml", "facts"),),
            deployment=self._deployment(slot, digest),
            champion=evaluate(champion_digest) if champion_digest else None,
        )
        return gate.run(
            inputs, work, evaluate=lambda deployment: evaluate(deployment.artifact_digest)
        )

    def _deployment(self, slot: Slot, digest: str) -> DeploymentRecord:
        return DeploymentRecord(
            slot=slot,
            model_name="bot",
            artifact_digest=digest,
            url="",
            deployed_at=1000.0,
            replicas=(f"{slot}#1",),
            engine_build=tuple(engine_packages(self.settings.engine_python)),
        )

    def deploy_again(self, run: str, *, champion: Champion | None = None) -> str:
        """The `deploy` stage of a run that began when `champion` had the traffic; returns the slot
        it took."""
        row = self.ledger.find_run(run)
        spec = Spec.model_validate_json(row.spec)
        context = RunContext(spec, SUITE, self.settings.home, self.settings, champion)
        context.records["compress"] = self.model(run)
        work = Work(
            self.settings,
            self.settings.home / "work" / run,
            self.settings.home / "progress.jsonl",
            Path(),
        )
        (stage,) = (stage for stage in stages_of(context) if stage.name == "deploy")
        record = stage.run(stage.inputs(), work)
        assert isinstance(record, DeploymentRecord)
        return record.slot

    def model(self, run: str) -> ModelRecord:
        """What the run has made."""
        row = self.ledger.record(
            next(stage.key for stage in self.ledger.stages(run) if stage.stage == "compress")
        )
        assert row is not None
        return ModelRecord.model_validate_json(row.record)

    def gate_record(self, run: str) -> str:
        """What the gate has written, as JSON."""
        row = self.ledger.record(
            next(stage.key for stage in self.ledger.stages(run) if stage.stage == "gate")
        )
        assert row is not None
        return row.record

    def edit(self, run: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Somebody writes into the ledger what the gate has not said."""
        key = next(stage.key for stage in self.ledger.stages(run) if stage.stage == "gate")
        row = self.ledger.record(key)
        assert row is not None
        said = json.loads(row.record)
        change(said)
        self._finish(run, "gate", GateRecord.model_validate(said))

    def _finish(self, run: str, stage: str, record: Any) -> None:
        attempt = self.ledger.begin_stage(
            run, stage, f"{run} {stage} {len(self.ledger.stages(run))}"
        )
        self.ledger.finish_stage(attempt, record)

    def deploy(
        self, slot: str, model_path: str, deployed_at: float = 1000.0, **changes: Any
    ) -> None:
        """Serve says that `slot` holds the model in `model_path`."""
        loading = {"model_id": "bot", "model_source": model_path}
        self.report(f"{slot}#1", model_path)
        self.serve.applications[slot] = {
            "status": "RUNNING",
            "message": "",
            "last_deployed_time_s": 1000.0,
            "deployed_app_config": {
                "name": slot,
                "args": {"llm_configs": [{"model_loading_config": loading}]},
                "runtime_env": {"env_vars": {ray_serve.DEPLOYED_AT: str(deployed_at)}},
            },
            "deployments": {
                "LLMServer": {"replicas": [{"replica_id": f"{slot}#1", "state": "RUNNING"}]}
            },
            **changes,
        }

    def report(self, replica: str, model_path: str) -> None:
        """The replica says what it has loaded, as `assay_replica` does."""
        self.serve.report(replica, Path(model_path).name)

    def approve(self, run: str, reviewer: str = "anna") -> None:
        record_decision(run, ReviewerWord("approve", reviewer, ""), settings=self.settings)

    def promote(self, run: str) -> Any:
        return promote_run(run, settings=self.settings, say=lambda _: None)

    def model_file(self, run: str) -> Path:
        return Path(self.model(run).artifact.path) / "model.safetensors"

    def weights(self) -> dict[str, int]:
        return gateway.get_weights(self.settings)

    def wait_for_news(self) -> None:
        """Waits until everything was told that was to be told."""
        for thread in threading.enumerate():
            if thread.name == "webhook":
                thread.join()

    def ask(self) -> httpx.Response:
        """A client's request, through the gateway."""
        return self.client.get("/models")

    def environment(self) -> dict[str, str]:
        """What tells an `assay` command of this place."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "ASSAY_"))
        }
        for name in (
            "home",
            "ledger_url",
            "gateway_port",
            "serve_port",
            "dashboard_port",
            "engine_python",
            "console_port",
            "user",
        ):
            env[f"ASSAY_{name.upper()}"] = str(getattr(self.settings, name))
        return {**env, "PYTHONPATH": os.pathsep.join(sys.path)}

    def command(
        self, *arguments: str, typed: str = "", **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """The `assay` command at this place, with more of its settings as `variables`."""
        more = {f"ASSAY_{name.upper()}": value for name, value in variables.items()}
        return subprocess.run(
            [*ASSAY, *arguments],
            env=self.environment() | more,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same, not waited for."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*ASSAY, *arguments], env=self.environment(), stdout=pipe, stderr=pipe, text=True
        )


@pytest.fixture
def office(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(tasks, "free", lambda: tasks.ClusterSize(cpus=8, gpus=0, nodes=1))
    return Office(running, f"sqlite:///{tmp_path / 'ledger.db'}")


def refused(office: Office, run: str, kind: type[AssayError], said: str) -> None:
    """Promotion is refused, and nothing has changed."""
    before = office.weights(), office.ledger.traffic()
    with pytest.raises(kind, match=said):
        office.promote(run)
    assert (office.weights(), office.ledger.traffic()) == before


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
