"""Settings of the place: where things are, as against what to build (which is the spec's).

Every setting is an environment variable `ASSAY_<NAME>`; the defaults describe one machine.
"""

import getpass
import hashlib
import os
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path


def _env(name: str, default: str) -> str:
    return os.environ.get(f"ASSAY_{name}") or default


def _home() -> Path:
    return Path(_env("HOME", str(Path.home() / ".assay"))).expanduser().absolute()


READABLE_VARIABLES = (
    "DATA,DATA_*,*_DATA,*_DIR,*_ROOT,*_PATH,*_FOLDER,*_BUCKET,*_HOME,HOME,TMPDIR,SCRATCH"
)

KEYS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_CLIENT_SECRET",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OPENAI_API_KEY",
)
"""What opens something, by its usual names. Gateway, controller and engines ask nobody for
anything: of a shell with such variables they inherit none."""


@dataclass(frozen=True)
class Settings:
    """One machine, or one team's cluster."""

    home: Path = field(default_factory=_home)
    """`ASSAY_HOME`: ledger, artifacts and run folders; `~/.assay` when not said. On a cluster, a
    folder that every node sees."""

    ledger_url: str = field(
        default_factory=lambda: _env("LEDGER_URL", f"sqlite:///{_home() / 'ledger.db'}")
    )
    """`ASSAY_LEDGER_URL`: the ledger, an SQLAlchemy URL; SQLite in `ASSAY_HOME` when not said."""

    artifact_url: str = field(default_factory=lambda: _env("ARTIFACT_URL", ""))
    """`ASSAY_ARTIFACT_URL`: the object store that keeps every artifact, such as
    `s3://bucket/assay`, `gs://bucket/assay` or
    `abfss://container@account.dfs.core.windows.net/assay`; the folder in `ASSAY_HOME` is then its
    cache. When not said, that folder alone."""

    cache_limit_gb: float = field(default_factory=lambda: float(_env("CACHE_LIMIT_GB", "0")))
    """`ASSAY_CACHE_LIMIT_GB`: what the folder of artifacts may hold where an object store keeps
    them all: those used longest ago leave it at the start of a run. No limit when 0."""

    ray_address: str = field(
        default_factory=lambda: _env("RAY_ADDRESS", os.environ.get("RAY_ADDRESS", ""))
    )
    """`ASSAY_RAY_ADDRESS` (or `RAY_ADDRESS`): the cluster to work on; empty for the local one of
    `assay up`."""

    autoscaler_config: Path = field(
        default_factory=lambda: Path(
            _env("AUTOSCALER_CONFIG", "~/ray_bootstrap_config.yaml")
        ).expanduser()
    )
    """`ASSAY_AUTOSCALER_CONFIG`: what nodes Ray's autoscaler may add to the cluster, in the form of
    `ray up`; the file that it leaves on the head when not said."""

    secrets: Path = field(
        default_factory=lambda: Path(_env("SECRETS", str(_home() / "secrets"))).expanduser()
    )
    """`ASSAY_SECRETS`: keys and passwords, as a file of lines `NAME=VALUE`, mode 0600, or as a
    folder with a file for each; `secrets` in `ASSAY_HOME` when not said. The same path on every
    node."""

    dashboard_port: int = field(default_factory=lambda: int(_env("DASHBOARD_PORT", "8265")))
    """`ASSAY_DASHBOARD_PORT`: Ray's dashboard and job API."""

    dashboard: str = field(default_factory=lambda: _env("DASHBOARD_URL", ""))
    """`ASSAY_DASHBOARD_URL`: Ray's dashboard as it is reached from here, such as
    `http://ray-head:8265`; at `ASSAY_DASHBOARD_PORT` of the machine that `ASSAY_RAY_ADDRESS` names
    when not said, and of this one where that is the head."""

    ray_port: int = field(default_factory=lambda: int(_env("RAY_PORT", "6379")))
    """`ASSAY_RAY_PORT`: the local Ray head."""

    serve_port: int = field(default_factory=lambda: int(_env("SERVE_PORT", "8000")))
    """`ASSAY_SERVE_PORT`: Ray Serve's own port, on the loopback; the gateway stands before it."""

    gateway_port: int = field(default_factory=lambda: int(_env("GATEWAY_PORT", "8080")))
    """`ASSAY_GATEWAY_PORT`: where clients come in."""

    gateway_host: str = field(default_factory=lambda: _env("GATEWAY_HOST", "127.0.0.1"))
    """`ASSAY_GATEWAY_HOST`: the address that the gateway binds."""

    console_port: int = field(default_factory=lambda: int(_env("CONSOLE_PORT", "8090")))
    """`ASSAY_CONSOLE_PORT`: where people open the console in a browser."""

    console_host: str = field(default_factory=lambda: _env("CONSOLE_HOST", "127.0.0.1"))
    """`ASSAY_CONSOLE_HOST`: the address that the console binds; beyond the loopback only with an
    `ASSAY_CONSOLE_URL` of https."""

    console_address: str = field(default_factory=lambda: _env("CONSOLE_URL", ""))
    """`ASSAY_CONSOLE_URL`: the console as people reach it through a proxy that ends TLS, such as
    `https://assay.example.org`; where it listens when not said."""

    webhook_url: str = field(default_factory=lambda: _env("WEBHOOK_URL", ""), repr=False)
    """`ASSAY_WEBHOOK_URL`: where it is told, as JSON that Slack takes, that a run waits for a
    decision or has failed, that traffic went back, or that the champion is not back; nobody is told
    when not said."""

    webhook_secret: str = field(default_factory=lambda: _env("WEBHOOK_SECRET", ""), repr=False)
    """`ASSAY_WEBHOOK_SECRET`: signs what is told, in the header `X-Assay-Signature`; not signed
    when not said."""

    webhook_allow: str = field(default_factory=lambda: _env("WEBHOOK_ALLOW", ""))
    """`ASSAY_WEBHOOK_ALLOW`: hosts of `ASSAY_WEBHOOK_URL`, separated by commas, that may have a
    private address or be without TLS; none when not said."""

    num_cpus: int = field(
        default_factory=lambda: int(_env("NUM_CPUS", str(max(8, os.cpu_count() or 1))))
    )
    """`ASSAY_NUM_CPUS`: logical CPUs of the local Ray head; as many as there are cores, and 8 at
    least, when not said. With fewer, two engines and the training workers would wait for each other
    for ever."""

    engine_python: str = field(
        default_factory=lambda: _env("ENGINE_PYTHON", _default_engine_python())
    )
    """`ASSAY_ENGINE_PYTHON`: the interpreter of the engine's environment; the one in
    `.venv-engine`, beside the platform's own environment, when not said."""

    cost_per_hour: float = field(default_factory=lambda: float(_env("COST_PER_HOUR", "0")))
    """`ASSAY_COST_PER_HOUR`: what an hour of the whole cluster costs, in your currency; `assay
    plan` then says what a run costs. Not counted when 0."""

    wait_limit_s: float = field(default_factory=lambda: float(_env("WAIT_LIMIT", "1800")))
    """`ASSAY_WAIT_LIMIT`: how long a stage waits for what others hold of the cluster, in seconds,
    before it gives up and says who holds it."""

    spec_env: str = field(default_factory=lambda: _env("SPEC_ENV", READABLE_VARIABLES))
    """`ASSAY_SPEC_ENV`: which environment variables a spec may name as `${env:NAME}`, with `*` for
    any letters; those whose names say that they hold a place when not said. A spec may come from
    somebody else, and must not read keys."""

    user: str = field(default_factory=lambda: _env("USER", getpass.getuser()))
    """`ASSAY_USER`: who is working; the login name when not said."""

    token: str = field(default_factory=lambda: _env("TOKEN", ""), repr=False)
    """`ASSAY_TOKEN`: the personal token of who is working; the one of `assay login` when not
    said."""

    act: str = field(default_factory=lambda: _env("ACT", ""), repr=False)
    """`ASSAY_ACT`: a command that somebody has signed with their token on another machine; set by
    `assay submit` and `--address`."""

    token_file: Path = field(
        default_factory=lambda: Path(_env("TOKEN_FILE", str(_home() / f"login-{os.getuid()}")))
    )
    """`ASSAY_TOKEN_FILE`: where `assay login` keeps a token, mode 0600; a file of yours in
    `ASSAY_HOME` when not said."""

    def is_readable_by_specs(self, variable: str) -> bool:
        """Whether a spec may name this environment variable."""
        return any(fnmatchcase(variable, pattern.strip()) for pattern in self.spec_env.split(","))

    @property
    def cluster_address(self) -> str:
        """Where Ray is joined."""
        return self.ray_address or f"127.0.0.1:{self.ray_port}"

    @property
    def dashboard_url(self) -> str:
        """Ray's dashboard and job API."""
        if self.dashboard:
            return self.dashboard.rstrip("/")
        host = host_of(self.ray_address)
        if not host or is_this_machine(host):  # a head's dashboard may listen on the loopback alone
            host = "127.0.0.1"
        return f"http://{host}:{self.dashboard_port}"

    @property
    def gateway_url(self) -> str:
        """Base of the OpenAI-compatible API that clients use, ending in `/v1`."""
        return f"http://{self.gateway_host}:{self.gateway_port}/v1"

    @property
    def console_url(self) -> str:
        """The console as people reach it."""
        if self.console_address:
            return self.console_address.rstrip("/")
        host = f"[{self.console_host}]" if ":" in self.console_host else self.console_host
        return f"http://{host}:{self.console_port}"

    @property
    def token_path(self) -> Path:
        """Ray's authentication token, mode 0600."""
        return self.home / "ray-token"

    def ray_token(self) -> str:
        """Ray's authentication token: from `RAY_AUTH_TOKEN`, the file that `RAY_AUTH_TOKEN_PATH`
        names, or the local cluster's file; empty when there is none."""
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            return token.strip()
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or self.token_path)
        if path.is_file():
            return path.read_text().strip()
        return ""

    @property
    def socket_dir(self) -> Path:
        """Folder of the gateway's UNIX sockets, whose paths must stay under 100 bytes."""
        mark = hashlib.sha256(str(self.home).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"assay-{os.getuid()}-{mark}"

    @property
    def loaded_folder(self) -> Path:
        """Where each replica says which artifact it has loaded."""
        return self.home / "loaded"

    def run_folder(self, run: str) -> Path:
        """Scratch space, logs and progress of one run."""
        return self.home / "runs" / run


def host_of(ray_address: str) -> str:
    """The machine in an address of Ray, such as `10.0.0.5:6379` or `ray://head:10001`; empty where
    it names none, as `auto` does."""
    place = ray_address.rpartition("//")[2]
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        return ""
    return host


def is_this_machine(host: str) -> bool:
    """Whether an address is one of this machine's own: only those can be bound."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), 0, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _default_engine_python() -> str:
    """`.venv-engine` beside the environment that runs this code, where there is one."""
    beside = Path(sys.prefix).parent / ".venv-engine" / "bin" / "python"
    if beside.exists():
        return str(beside)
    return ""
