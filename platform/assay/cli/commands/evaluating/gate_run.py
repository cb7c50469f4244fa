"""`assay gate run`: a model that was made elsewhere, evaluated and decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from assay import secrets_file
from assay.cli.commands.report import write_html
from assay.cli.local import ensure_place
from assay.cli.terminal import display, tables
from assay.cli.terminal.echo import echo
from assay.errors import UsageError
from assay.flow.evaluation import standalone
from assay.flow.evaluation.answers import EvalOptions
from assay.loader.load import load_suites
from assay.loader.references import model_fault
from assay.records.evaluations.evaluation import EvaluationRequest, ModelRef
from assay.records.gate import Outcome
from assay.reporting.document import report
from assay.settings import Settings
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec, ReplicasSpec, ServeSpec

WORST_FIRST: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """`assay gate run` as it was typed."""

    suites: tuple[str, ...]
    artifact: str | None
    url: str | None
    model: str
    revision: str
    api_key_env: str | None
    base: str | None
    engine: tuple[str, ...]
    num_concurrent: int | None
    num_replicas: int
    html_file: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        if (self.artifact is None) == (self.url is None):
            raise UsageError("name the model by --artifact or by --url")
        if self.artifact is not None and (self.model or self.revision or self.api_key_env):
            raise UsageError("--model, --revision and --api-key-env go with --url")
        if self.url is not None and self.num_replicas > 1:
            raise UsageError(
                "--replicas goes with --artifact; how many engines stand behind a URL is its "
                "owner's affair"
            )

    def requests(self) -> list[EvaluationRequest]:
        """One evaluation for each suite."""
        candidate = subject(self.artifact or self.url or "", self.model, self.revision)
        base = subject(self.base, self.model, self.revision) if self.base else None
        engine = engine_settings(self.engine)
        requests = []
        for suite in dict.fromkeys(self.suites):
            request = EvaluationRequest(
                candidate=candidate, base=base, suite=(suite,), engine=engine
            )
            requests.append(request)
        return requests


def subject(text: str, model: str = "", revision: str = "") -> ModelRef:
    """A model as it stands on the command line: a URL, or what a spec's `model.source` takes."""
    if text.startswith(("http://", "https://")):
        return ModelRef(url=text.rstrip("/"), model=model, revision=revision)
    is_folder = not text.startswith(("hf:", "package:"))
    return ModelRef(source=str(Path(text).expanduser().absolute()) if is_folder else text)


def api_key(variable: str | None) -> str:
    """The key that the named environment variable holds. Raises `UsageError` when it holds none."""
    if variable is None:
        return "none"
    key = secrets_file.value(variable)
    if not key:
        raise UsageError(
            f"neither the environment nor the place's secrets have {variable}, which --api-key-env "
            "names"
        )
    return key


def evaluate(typed: GateRun, settings: Settings) -> Outcome:
    """Evaluates by each suite, shows the scorecards in the forms that were asked for, and returns
    the worst verdict."""
    requests = typed.requests()
    key = api_key(typed.api_key_env)
    options = _options(requests[0], typed.num_concurrent, typed.num_replicas, key)
    found = _evaluated(requests, settings, options, to_stderr=typed.as_json)
    documents = [report(evaluated.name, settings=settings) for evaluated in found]
    files = []
    if typed.html_file:
        files = _files(typed.html_file, [request.suite[0] for request in requests])
    for document, file in zip(documents, files, strict=False):
        write_html(document, file)
    if typed.as_json:
        texts = [document.model_dump_json() for document in documents]
        echo(texts[0] if len(texts) == 1 else f"[{','.join(texts)}]")
    else:
        for evaluated, document in zip(found, documents, strict=True):
            tables.print_scorecard(evaluated.name, document.scorecard, document.selftest)
            if not evaluated.num_stages_run:
                echo(f"{evaluated.name}: nothing has changed, so nothing was asked")
        for file in files:
            echo(f"wrote {file}")
    outcomes = [document.scorecard.outcome for document in documents]
    return min(outcomes, key=WORST_FIRST.index)


def evaluate_quietly(
    artifact: str,
    base: str | None,
    suites: Sequence[str],
    settings: Settings,
    num_concurrent: int | None,
) -> str:
    """Evaluates by all suites as one, without showing a scorecard; returns the evaluation's
    name."""
    other = subject(base) if base else None
    request = EvaluationRequest(
        candidate=subject(artifact), base=other, suite=tuple(suites), engine={}
    )
    options = _options(request, num_concurrent)
    (found,) = _evaluated([request], settings, options, to_stderr=True)
    return found.name


def _options(
    request: EvaluationRequest,
    num_concurrent: int | None,
    num_replicas: int = 1,
    api_key: str = "none",
) -> EvalOptions:
    replicas = ReplicasSpec(min=num_replicas, max=num_replicas)
    serve = ServeSpec(engine=EngineSpec.model_validate(request.engine), replicas=replicas)
    return EvalOptions(serve, num_concurrent, api_key)


def _evaluated(
    requests: Sequence[EvaluationRequest],
    settings: Settings,
    options: EvalOptions,
    *,
    to_stderr: bool,
) -> tuple[standalone.Evaluated, ...]:
    suites = [load_suites(request.suite) for request in requests]
    for named in (requests[0].candidate, requests[0].base):
        check_source(named)
    with display.watching(to_stderr=to_stderr) as watcher:
        return standalone.run(
            list(zip(requests, suites, strict=True)),
            options,
            root=Path.cwd(),
            settings=settings,
            watcher=watcher,
            before_work=lambda: ensure_place(settings),
        )


def _files(file: Path, suites: Sequence[str]) -> list[Path]:
    """The file; of several suites one for each, with the suite's name in its own."""
    if len(suites) == 1:
        return [file]
    return [file.with_name(f"{file.stem}-{Path(suite).stem}{file.suffix}") for suite in suites]


def check_source(subject: ModelRef | None) -> None:
    """Raises `UsageError` when the model is not there."""
    if subject is None or subject.url:
        return
    try:
        found = model_fault(ModelSpec(source=subject.source), Path.cwd())
    except ValidationError as error:
        raise UsageError(str(error.errors()[0]["msg"])) from error
    if found:
        raise UsageError(": ".join(text for text in found if text))


def engine_settings(said: Sequence[str]) -> dict[str, str | int | float | bool]:
    """`KEY=VALUE` pairs as the settings of `serve.engine`. Raises `UsageError` for one that it does
    not take."""
    wanted = {}
    for pair in said:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--engine takes KEY=VALUE, not {key}")
        wanted[key.strip()] = yaml.safe_load(value)
    try:
        return EngineSpec.model_validate(wanted).model_dump(include=set(wanted))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--engine {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
