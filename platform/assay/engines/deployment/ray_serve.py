"""Ray Serve and vLLM: engine applications, deployed by Serve's declarative REST API.

Ray itself is not imported: the API is plain HTTP, and the engine runs in an environment of its own.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import PlaceError, StageFailed, Unreachable
from assay.records.stages import DeploymentRecord, Slot
from assay.serving.haproxy import ARTIFACT_HEADER

API = "/api/serve/applications/"
POLL_S = 0.5
DEPLOYED_AT = "ASSAY_DEPLOYED_AT"
HTTP_TIMEOUT_S = 30
# Deployments whose replicas hold a model; routers have other names.
ENGINES = ("LLMServer", "Classifier", "LlamaCpp")


@dataclass(frozen=True)
class ServeApi:
    """Where Serve's REST API is, and how to be let in."""

    dashboard_url: str
    token: str
    serve_port: int
    engine_python: str


@dataclass(frozen=True)
class SlotState:
    """What a slot holds now."""

    slot: Slot
    status: str
    """Serve's word: DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY, DELETING …"""
    message: str
    model_name: str
    model_path: str
    deployed_at: float
    """What `deploy` returned for it."""
    replicas: tuple[str, ...]
    """Ids of the engine's replicas, sorted; not those of Serve's routers, which hold no model."""
    url: str

    @property
    def answers(self) -> bool:
        """Whether it answers. Serve says DEPLOYING of all applications for a moment whenever one of
        them is deployed or removed, while the replicas of the others go on."""
        is_said_anew = self.status == "DEPLOYING" and bool(self.replicas)
        return self.status == "RUNNING" or is_said_anew


def loaded(reports: Path, replicas: Iterable[str]) -> dict[str, str]:
    """The digest that each of these replicas says it has loaded; those that say nothing are left
    out."""
    found = {}
    for replica in replicas:
        try:
            report = json.loads((reports / f"{replica}.json").read_text())
        # Not there yet, or just being written.
        except (OSError, ValueError):
            continue
        if report.get("replica") == replica:
            found[replica] = str(report.get("artifact"))
    return found


def applications(api: ServeApi) -> dict[str, dict[str, Any]]:
    """What Serve says of each application; none where it does not run."""
    found: dict[str, dict[str, Any]] = _request(api, "GET").get("applications", {})
    return found


def num_replicas(details: dict[str, Any]) -> int:
    """Engine replicas that run; not Serve's routers, which hold no model."""
    return len(_running(details))


def _running(details: dict[str, Any]) -> list[dict[str, Any]]:
    """What Serve says of each engine replica that runs."""
    found = []
    for name, deployment in details.get("deployments", {}).items():
        if not name.startswith(ENGINES):
            continue
        for replica in deployment.get("replicas", []):
            if replica.get("state") == "RUNNING":
                found.append(replica)
    return found


def artifacts_said(url: str) -> list[str]:
    """Which artifacts the answers under a slot's URL say they are of: one, where all is well; none,
    where nothing answers or something else was deployed."""
    request = urllib.request.Request(f"{url}/models")
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except OSError:
        return []
    return list(headers.get_all(ARTIFACT_HEADER) or [])


def state(api: ServeApi, slot: Slot) -> SlotState | None:
    """What the slot holds; None when it is empty or Serve is not running."""
    details = applications(api).get(slot)
    return (
        _slot_state(api, slot, details) if details and details.get("deployed_app_config") else None
    )


def holds(api: ServeApi, deployment: DeploymentRecord) -> bool:
    """Whether the slot still has this very deployment; its replicas may have been restarted
    meanwhile."""
    now = state(api, deployment.slot)
    return now is not None and now.deployed_at == deployment.deployed_at


def standing(api: ServeApi, wanted: dict[str, Any]) -> float | None:
    """When the application that its slot has was deployed, where that is `wanted` and it answers or
    may still do so; None where the slot has another, one that failed, or none."""
    details = applications(api).get(wanted["name"], {})
    there = details.get("deployed_app_config")
    ended = ("DEPLOY_FAILED", "UNHEALTHY", "DELETING")
    if not there or details.get("status") in ended:
        return None
    if any(there.get(key) != wanted[key] for key in ("import_path", "args")):
        return None
    return deployed_at(details)


def engine_pids(api: ServeApi, slot: Slot) -> list[tuple[str, int]]:
    """(IP address of the node, process) of each engine replica in the slot that runs."""
    pids = []
    for replica in _running(applications(api).get(slot, {})):
        if replica.get("pid"):
            pids.append((str(replica["node_ip"]), int(replica["pid"])))
    return pids


def deploy(api: ServeApi, wanted: dict[str, Any]) -> float:
    """Puts one application in place; the others stay as they are. Returns when (seconds since the
    epoch), by which `SlotState.deployed_at` tells this deployment from any other: it is written
    into the application, for Serve's own time is that of the newest change to any of them."""
    now = time.time()
    environment = wanted.get("runtime_env", {})
    variables = environment.get("env_vars", {}) | {DEPLOYED_AT: repr(now)}
    marked = wanted | {"runtime_env": environment | {"env_vars": variables}}
    _put(api, {**_deployed(api), wanted["name"]: marked})
    return now


def remove(api: ServeApi, slot: Slot) -> None:
    """Frees a slot; does nothing when it is empty."""
    deployed = _deployed(api)
    if deployed.pop(slot, None):
        _put(api, deployed)


def wait_until_running(
    api: ServeApi, slot: Slot, *, timeout_s: float, deployed_at: float
) -> SlotState:
    """Waits for the application that was `deployed_at` to answer. Raises `StageFailed` with Serve's
    own words when it fails, or when the time is up."""
    end = time.monotonic() + timeout_s
    now: SlotState | None = None
    while time.monotonic() < end:
        now = state(api, slot)
        if now and now.deployed_at == deployed_at:
            if now.status == "RUNNING":
                return now
            if now.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise StageFailed(
                    f"the engine in slot {slot} did not start: {_last_words(now.message)}"
                )
        time.sleep(POLL_S)
    raise StageFailed(
        f"the engine in slot {slot} did not answer in {timeout_s:.0f} s; last seen: {now}"
    )


def _deployed(api: ServeApi) -> dict[str, dict[str, Any]]:
    # A PUT says all that is to be there: what is left out is removed.
    deployed = {}
    for name, details in applications(api).items():
        if details.get("deployed_app_config") and details.get("status") != "DELETING":
            deployed[name] = details["deployed_app_config"]
    return deployed


def _put(api: ServeApi, wanted: dict[str, dict[str, Any]]) -> None:
    body = {
        # The gateway asks on this machine; a proxy on each node would listen for nobody.
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": api.serve_port},
        "applications": list(wanted.values()),
    }
    _request(api, "PUT", body)


def _request(api: ServeApi, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        api.dashboard_url + API,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {api.token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        # Serve answers with a traceback, whose end says what happened.
        said = error.read().decode(errors="replace")[-400:]
        raise PlaceError(f"Ray Serve at {api.dashboard_url} said {error.code}: {said}") from error
    except OSError as error:
        raise Unreachable(
            f"no Ray dashboard answers at {api.dashboard_url} ({error}); `assay up` starts a local "
            "cluster"
        ) from error
    return json.loads(text) if text and method == "GET" else {}


def _slot_state(api: ServeApi, slot: Slot, details: dict[str, Any]) -> SlotState:
    loading = details["deployed_app_config"]["args"]["llm_configs"][0]["model_loading_config"]
    replicas = [replica["replica_id"] for replica in _running(details)]
    return SlotState(
        slot=slot,
        status=details["status"],
        message=details.get("message", ""),
        model_name=loading["model_id"],
        model_path=str(Path(loading["model_source"])),
        deployed_at=deployed_at(details),
        replicas=tuple(sorted(replicas)),
        url=f"http://127.0.0.1:{api.serve_port}/{slot}/v1",
    )


def deployed_at(details: dict[str, Any]) -> float:
    """When the application was deployed, by its own mark (see `deploy`)."""
    environment = details["deployed_app_config"].get("runtime_env") or {}
    said = environment.get("env_vars", {}).get(DEPLOYED_AT)
    return float(said or details["last_deployed_time_s"])  # not said: deployed by something else


def _last_words(message: str) -> str:
    """The innermost exception of Serve's message, without its colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"^[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["no reason given"])[-1]
