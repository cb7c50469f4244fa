"""`assay submit`, and `--address`: the same commands as jobs on a Ray cluster."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from assay.cli.terminal.echo import echo
from assay.engines.cluster import jobs
from assay.engines.cluster.passed_on import passed_on
from assay.errors import ExitCode, PlaceError
from assay.flow.pipeline.keys import run_id
from assay.flow.place.identity import given_token
from assay.loader.compose import places_named
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.store.tokens import sign_act


@dataclass(frozen=True)
class _Job:
    """A command that a cluster is to run."""

    name: str
    arguments: list[str]
    """What follows `assay`."""
    folder: Path
    """What it takes along; gone when it was sent."""
    env: dict[str, str]


def submit_spec(
    path: Path,
    spec: Spec,
    suite: SuiteSpec,
    *,
    settings: Settings,
    address: str | None,
    follow: bool,
) -> int:
    """Hands a run to a cluster; returns the run's own exit code, or 0 at once when nobody
    follows."""
    folder = jobs.pack(_resolved(spec), Path.cwd(), _needed(spec))
    name = run_id(spec, suite, Path.cwd())
    echo(f"submitting {path} as run {name}", err=True)
    places = {variable: os.environ[variable] for variable in places_named(spec)}
    arguments = ["run", jobs.RESOLVED_SPEC]
    env = places | _signed(settings, arguments, name)
    # With a random end: the same run may be submitted again, and Ray takes each id once.
    job = _Job(f"{name}-{secrets.token_hex(3)}", arguments, folder, env)
    return _submit(job, settings, address or settings.dashboard_url, follow=follow)


def submit_command(arguments: list[str], *, settings: Settings, address: str) -> int:
    """Runs `assay ARGUMENTS` on a cluster's head; returns its exit code."""
    folder = jobs.pack("", Path.cwd(), [])
    env = _signed(settings, arguments, "")
    job = _Job(f"assay-{arguments[0]}-{secrets.token_hex(3)}", arguments, folder, env)
    return _submit(job, settings, address, follow=True)


def _signed(settings: Settings, arguments: list[str], about: str) -> dict[str, str]:
    """The command, signed with the token of who works here: the token itself stays here, for Ray
    shows a job's environment to whoever may see the job."""
    token = given_token(settings)
    if not token:
        return {}
    return {"ASSAY_ACT": sign_act(token, arguments, about).model_dump_json()}


def _submit(job: _Job, settings: Settings, where: str, *, follow: bool) -> int:
    if not os.environ.get("RAY_AUTH_MODE") and settings.token_path.is_file():
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(settings.token_path)
    env = {
        **passed_on(),
        **job.env,
        "ASSAY_USER": settings.user,
        # A job's output is a file there: Python would keep lines back, and rich would guess 80.
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
    }
    try:
        jobs.submit(
            where,
            entrypoint=["python", "-m", "assay.cli.main", *job.arguments],
            working_dir=job.folder,
            env=env,
            submission_id=job.name,
        )
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    if not follow:
        echo(f"job {job.name} at {where}; `ray job logs -f {job.name}` follows it")
        return ExitCode.DONE
    output = jobs.OwnOutput(lambda text: echo(text, nl=False))
    try:
        outcome = jobs.follow(where, job.name, output)
    except KeyboardInterrupt:
        jobs.stop(where, job.name)
        raise
    finally:
        output.close()
    if outcome.exit_code is None:
        raise PlaceError(f"job {job.name} ended as {outcome.status}: {outcome.message}")
    return outcome.exit_code


def _resolved(spec: Spec) -> str:
    """The whole spec, defaults included, as JSON, which is YAML."""
    return spec.model_dump_json(indent=1)


def _needed(spec: Spec) -> list[Path]:
    """Every file and folder under the working folder that the spec names."""
    from assay.loader.named.globs import matching_files

    root = Path.cwd()
    patterns = [pattern for data in spec.all_data for pattern in data.patterns]
    for train in spec.train_steps:
        if train.ewc:
            for pattern in train.ewc.data:
                patterns.append(pattern)
    needed = [file for pattern in patterns for file in matching_files(pattern, root)]
    for suite in map(Path, spec.gate.suite):
        for path in (suite, suite.with_suffix("")):
            needed.append(path)
    if spec.model.kind == "folder" and not Path(spec.model.source).is_absolute():
        needed.append(Path(spec.model.source))
    return needed
