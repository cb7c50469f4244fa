"""The gateway's HAProxy configuration, rendered from a record. Pure: no files, no processes.

A request passes two hops of one process. The front checks key, path and size and picks a slot by
weight; the slot's own hop, behind a UNIX socket, puts the slot's prefix before the path and
forwards to Ray Serve. The prefix cannot be put in front: there the slot has not been picked yet.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SLOTS = ("blue", "green")
"""The slots that can have traffic."""

BACKEND = "slots"
"""The HAProxy backend whose servers are the slots."""

SERVER = "serve"
"""The server of a slot's own hop: Ray Serve."""

KEYS_MAP = "keys.map"
"""Map file of API keys, a line each: SHA-256 in lower-case hex, a space, the key's label. HAProxy
runs in the folder that holds it, and its map commands use this name."""

APPROVED_MAP = "approved.map"
"""Likewise, of the artifacts whose answers are let through: SHA-256 in lower-case hex, and a 1."""

ARTIFACT_HEADER = "X-Assay-Artifact"
"""Response header in which a slot says which artifact its replicas have loaded."""

MAX_WEIGHT = 256
"""HAProxy's highest weight."""

RETRY_AFTER_S = 5
"""When a client should ask again while nothing serves, in seconds; clients of OpenAI's API heed
it."""

_FAILURES = {
    400: ("bad_request", "the request is not valid HTTP"),
    408: ("request_timeout", "the request did not arrive in time"),
    500: ("gateway_error", "the gateway failed"),
    502: ("bad_gateway", "the model's server broke off or sent an invalid answer"),
    503: ("unreachable", "the model's server cannot be reached"),
    504: ("timeout", "the model's server did not answer in time"),
}


@dataclass(frozen=True)
class Limits:
    """What the gateway bears."""

    max_body_bytes: int = 1024 * 1024
    """Largest request body."""

    max_connections: int = 1000
    """Client connections at once; further ones wait in the kernel."""

    header_timeout_s: int = 10
    """A client must have sent its whole header by then."""

    client_timeout_s: int = 30
    """Longest silence of a client that is sending a body or should be reading an answer."""

    keep_alive_s: int = 60
    """How long an idle connection is kept for the client's next request."""

    connect_timeout_s: int = 5
    """Longest wait for Ray Serve to take a connection."""

    server_timeout_s: int = 600
    """Longest silence of an engine: all of the generation, where the answer is not streamed."""


@dataclass(frozen=True)
class GatewayConfig:
    """All that the configuration depends on."""

    host: str
    port: int
    serve_port: int
    """Ray Serve's port on the loopback."""

    socket_dir: Path
    weights: Mapping[str, int]
    """Share of each of `SLOTS`, 0 (nothing is sent) to 256."""

    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse weights that HAProxy would misread."""
        check_weights(self.weights)


def check_weights(weights: Mapping[str, int]) -> None:
    """Raise ValueError unless `weights` gives every slot a whole number from 0 to 256."""
    if set(weights) != set(SLOTS):
        raise ValueError(
            f"weights are given for {', '.join(SLOTS)}, not for {', '.join(weights) or 'nothing'}"
        )
    for slot, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(
                f"weight of {slot}: {weight!r} is not a whole number from 0 to {MAX_WEIGHT}"
            )


def check_digests(digests: Collection[str]) -> None:
    """Raise ValueError for what is no SHA-256 in lower-case hex."""
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{digest!r} is no digest of an artifact")


def admin_socket(socket_dir: Path) -> Path:
    """HAProxy's own command socket."""
    return socket_dir / "admin.sock"


def render(config: GatewayConfig) -> str:
    """The text of `haproxy.cfg`."""
    blocks = [_global(config), _defaults(config), _front(config), _backend(config)]
    blocks += [_slot(config, slot) for slot in SLOTS]
    return "\n\n".join(blocks) + "\n"


def _global(config: GatewayConfig) -> str:
    # Each request holds two of the process's connections, one in each hop. Without noreuseport the
    # gateway of another place could share the port, and each would get half of the other's
    # requests.
    return f"""global
    log stdout format raw local0 info
    maxconn {2 * config.limits.max_connections + 16}
    nbthread 2
    noreuseport
    stats socket unix@{_quoted(admin_socket(config.socket_dir))} mode 600 level admin
    stats timeout 30s"""


def _defaults(config: GatewayConfig) -> str:
    # http-no-delay: without it streamed tokens wait in the kernel for more to send.
    # abortonclose: a client that has gone away frees its place in the engine.
    # No redispatch: a slot's failures must count against that slot.
    limits = config.limits
    errors = []
    for status, (code, message) in _FAILURES.items():
        body = f"{_error(status, code, message)}{_retry_after(status)}"
        errors.append(f"    http-error status {status} content-type application/json string {body}")
    joined = "\n".join(errors)
    return f"""defaults
    mode http
    log global
    option httplog
    option dontlog-normal
    option http-no-delay
    option abortonclose
    no option redispatch
    retries 2
    retry-on conn-failure
    timeout http-request {limits.header_timeout_s}s
    timeout client {limits.client_timeout_s}s
    timeout http-keep-alive {limits.keep_alive_s}s
    timeout connect {limits.connect_timeout_s}s
    timeout queue {limits.connect_timeout_s}s
    timeout server {limits.server_timeout_s}s
{joined}"""


def _front(config: GatewayConfig) -> str:
    # proto h1: in HTTP/1.1 a body without Content-Length always shows as Transfer-Encoding.
    # No "..": a path must not climb from the slot that was picked into another one.
    limit = config.limits.max_body_bytes
    traffic = ",".join(f'"{slot}":%[srv_uweight({BACKEND}/{slot})]' for slot in SLOTS)
    traffic = f"'{{\"traffic\":{{{traffic}}}}}'"
    idle = "\n".join(f"    acl {slot}_idle srv_uweight({BACKEND}/{slot}) eq 0" for slot in SLOTS)
    no_traffic = " ".join(f"{slot}_idle" for slot in SLOTS)
    no_key = "the API key is missing or wrong: Authorization: Bearer KEY"
    return f"""frontend gateway
    bind {config.host}:{config.port} proto h1
    maxconn {config.limits.max_connections}
    acl healthz path /healthz
{idle}
    acl known_key http_auth_bearer,sha2(256),hex,lower,map_str({KEYS_MAP}) -m found
    acl api_path path_beg /v1/
    acl climbing path,url_dec -m sub ..
    acl unsized req.hdr(transfer-encoding) -m found
    acl too_large req.hdr_val(content-length) gt {limit}
    http-request set-log-level silent if healthz
    http-request return status 503 content-type application/json lf-string {traffic} \
if healthz {no_traffic}
    http-request return status 200 content-type application/json lf-string {traffic} if healthz
    {_refuse(401, "invalid_api_key", no_key, "!known_key")}
    {_refuse(404, "not_found", "no such path; the API is under /v1/", "!api_path or climbing")}
    {_refuse(411, "length_required", "the request has no Content-Length", "unsized")}
    {_refuse(413, "too_large", f"the request body is larger than {limit} bytes", "too_large")}
    {_refuse(503, "no_traffic", "no model has traffic yet", no_traffic)}
    http-request del-header Authorization
    default_backend {BACKEND}"""


def _backend(config: GatewayConfig) -> str:
    lines = [f"backend {BACKEND}", "    balance roundrobin"]
    for slot in SLOTS:
        socket = _quoted(_slot_socket(config, slot))
        lines.append(f"    server {slot} unix@{socket} weight {config.weights[slot]}")
    return "\n".join(lines)


def _slot(config: GatewayConfig, slot: str) -> str:
    # Full header and count: in a list, or in one of two headers, an approved digest could stand
    # beside another one.
    refusal = _error(503, "not_approved", "what answers in this slot is not what was approved")
    return f"""listen {slot}
    bind unix@{_quoted(_slot_socket(config, slot))} mode 600
    http-request replace-path ^/v1/(.*)$ /{slot}/v1/\\1
    acl says_one res.fhdr_cnt({ARTIFACT_HEADER}) eq 1
    acl is_approved res.fhdr({ARTIFACT_HEADER}),map_str({APPROVED_MAP}) -m found
    {_gone()}
    http-response return status 503 content-type application/json string {refusal} \
if !says_one or !is_approved
    http-after-response set-header X-Assay-Slot {slot}
    server {SERVER} 127.0.0.1:{config.serve_port}"""


def _gone() -> str:
    """Serve's own 404, plain text, says that no application is there (yet); an engine's is JSON."""
    said = _error(503, "unreachable", _FAILURES[503][1])
    return (
        f"http-response return status 503 content-type application/json string {said}"
        f"{_retry_after(503)} if {{ status 404 }} {{ res.hdr(content-type) -m beg text/plain }}"
    )


def _slot_socket(config: GatewayConfig, slot: str) -> Path:
    return config.socket_dir / f"{slot}.sock"


def _refuse(status: int, code: str, message: str, condition: str) -> str:
    answer = f"status {status} content-type application/json string {_error(status, code, message)}"
    answer += _retry_after(status)
    return f"http-request return {answer} if {condition}"


def _retry_after(status: int) -> str:
    return f" hdr Retry-After {RETRY_AFTER_S}" if status == 503 else ""


def _error(status: int, code: str, message: str) -> str:
    """An error body in the shape of OpenAI's API, quoted for the configuration."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return _quoted(json.dumps(body))


def _quoted(text: str | Path) -> str:
    """`text` as one word of the configuration."""
    return "'" + str(text).replace("'", "'\\''") + "'"
