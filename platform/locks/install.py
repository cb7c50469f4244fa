"""Build `.venv` and `.venv-engine` from the locks beside this file.

    python3 platform/locks/install.py [cpu|gpu]

Without an argument the variant that is already installed is kept; the first time it is `cpu`.
Needs the standard library alone. Does nothing, quickly, when both environments are up to date.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parent.parent
VARIANTS = ("cpu", "gpu")
FREE_DISK_GB = {"cpu": 12, "gpu": 40}  # both environments, pip's cache and its scratch files
# They would keep byte code from being written, or another place's packages in sight.
IGNORED_VARIABLES = {
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "PIP_REQUIRE_VIRTUALENV",
}
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Environment:
    """One virtual environment."""

    folder: Path
    role: str
    """First part of the lock's name."""
    has_assay: bool
    """Whether the `assay` package and command are installed into it."""
    imports: str
    """What a run imports first: proves that the environment works, and leaves its byte code behind."""
    modules: tuple[tuple[Path, str], ...] = ()
    """Python files that are copied into it, each under a name there."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written last: which variant and lock the finished environment holds."""
        return self.folder / "assay-lock"

    def lock(self, variant: str) -> Path:
        """The lock that it is built from."""
        return LOCKS / f"{self.role}-{variant}.txt"

    def wanted_stamp(self, variant: str) -> str:
        """What the stamp says when nothing is to be done."""
        digest = hashlib.sha256(self.lock(variant).read_bytes())
        digest.update(
            f"{sys.version_info[:3]} {self.folder}".encode()
        )  # an environment cannot be moved
        if self.has_assay:
            commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
            digest.update(repr(commands).encode())
        return f"{variant} {digest.hexdigest()}"

    def is_up_to_date(self, variant: str) -> bool:
        """Whether it was built, to the end, from the lock as it is now."""
        return (
            self.python.exists()
            and self.stamp.exists()
            and self.stamp.read_text() == self.wanted_stamp(variant)
        )


ENVIRONMENTS = (
    Environment(
        ROOT / ".venv",
        "platform",
        has_assay=True,
        imports="import torch, deepspeed, peft, datasets, lm_eval.evaluator, llmcompressor\n"
        "import ray.job_submission, ray.serve, ray.train.torch, ray.tune\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer",
    ),
    Environment(
        ROOT / ".venv-engine",
        "engine",
        has_assay=False,
        imports="import ray.serve.llm, torch, vllm.entrypoints.openai.api_server, vllm.v1.engine.async_llm\n"
        "import assay_replica",
        modules=(
            (LOCKS / "assay_replica.py", "assay_replica.py"),
            (ROOT / "platform" / "assay" / "files.py", "assay_files.py"),
        ),
    ),
)


class SetupError(Exception):
    """The environments cannot be built; the message says why and what to do."""


def main(arguments: list[str]) -> int:
    """Build what is not up to date. Returns the exit code: 0, 1 failed, 2 wrong usage."""
    if len(arguments) > 1 or not set(arguments) <= set(VARIANTS):
        print("usage: python3 platform/locks/install.py [cpu|gpu]", file=sys.stderr)
        return 2
    if sys.version_info[:2] != (3, 11):
        return run_again_with_python_3_11(arguments)
    try:
        set_up(arguments[0] if arguments else installed_variant())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nsetup: stopped; the next `make setup` starts with what is unfinished",
            file=sys.stderr,
        )
        return 130
    return 0


def run_again_with_python_3_11(arguments: list[str]) -> int:
    """Hand over to a `python3.11` on the PATH, where there is one."""
    other = shutil.which("python3.11")
    if other is None:
        found = ".".join(map(str, sys.version_info[:2]))
        print(
            f"setup: needs CPython 3.11; this is {found} and there is no python3.11 on the PATH",
            file=sys.stderr,
        )
        return 1
    return subprocess.run([other, __file__, *arguments], check=False).returncode


def installed_variant() -> str:
    """The variant of the environment that is there; `cpu` when there is none."""
    stamp = ENVIRONMENTS[0].stamp
    variant = stamp.read_text().split()[0] if stamp.exists() else "cpu"
    return variant if variant in VARIANTS else "cpu"


def set_up(variant: str) -> None:
    """Build the environments that are missing, unfinished or out of date, side by side."""
    for environment in ENVIRONMENTS:
        if environment.is_up_to_date(variant):
            copy_modules(environment)
    if all(environment.is_up_to_date(variant) for environment in ENVIRONMENTS):
        say(f".venv and .venv-engine are up to date ({variant})")
        return
    with Path(__file__).open() as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)  # a second setup waits, and then finds nothing to do
        outdated = [
            environment for environment in ENVIRONMENTS if not environment.is_up_to_date(variant)
        ]
        check_machine(variant, outdated)
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(lambda environment: build(environment, variant), outdated))
        if outdated:
            say(f"done in {time.monotonic() - started:.0f} s")


def check_machine(variant: str, outdated: list[Environment]) -> None:
    """Raise on the first thing that the machine lacks."""
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize < 2**32:
        raise SetupError(
            f"the locks are for 64-bit Linux on x86-64; this is {sys.platform} on {os.uname().machine}"
        )
    if sys.implementation.name != "cpython":
        raise SetupError(f"needs CPython 3.11; this is {sys.implementation.name}")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "Python's venv module is incomplete; on Debian and Ubuntu: apt-get install python3.11-venv"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SetupError(
            "Python's headers are missing; on Debian and Ubuntu: apt-get install python3.11-dev"
        )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        raise SetupError(
            f"no C++ compiler ({compiler}), which DeepSpeed needs; on Debian and Ubuntu: apt-get install g++"
        )
    needed_gb = FREE_DISK_GB[variant] * len(outdated) / len(ENVIRONMENTS)
    free_gb = (shutil.disk_usage(ROOT).free + sum(map(size_bytes, outdated))) / 1e9
    if free_gb < needed_gb:
        raise SetupError(f"needs {needed_gb:.0f} GB of disk in {ROOT}; {free_gb:.0f} GB are free")


def size_bytes(environment: Environment) -> int:
    """What an environment that will be replaced gives back."""
    return sum(path.lstat().st_size for path in environment.folder.rglob("*") if not path.is_dir())


def build(environment: Environment, variant: str) -> None:
    """Make one environment anew. Its stamp comes last, so a half-built one never passes for finished."""
    started = time.monotonic()
    lock = environment.lock(variant)
    pins = [line for line in lock.read_text().splitlines() if line[:1].isalnum()]
    name = environment.folder.name
    say(
        f"{name}: installing {len(pins)} packages from {lock.relative_to(ROOT)} (some minutes the first time)"
    )
    if environment.folder.exists():
        environment.stamp.unlink(missing_ok=True)
        shutil.rmtree(environment.folder)
    check_call(name, [base_python(), "-m", "venv", str(environment.folder)])
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # Compiling all 670 MB of source costs more than a minute of two cores; a run uses a fifth of it.
    install = [*pip, "install", "--quiet", "--progress-bar=off", "--no-deps", "--no-compile"]
    check_call(name, [*install, *torch_source(pip, pins), "-r", str(lock)])
    if environment.has_assay:
        check_call(name, [*install, "--no-build-isolation", "--editable", str(ROOT)])
    copy_modules(environment)
    if (
        variant == "cpu"
    ):  # on a cluster's head, which has no GPU, some libraries for GPUs cannot be imported
        check_call(name, [str(environment.python), "-c", environment.imports])
    environment.stamp.write_text(environment.wanted_stamp(variant))
    say(f"{name}: ready after {time.monotonic() - started:.0f} s")


def copy_modules(environment: Environment) -> None:
    """Put the environment's Python files into it, where they are not there as they are now. Each comes whole: an engine
    may be importing it."""
    packages = environment.folder / "lib" / "python3.11" / "site-packages"
    for module, name in environment.modules:
        target = packages / name
        if not target.exists() or target.read_bytes() != module.read_bytes():
            draft = packages / f".{name}.{os.getpid()}"
            shutil.copy(module, draft)
            draft.replace(target)


def base_python() -> str:
    """The interpreter behind any virtual environment that this script may itself be running in."""
    found = Path(sys.base_prefix) / "bin" / "python3.11"
    return str(found) if found.exists() else sys.executable


def torch_source(pip: list[str], pins: list[str]) -> list[str]:
    """Options with which pip finds a CPU build of torch: none where pip's own configuration has one."""
    torch = next((pin for pin in pins if pin.startswith("torch==") and pin.endswith("+cpu")), None)
    if torch is None:
        return []
    ask = [*pip, "install", "--quiet", "--dry-run", "--no-deps", torch]
    known = (
        subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
        == 0
    )
    return [] if known else ["--extra-index-url", PYTORCH_CPU_INDEX]


def check_call(name: str, command: list[str]) -> None:
    """Run a command quietly; when it fails, show the end of what it said."""
    env = {key: value for key, value in os.environ.items() if key not in IGNORED_VARIABLES}
    env["PATH"] = f"{Path(command[0]).parent}{os.pathsep}{env.get('PATH', '')}"  # where ninja is
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-20:])
        raise SetupError(
            f"{name}: this failed with code {done.returncode}: {' '.join(command)}\n{said}"
        )


def say(line: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"setup: {line}\n")  # in one piece: two environments report at once
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
