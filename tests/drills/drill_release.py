"""`make drill-release`: releases in every order of events that there is time for, and processes
killed in between.

A real gateway (HAProxy and its supervisor), a real ledger and artifact store; a stand-in for Ray
Serve, which answers with the bytes that each slot holds, while clients ask through the gateway
without a pause. In each schedule one act runs until a chosen line of its code. There it is killed,
or another act runs beside it and it goes on, or the ledger fails, or HAProxy is killed. Then one
command follows, as whoever comes next would give. Counted are answers from bytes without verdict
and approval, and places whose ledger and gateway are not at one after that command.
"""

import argparse
import http.client
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.request import Request, urlopen

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from assay.errors import AssayError
from assay.flow.place.head import head_file
from assay.flow.release.operations import (
    ReviewerWord,
    promote_run,
    reconcile_releases,
    record_decision,
    rollback_run,
)
from assay.flow.release.writer import weights_of
from assay.serving import gateway, supervisor
from assay.settings import Settings
from assay.store.ledger import Ledger
from office import APPLICATIONS, FakeServe, Office, Running, ServeServer, engine_environment
from servers import free_port, serving

TRACED = (
    "assay/flow/release/",
    "assay/store/",
    "assay/serving/",
    "assay/stages/deploy",
    "assay/engines/deployment/",
)
BLOCKED_S = 0.25
"""An act that has not ended by then waits for the one that stands still."""
HUNG_S = 60.0
STEPS = {"steps": ["25%", "50%", "100%"], "hold": "10ms"}
FAILING = ("traffic", "releases", "audit")


@dataclass
class Tally:
    """What was seen."""

    schedules: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    unapproved: int = 0
    apart: int = 0
    hung: int = 0
    faults: list[str] = field(default_factory=list)


class Scene:
    """A place in which `first` has the traffic (blue), `second` was evaluated and approved (green),
    and `other` was neither. Every schedule begins with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"sqlite:///{folder / 'ledger.db'}"
        port = free_port()
        self.settings = Settings(
            home=folder / "home",
            ledger_url=self.url,
            gateway_port=free_port(),
            serve_port=port,
            dashboard_port=port,
            engine_python=str(engine_environment(folder / "engine")),
            user="ben",
        )
        self.settings.home.mkdir()
        gateway.start(self.settings)
        self.key = gateway.create_key(self.settings, "drill")
        self.port = port
        self._build()

    def _build(self) -> None:
        with serving_at(self.port) as serve:
            serve.reports = self.settings.loaded_folder
            office = Office(Running(self.settings, serve, None), self.url)  # type: ignore[arg-type]
            office.canaries["second"] = STEPS
            first = office.evaluated("first", "blue")
            office.approve(first)
            office.promote(first)
            office.approve(office.evaluated("second", "green"))
            office.evaluated("other", "reference")
            self.applications = serve.applications
            self.digests = {
                run: office.model(f"{run}-1a2b3c").artifact.digest
                for run in ("first", "second", "other")
            }
            self.deploy = lambda: office.deploy_again("other-1a2b3c")
            self.keep("before")
            office.promote("second-1a2b3c")
            self.keep("after")
            office.ledger.close()

    def keep(self, name: str) -> None:
        kept = self.folder / name
        kept.mkdir()
        shutil.copy(self.folder / "ledger.db", kept)
        for file in self._gateway_files():
            shutil.copy(file, kept)

    def restore(self, name: str) -> None:
        """The ledger, the gateway's files and Serve as they were; the gateway's weights are the
        ledger's."""
        for file in self.folder.glob("ledger.db*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        shutil.copy(self.folder / name / "ledger.db", self.folder)
        for file in self._gateway_files():
            shutil.copy(self.folder / name / file.name, file)
        self.control({"applications": self.applications})
        writer = gateway.newest_writer(self.settings)
        kept = supervisor.read_weights(self.settings), supervisor.read_approved(self.settings)
        gateway.give(self.settings, *kept, writer=writer)
        self.control({"reset": True})

    def _gateway_files(self) -> list[Path]:
        return [
            supervisor.weights_file(self.settings),
            supervisor.approved_map(self.settings),
            supervisor.writer_file(self.settings),
            head_file(self.settings),
        ]

    def control(self, message: dict[str, Any]) -> dict[str, Any]:
        """Asks or tells the stand-in for Serve."""
        request = Request(
            f"http://127.0.0.1:{self.port}/control", json.dumps(message).encode(), method="POST"
        )
        with urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


class Stand(ServeServer):
    """Serve's API and slots, in a process of its own; counts the answers by the bytes that gave
    them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.applications, self.broken, self.answers = {}, set(), Counter()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that was killed is no error here."""


class StandHandler(FakeServe):
    """Answers at once: without the option the kernel waits 40 ms with an answer's second part."""

    disable_nagle_algorithm = True
    server: Stand

    def do_GET(self) -> None:  # noqa: N802
        if self.path != APPLICATIONS:
            app = self.server.applications.get(self.path.split("/")[1])
            config = (app or {}).get("deployed_app_config") or {"args": {"llm_configs": [{}]}}
            source = (
                config["args"]["llm_configs"][0]
                .get("model_loading_config", {})
                .get("model_source", "nothing")
            )
            with self.server.lock:
                self.server.answers[Path(source).name] += 1
        super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            if "applications" in message:
                self.server.applications = message["applications"]
            found = dict(self.server.answers)
            if message.get("reset"):
                self.server.answers.clear()
        body = json.dumps({"answers": found, "applications": self.server.applications}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving_at(port: int) -> Iterator[ServeServer]:
    """The stand-in while the scene is built, at the port that it keeps."""

    class Here(ServeServer):
        def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
            super().__init__((address[0], port), handler)

    with serving(FakeServe, Here) as server:
        yield server


def stand_in(port: int, reports: Path) -> int:
    """Starts the stand-in as a process; returns its pid."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            server = Stand(("127.0.0.1", port), StandHandler)
            server.reports, server.num_deployed = reports, 1000
            server.serve_forever()
        os._exit(0)
    return pid


def clients(settings: Settings, key: str) -> int:
    """Starts a process that asks through the gateway without a pause; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    connection = http.client.HTTPConnection("127.0.0.1", settings.gateway_port, timeout=5)
    while True:
        try:
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
            time.sleep(0.01)


@dataclass
class Act:
    """An act in a process of its own, which stops before the n-th line of the code that is
    traced."""

    pid: int
    told: int
    """Becomes readable when it stands still, and is closed when it ends."""
    go: int

    def stands_or_ended(self, wait_s: float) -> str:
        """`stands`, `ended`, or `runs` when neither comes in time."""
        ready, _, _ = select.select([self.told], [], [], wait_s)
        if not ready:
            return "runs"
        return "stands" if os.read(self.told, 1) else "ended"

    def resume(self) -> None:
        with suppress(OSError):
            os.write(self.go, b"g")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> bool:
        """Waits for its end; False for one that had to be killed."""
        end, well = time.monotonic() + HUNG_S, True
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end and well:
                self.kill()
                well = False
            time.sleep(0.001)
        os.close(self.told)
        os.close(self.go)
        return well


def begin(work: Callable[[], object], stop_at: int | None = None, count: Path | None = None) -> Act:
    """Does `work` in a fork, up to the line `stop_at`; with `count`, the number of its lines is
    written there."""
    told_read, told_write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told_write)
        os.close(go_read)
        return Act(pid, told_read, go_write)
    os.close(told_read)
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if not any(part in frame.f_code.co_filename for part in TRACED):
            return None
        if event == "line":
            seen += 1
            if seen == stop_at:
                os.write(told_write, b"s")
                os.read(go_read, 1)
        return trace

    with suppress(BaseException):
        sys.settrace(trace)
        with suppress(AssayError, KeyboardInterrupt):
            work()
        sys.settrace(None)
        if count is not None:
            count.write_text(str(seen))
    os._exit(0)


class Drill:
    """The schedules of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.tally = scene, Tally()
        settings = scene.settings

        def quiet(_: str) -> None:
            pass

        self.acts: dict[str, tuple[str, Callable[[], object]]] = {
            "promote": ("before", lambda: promote_run("second", settings=settings, say=quiet)),
            "rollback": ("after", lambda: rollback_run(settings=settings, reason="drill")),
            "deploy": ("before", scene.deploy),
            "reject": ("before", self._reject),
            "approve": ("before", self._approve),
        }
        self.besides: dict[str, Callable[[], object]] = {
            "rollback": self.acts["rollback"][1],
            "promote again": self.acts["promote"][1],
            "deploy": self.acts["deploy"][1],
            "reject": self._reject,
            "reconcile": lambda: reconcile_releases(settings, say=quiet),
        }

    def _reject(self) -> None:
        record_decision(
            "second", ReviewerWord("reject", "anna", "drill"), settings=self.scene.settings
        )

    def _approve(self) -> None:
        record_decision("other", ReviewerWord("approve", "anna", ""), settings=self.scene.settings)

    def num_lines(self, name: str) -> int:
        """How many lines of the traced code an act runs when nothing disturbs it."""
        start, work = self.acts[name]
        self.scene.restore(start)
        file = self.scene.folder / "lines"
        assert begin(work, count=file).end(), f"{name} hangs"
        return int(file.read_text())

    def run(self, name: str, line: int, disturbance: str) -> None:
        """One schedule."""
        start, work = self.acts[name]
        self.scene.restore(start)
        act = begin(work, stop_at=line)
        if act.stands_or_ended(HUNG_S) == "stands":
            self._disturb(act, disturbance)
        if not act.end():
            self.tally.hung += 1
        self.tally.schedules[f"{name} / {disturbance}"] += 1
        self._judge(f"{name} at line {line} / {disturbance}")

    def _disturb(self, act: Act, disturbance: str) -> None:
        if disturbance == "killed":
            act.kill()
        elif disturbance == "ledger fails":
            self._failing_ledger(act)
        elif disturbance == "HAProxy killed":
            for haproxy in psutil.Process(
                supervisor.running_pid(self.scene.settings) or 0
            ).children():
                haproxy.kill()
            act.resume()
        else:
            kind, _, then = disturbance.partition(", then ")
            other = begin(self.besides[kind])
            other.stands_or_ended(BLOCKED_S)
            act.kill() if then == "killed" else act.resume()
            if not other.end():
                self.tally.hung += 1

    def _failing_ledger(self, act: Act) -> None:
        """From here on nothing of a release can be written, until the act has ended."""
        connection = sqlite3.connect(self.scene.folder / "ledger.db", timeout=0.05)
        try:
            with (
                suppress(sqlite3.OperationalError),
                connection,
            ):  # locked: the act stands inside a transaction
                for table in FAILING:
                    for verb in ("INSERT", "UPDATE"):
                        connection.execute(
                            f"CREATE TRIGGER {verb}_{table} BEFORE {verb} ON {table} "
                            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
                        )
            act.resume()
            act.stands_or_ended(HUNG_S)
            for table in FAILING:
                for verb in ("INSERT", "UPDATE"):
                    connection.execute(f"DROP TRIGGER IF EXISTS {verb}_{table}")
            connection.commit()
        finally:
            connection.close()

    def _judge(self, schedule: str) -> None:
        """One command, and then a look at everything."""
        scene, tally = self.scene, self.tally
        command = begin(lambda: reconcile_releases(scene.settings, say=lambda _: None))
        if not command.end():
            tally.hung += 1
        answers = scene.control({"reset": True})["answers"]
        tally.answers += sum(answers.values())
        if wrong := answers.get(scene.digests["other"], 0):
            tally.unapproved += wrong
            tally.faults.append(f"{schedule}: {wrong} answers from unapproved bytes")
        if fault := self._apart():
            tally.apart += 1
            tally.faults.append(f"{schedule}: {fault}")

    def _apart(self) -> str:
        scene = self.scene
        ledger = Ledger(scene.url)
        try:
            ledger.verify()
            champion, open_release = ledger.champion(), ledger.releases.under_way()
        except AssayError as error:
            return str(error)
        finally:
            ledger.close()
        wanted = weights_of(champion)
        live, kept = gateway.get_weights(scene.settings), supervisor.read_weights(scene.settings)
        if open_release is not None:
            return f"release {open_release.id} is {open_release.state}"
        if not live == kept == wanted:
            return f"the ledger wants {wanted}, HAProxy has {live}, and would come up with {kept}"
        if champion is None or champion.run.split("-")[0] not in ("first", "second"):
            return f"the champion is {champion}"
        app = scene.control({})["applications"].get(champion.slot, {})
        source = app["deployed_app_config"]["args"]["llm_configs"][0]["model_loading_config"][
            "model_source"
        ]
        return (
            ""
            if Path(source).name == champion.artifact_digest
            else "the champion's slot holds other bytes"
        )


def schedules(drill: Drill, wanted: int, seed: int) -> list[tuple[str, int, str]]:
    """Every act, killed at each of its lines; then each disturbance at lines drawn at random, as
    many as are wanted."""
    lines = {name: drill.num_lines(name) for name in drill.acts}
    print("lines of each act:", lines, flush=True)
    found = [
        (name, line, "killed") for name, count in lines.items() for line in range(1, count + 1)
    ]
    draw = random.Random(seed)
    draw.shuffle(found)
    found = found[: wanted // 2]
    others = [f"{kind}, then {end}" for kind in drill.besides for end in ("killed", "goes on")]
    others += ["ledger fails"]
    while len(found) < wanted:
        name = draw.choice(list(lines))
        disturbance = "HAProxy killed" if draw.random() < 0.02 else draw.choice(others)
        found.append((name, draw.randint(1, lines[name]), disturbance))
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--schedules", type=int, default=2000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--seconds", type=float, default=3000.0, help="stop after so long, and say how far it came"
    )
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the gateway would be left behind
    base = (
        "/dev/shm" if Path("/dev/shm").is_dir() else None
    )  # a ledger's fsync is not what is tried here
    children: list[int] = []
    with tempfile.TemporaryDirectory(prefix="assay-drill-", dir=base) as folder:
        scene = Scene(Path(folder))
        drill = Drill(scene)
        try:
            children = [
                stand_in(scene.port, scene.settings.loaded_folder),
                clients(scene.settings, scene.key),
            ]
            wait_for(scene)
            began = time.monotonic()
            for number, (name, line, disturbance) in enumerate(
                schedules(drill, chosen.schedules, chosen.seed), 1
            ):
                drill.run(name, line, disturbance)
                if number % 100 == 0:
                    tally = drill.tally
                    said = (
                        f"{tally.unapproved} unapproved answers of {tally.answers}, {tally.apart} "
                        "apart"
                    )
                    print(
                        f"{number:5} schedules, {time.monotonic() - began:.0f} s: {said}",
                        flush=True,
                    )
                if time.monotonic() - began > chosen.seconds:
                    break
        except KeyboardInterrupt:
            print("stopped; so far:")
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            gateway.stop(scene.settings)
    return tell(drill.tally)


def wait_for(scene: Scene) -> None:
    """Until the stand-in answers."""
    end = time.monotonic() + 30
    while True:
        try:
            scene.control({})
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def tell(tally: Tally) -> int:
    """What was seen, and whether it is as it must be."""
    for kind, count in sorted(tally.schedules.items()):
        print(f"  {count:5}  {kind}")
    print(f"{tally.schedules.total()} schedules, {tally.answers} answers through the gateway")
    print(f"{tally.unapproved} answers from bytes without verdict and approval")
    print(f"{tally.apart} places whose ledger and gateway were apart after one command")
    print(f"{tally.hung} acts that had to be ended")
    for fault in tally.faults[:20]:
        print(f"  ! {fault}")
    return 1 if tally.unapproved or tally.apart or tally.hung else 0


if __name__ == "__main__":
    sys.exit(main())
