"""Running a spec: stage after stage, each of which is skipped when its record stands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from assay import __version__
from assay.engines.cluster import tasks
from assay.errors import UsageError
from assay.flow.pipeline.attempts import MAKE_CANDIDATES, check_attempts_left
from assay.flow.pipeline.context import RunContext
from assay.flow.pipeline.engines import stop_unasked
from assay.flow.pipeline.executor import StageExecutor, Watcher
from assay.flow.pipeline.graph import Stage, stages_of
from assay.flow.pipeline.judging import check_judge
from assay.flow.pipeline.keys import run_id
from assay.flow.pipeline.log import logger, run_log
from assay.flow.place.attention import News, tell
from assay.flow.place.book import read_place
from assay.flow.place.identity import act
from assay.flow.place.run_lock import only_one
from assay.flow.resources.collecting import trim_cache
from assay.flow.resources.giving_back import free_needless
from assay.flow.resources.holdings import KEEP
from assay.loader.compose import variables_named
from assay.records.gate import GateRecord
from assay.rules.release.policy import limit_faults, spec_faults
from assay.settings import Settings
from assay.spec.gate import SuiteSpec
from assay.spec.place.policy import PolicySpec
from assay.spec.spec import Spec
from assay.store.ledger import Ledger


@dataclass(frozen=True)
class RunOutcome:
    """A run that went as far as the gate."""

    run: str
    gate: GateRecord
    num_stages_run: int
    """0 when every record stood already."""


@dataclass(frozen=True)
class RunRequest:
    """What somebody asks to be run."""

    spec: Spec
    suite: SuiteSpec
    root: Path
    """Folder to which the spec's paths are relative."""
    keep: bool = False
    """Whether the candidate's engine stays, whatever the verdict is."""


def run(
    request: RunRequest,
    *,
    settings: Settings,
    watcher: Watcher,
    before_work: Callable[[], None],
) -> RunOutcome:
    """Takes the spec as far as the gate's verdict. What stands in the ledger with intact artifacts
    is not done again; `before_work` is called once, before the first stage that is. A candidate
    that does not pass gives its slot back at once, unless it is to be kept. Raises
    `UsageError` before anything starts when the cluster cannot hold the run, no other candidate may
    be evaluated with the suite's items, or limits rest on a judge that was not measured, and
    `StageFailed` when a stage stops; the finished ones are kept."""
    spec, suite, root = request.spec, request.suite, request.root
    ledger = Ledger(settings.ledger_url)
    name = run_id(spec, suite, root)
    actor = act(settings, ledger, "run", about=name)
    _check_policy(read_place(settings, ledger).policy, spec, suite)
    check_judge(suite, root, ledger)

    def prepare() -> None:
        before_work()
        free_needless(settings, say=logger.info)
        trim_cache(settings, ledger)
        _check_cluster(spec, settings)

    folder = settings.run_folder(name)
    with only_one(folder, name), run_log(folder):
        logger.info("run %s by %s, assay %s", name, actor.name, __version__)
        ledger.open_run(name, name=spec.name, spec=spec.model_dump_json(), started_by=actor.name)
        context = RunContext(spec, suite, root, settings, ledger.champion())
        executor = StageExecutor(name, settings, root, ledger, watcher, prepare)
        try:
            for stage in stages_of(context):
                check = partial(_check_attempts, stage, context, ledger)
                context.records[stage.name] = executor.record(stage, first=check)
        except Exception as error:
            tell(News("failed", name, str(error)), settings)
            raise
        finally:
            # Also after an error: an engine that nobody asks would hold the memory.
            stop_unasked(context)
        verdict = context.record("gate", GateRecord)
        if request.keep:
            (folder / KEEP).touch()
    if executor.num_run:
        tell_verdict(name, verdict, settings)
        free_needless(settings, say=logger.info)
    return RunOutcome(name, verdict, executor.num_run)


def tell_verdict(name: str, verdict: GateRecord, settings: Settings) -> None:
    """Tells people that a run waits for them, or has not come so far."""
    outcome = verdict.scorecard.outcome
    if outcome == "PASS":
        tell(News("waiting", name), settings)
    else:
        tell(News("failed", name, f"the gate's verdict is {outcome}"), settings)


def _check_policy(policy: PolicySpec, spec: Spec, suite: SuiteSpec) -> None:
    """Refuses what the place's policy would refuse at the end, whoever has checked the spec."""
    faults = [*spec_faults(policy, spec, variables_named(spec))]
    faults += limit_faults(policy, suite.limits)
    if faults:
        raise UsageError("; ".join(fault.message for fault in faults))


def _check_attempts(stage: Stage[Any], context: RunContext, ledger: Ledger) -> None:
    """Refuses to make a candidate that the gate would refuse."""
    if stage.name.partition("-")[0] in MAKE_CANDIDATES:
        check_attempts_left(context.suite, context.tasks, ledger)


def _check_cluster(spec: Spec, settings: Settings) -> None:
    """Connects, and refuses a run that the cluster could never hold."""
    tasks.connect(settings.cluster_address)
    size = tasks.size()
    train = max(spec.train_steps, key=lambda one: one.num_workers * one.worker.cpus)
    cpus = train.num_workers * train.worker.cpus + (1 if spec.sweep else 0)
    gpus = max(one.num_workers * (one.worker.gpus or 0) for one in spec.train_steps)
    if cpus > size.cpus or gpus > size.gpus:
        raise UsageError(
            f"the spec asks for {train.num_workers} workers, together {cpus:g} CPUs and {gpus:g} "
            "GPUs; the cluster "
            f"has {size.cpus:g} CPUs and {size.gpus:g} GPUs on {size.nodes} nodes. Lower "
            "train.num_workers, or "
            "use a larger cluster"
        )
