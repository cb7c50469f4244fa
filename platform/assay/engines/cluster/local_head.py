"""A local Ray head, started and stopped by us: token authentication on, everything on the
loopback."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from assay.errors import PlaceError
from assay.settings import Settings

START_TIMEOUT_S = 60.0

_started: list["subprocess.Popen[bytes]"] = []
"""Heads of this process, kept because Python warns of those that it forgets."""
STOP_TIMEOUT_S = 10.0
# What `ray job stop` leaves a run to write a checkpoint, before it is killed; Ray's own 3 seconds
# are few.
JOB_STOP_WAIT_S = 15
MARK = "ASSAY_LOCAL_HEAD"
"""Environment variable that everything started by the head inherits; its value is the place's
home."""

# Ray 2.60 starts a worker process for each logical processor, of which a place has more than real
# ones. Each holds 90 MB and wakes a hundred times a second while it waits. Here they start when
# they are wanted, and one may wait. Nor does anyone take this one machine away with a warning,
# which each training would watch for in one process more.
FEW_PROCESSES = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_workers_soft_limit": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

# What Ray's agents look at, they look at less often: the machine's processes and memory every 15
# seconds (Ray's default is 5), whether the head still lives every 2 (0.4), events every second
# (0.1).
SELDOM = {
    "REPORTER_UPDATE_INTERVAL_MS": "15000",
    "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "2",
    "EVENT_AGENT_REPORT_INTERVAL_SECONDS": "1",
}

# Serve forwards straight to the engine's own HTTP server, with no Python hop for each token.
SERVE_ENV = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    # A slot is freed only when it has no traffic, so there is little to drain (seconds; Ray's
    # default is 30).
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    # Serve's controller looks after its replicas ten times a second, at 6 % of a core; twice will
    # do.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}


def start(settings: Settings) -> None:
    """Starts the head and waits until its dashboard answers; does nothing when it runs already.
    Raises `PlaceError` for a port in use, or with Ray's own words when it does not come up."""
    if is_running(settings):
        return
    for setting, port in _ports(settings).items():
        _require_free(port, setting)
    _make_token(settings)
    log = settings.home / "ray-head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            _command(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(settings) | _ports_of_its_own(),
            # Ctrl-C in this terminal is for the command, not for a head that outlives it.
            start_new_session=True,
        )
    _started.append(process)
    _pid_file(settings).write_text(str(process.pid))
    end = time.monotonic() + START_TIMEOUT_S
    while not _answers(settings):
        if process.poll() is not None or time.monotonic() > end:
            stop(settings)
            raise PlaceError(f"Ray did not start: {_last_words(log)} (all of it in {log})")
        time.sleep(0.2)


def stop(settings: Settings) -> None:
    """Stops the head and everything that runs on it; does nothing when it does not run."""
    process = _process(settings)
    if process is not None:
        # `ray start --block` takes its own processes along then.
        process.send_signal(signal.SIGTERM)
    # Some of what runs on the head has left its process tree (Serve's HAProxy, for one); all of it
    # bears the mark.
    family = _marked(settings)
    for left in family if process is None else ():
        left.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for left in alive:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
    _started[:] = [started for started in _started if started.poll() is None]
    _pid_file(settings).unlink(missing_ok=True)


def is_running(settings: Settings) -> bool:
    """Whether our head is up."""
    return _process(settings) is not None


def has_crashed(settings: Settings) -> bool:
    """Whether a head was started here, and is gone without `stop`. One whose first process alone
    was killed goes on."""
    is_gone = _pid_file(settings).exists() and not is_running(settings)
    return is_gone and not _answers(settings)


# A person's token is not the cluster's. PYTHONPATH would put its packages before those of the
# engine's own environment: with another FastAPI there, every answer is "400 Field required".
NOT_INHERITED = ("ASSAY_TOKEN", "PYTHONPATH", "PYTHONHOME")


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the head, and of whatever talks to it."""
    inherited = {}
    for name, value in os.environ.items():
        if name not in NOT_INHERITED:
            inherited[name] = value
    return {
        **inherited,
        **SERVE_ENV,
        **FEW_PROCESSES,
        **SELDOM,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_path),
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S),
        # A head of one machine has nowhere to drain its work to, and would wait 30 seconds for that
        # when it stops.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        # Ray warns of more worker processes than cores; here they are wanted (see
        # `Place.num_cpus`).
        "RAY_worker_maximum_startup_concurrency": str(4 * settings.num_cpus),
        "ASSAY_HOME": str(settings.home),
        MARK: str(settings.home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }


def _command(settings: Settings) -> list[str]:
    return [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        f"--port={settings.ray_port}",
        f"--num-cpus={settings.num_cpus}",
        "--include-dashboard=true",
        "--include-log-monitor=false",  # it reads workers' logs to a driver, and ours want none
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={settings.dashboard_port}",
        f"--dashboard-agent-listen-port={_free_port()}",
        f"--dashboard-agent-grpc-port={_free_port()}",
        f"--ray-client-server-port={_free_port()}",
        f"--object-store-memory={512 * 1024 * 1024}",
    ]


def _ports_of_its_own() -> dict[str, str]:
    """Serve's HAProxy has two more ports, the same ones on every machine: a second head could not
    come up beside."""
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
    }


def _ports(settings: Settings) -> dict[str, int]:
    return {
        "ASSAY_RAY_PORT": settings.ray_port,
        "ASSAY_DASHBOARD_PORT": settings.dashboard_port,
        "ASSAY_SERVE_PORT": settings.serve_port,
    }


def _require_free(port: int, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PlaceError(
                f"port {port} is in use; stop what uses it, or set {setting} to another"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_token(settings: Settings) -> None:
    """A new token for a new place; nobody else may read it."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        if not settings.token_path.exists():
            descriptor = os.open(settings.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
    except OSError as error:
        raise PlaceError(
            f"cannot write to {settings.home}: {error.strerror}. Set ASSAY_HOME to a folder you "
            "may write"
        ) from error


def _marked(settings: Settings) -> list[psutil.Process]:
    """Every process that was started by our head, by the mark in its environment, and what those
    have started: Ray's agents write their title over their environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(settings.home):
                found |= {process, *process.children(recursive=True)}
    return sorted(found - {psutil.Process()}, key=lambda process: process.pid)


def _pid_file(settings: Settings) -> Path:
    return settings.home / "ray-head.pid"


def _process(settings: Settings) -> psutil.Process | None:
    try:
        process = psutil.Process(int(_pid_file(settings).read_text()))
        ours = (
            f"--port={settings.ray_port}" in process.cmdline()
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (OSError, ValueError, psutil.Error):
        return None
    if ours:
        return process
    return None


def _answers(settings: Settings) -> bool:
    request = urllib.request.Request(
        f"{settings.dashboard_url}/api/version",
        headers={"Authorization": f"Bearer {settings.ray_token()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=2):
            return True
    except OSError:
        return False


def _last_words(log: Path) -> str:
    lines = []
    for line in log.read_text(errors="replace").splitlines():
        if line.strip():
            lines.append(line.strip())
    if lines:
        return lines[-1]
    return "it said nothing"
