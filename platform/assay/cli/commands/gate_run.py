"""`assay gate run`: a model that was made elsewhere, evaluated and decided."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from assay.cli.commands.report import write_html
from assay.cli.local import ensure_place
from assay.cli.terminal import display, tables
from assay.cli.terminal.echo import echo
from assay.errors import UsageError
from assay.flow.evaluation import standalone
from assay.loader.load import load_suites
from assay.loader.references import model_fault
from assay.records.evaluation import EvaluationRequest, ModelRef
from assay.records.gate import Outcome
from assay.reporting.document import report
from assay.settings import Settings
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec

WORST_FIRST: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE", "PASS")


def evaluate(
    candidate: ModelRef,
    base: ModelRef | None,
    suites: Sequence[str],
    *,
    settings: Settings,
    engine: Sequence[str] = (),
    num_concurrent: int | None,
    num_replicas: int = 1,
    api_key: str,
    html_file: Path | None,
    as_json: bool,
) -> Outcome:
    """Evaluates by each suite, shows the scorecards in the forms that were asked for, and returns
    the worst verdict."""
    engine_options = engine_settings(engine)
    requests = [
        EvaluationRequest(candidate=candidate, base=base, suite=(suite,), engine=engine_options)
        for suite in dict.fromkeys(suites)
    ]
    found = _evaluated(
        requests,
        settings,
        num_concurrent=num_concurrent,
        num_replicas=num_replicas,
        api_key=api_key,
        to_stderr=as_json,
    )
    documents = [report(evaluated.name, settings=settings) for evaluated in found]
    if html_file:
        files = _files(html_file, [request.suite[0] for request in requests])
    else:
        files = []
    for document, file in zip(documents, files, strict=False):
        write_html(document, file)
    if as_json:
        said = [document.model_dump_json() for document in documents]
        echo(said[0] if len(said) == 1 else f"[{','.join(said)}]")
    else:
        for evaluated, document in zip(found, documents, strict=True):
            tables.print_scorecard(evaluated.name, document.scorecard, document.selftest)
            if not evaluated.num_stages_run:
                echo(f"{evaluated.name}: nothing has changed, so nothing was asked")
        for file in files:
            echo(f"wrote {file}")
    return min((document.scorecard.outcome for document in documents), key=WORST_FIRST.index)


def evaluate_quietly(
    candidate: ModelRef,
    base: ModelRef | None,
    suites: Sequence[str],
    settings: Settings,
    num_concurrent: int | None,
) -> str:
    """Evaluates by all suites as one, without showing a scorecard; returns the evaluation's
    name."""
    request = EvaluationRequest(candidate=candidate, base=base, suite=tuple(suites), engine={})
    (found,) = _evaluated(
        [request], settings, num_concurrent=num_concurrent, api_key="none", to_stderr=True
    )
    return found.name


def _evaluated(
    requests: Sequence[EvaluationRequest],
    settings: Settings,
    *,
    num_concurrent: int | None,
    num_replicas: int = 1,
    api_key: str,
    to_stderr: bool,
) -> tuple[standalone.Evaluated, ...]:
    suites = [load_suites(request.suite) for request in requests]
    for named in (requests[0].candidate, requests[0].base):
        check_source(named)
    with display.watching(to_stderr=to_stderr) as watcher:
        return standalone.run(
            requests,
            suites,
            root=Path.cwd(),
            settings=settings,
            watcher=watcher,
            before_work=lambda: ensure_place(settings),
            api_key=api_key,
            num_concurrent=num_concurrent,
            num_replicas=num_replicas,
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
    pairs = [pair.partition("=") for pair in said]
    if wrong := [pair[0] for pair in pairs if not pair[1]]:
        raise UsageError(f"--engine takes KEY=VALUE, not {wrong[0]}")
    wanted = {key.strip(): yaml.safe_load(value) for key, _, value in pairs}
    try:
        return EngineSpec.model_validate(wanted).model_dump(include=set(wanted))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--engine {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
