"""`assay plan`: what a run would do, found out without creating or starting anything.

Whatever cannot be found out (no ledger, no cluster, an unknown model) is left open and said;
nothing fails for it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay.engines.cluster import nodes as ray_nodes
from assay.engines.cluster.cpu_features import computes_in_bf16
from assay.engines.models import folders
from assay.engines.models import shape as model_shape
from assay.errors import AssayError, PlaceError, UsageError
from assay.flow.pipeline.attempts import MAKE_CANDIDATES, check_attempts_left
from assay.flow.pipeline.context import RunContext, numbered
from assay.flow.pipeline.judging import check_judge
from assay.flow.pipeline.keys import run_id
from assay.flow.planning.chats import chat_notes
from assay.flow.planning.data import data_plans
from assay.flow.planning.limits import limit_plans
from assay.flow.planning.stages import stage_plans
from assay.flow.planning.time import Amounts, waves, with_times
from assay.loader.cluster import ClusterSpec
from assay.records.holding import Holding
from assay.records.inputs import Pending
from assay.records.plan import (
    Cluster,
    DataPlan,
    Device,
    LimitPlan,
    ModelShape,
    Need,
    Node,
    Plan,
    PowerPlan,
    StagePlan,
    TrainingPlan,
)
from assay.records.stages import ModelRecord
from assay.rules.planning.compression import WEIGHT_BYTES, engine_notes, group_fault
from assay.rules.planning.fit import (
    TrainedModel,
    gpus_of,
    loading_need,
    serving_need,
    training_need,
    waiting,
)
from assay.rules.planning.memory import (
    GIB,
    MERGING_BYTES,
    compressing_memory,
    loaded_memory,
)
from assay.rules.planning.power import POWER
from assay.rules.planning.weights import Precision
from assay.rules.planning.workload import training_plan
from assay.settings import Settings
from assay.spec.compress import GgufType, Scheme
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

# Weights from which on a plan says what disk the artifacts take.
LARGE = 10_000_000_000


def plan(
    spec: Spec, suite: SuiteSpec, *, root: Path, settings: Settings, cluster: Cluster | None
) -> Plan:
    """The whole plan. `cluster` is one that was described; without it a running one is asked, or
    this machine."""
    notes: list[str] = []
    ledger = existing_ledger(settings, notes)
    is_described, cluster = cluster is not None, cluster or _cluster(settings, notes)
    context = RunContext(spec, suite, root, settings, ledger.champion() if ledger else None)
    # Twice: the first time fills the records that stand, of which what blocks a stage is made.
    first = stage_plans(context, ledger, {})
    shape = _shape(spec, context, root)
    held = _held(settings, ledger) if not is_described else ()
    data = data_plans(context, shape.vocab_size if shape else None, notes)
    notes += chat_notes(context, root)
    notes += [note for is_refused, note in _engine_notes(spec, cluster) if not is_refused]
    needs = []
    for need in _needs(spec, shape, data, cluster):
        if need.stage in {plan.stage for plan in first}:
            needs.append(waiting(need, cluster, held))
    if not is_described and any(need.fits is False for need in needs):
        notes.append(
            "the nodes that are up now were counted; --cluster FILE plans for what an autoscaler "
            "could add"
        )
    if shape is not None and shape.num_parameters >= LARGE:
        notes.append(_disk_words(spec, shape))
    blocks = dict(_blocks(context, shape, needs, ledger, cluster, is_described=is_described))
    stages = stage_plans(context, ledger, blocks) if blocks else first
    limits = tuple(limit_plans(suite, root, data[0]))
    if suite.underpowered == "refuse" and any("can never" in limit.note for limit in limits):
        notes.append(
            "`assay run` refuses limits that can never be met, unless the suite says "
            "`underpowered: allow`"
        )
    training: list[TrainingPlan | None] = []
    for train, its_data in zip(spec.train_steps, data, strict=True):
        training.append(training_plan(train, its_data) if its_data else None)
    amounts = _amounts(spec, data[0], training, limits, cluster)
    stages = with_times(stages, spec, amounts, ledger)
    seconds, unknown = _total(stages)
    cost = None
    if seconds is not None and settings.cost_per_hour:
        cost = seconds / 3600 * settings.cost_per_hour
    return Plan(
        run=run_id(spec, suite, root),
        stages=tuple(stages),
        model=shape,
        data=tuple(data),
        training=tuple(training),
        cluster=cluster,
        needs=tuple(needs),
        held=held,
        seconds=seconds,
        seconds_unknown=unknown,
        cost=cost,
        gate=PowerPlan(confidence=suite.confidence, power=POWER, limits=limits),
        notes=tuple(notes),
    )


def _disk_words(spec: Spec, shape: ModelShape) -> str:
    """What the artifacts take, each of which is kept: the base and the merged model in bf16, and
    the quantized one."""
    whole = 2 * shape.num_parameters
    sizes = {"base": whole, "merged": whole}
    if spec.compress.recipe:
        sizes["compressed"] = int(WEIGHT_BYTES[spec.compress.served] * shape.num_parameters)
    shown = ", ".join(f"{name} {size / GIB:.0f}" for name, size in sizes.items())
    return (
        f"artifacts take about {sum(sizes.values()) / GIB:.0f} GiB of disk in ASSAY_HOME ({shown})"
    )


def described(cluster: ClusterSpec, source: str) -> Cluster:
    """A cluster from its description."""
    nodes = []
    for node in cluster.nodes:
        gpu_memory = int(node.gpu_memory_gb * GIB) if node.gpu_memory_gb else None
        described_node = Node(
            count=node.count,
            cpus=node.cpus,
            gpus=node.gpus,
            gpu_memory=gpu_memory,
            memory=int(node.memory_gb * GIB),
        )
        nodes.append(described_node)
    return Cluster(source=source, nodes=tuple(nodes))


def existing_ledger(settings: Settings, notes: list[str]) -> "Ledger | None":
    """The ledger, if there is one that can be read; its library is not even imported where there is
    none."""
    file = settings.ledger_url.removeprefix("sqlite:///")
    if file != settings.ledger_url and not Path(file).is_file():
        return None
    from assay.store.ledger import Ledger

    try:
        return Ledger(settings.ledger_url)
    except AssayError as error:
        notes.append(f"planned without a ledger: {error}")
        return None


def _cluster(settings: Settings, notes: list[str]) -> Cluster | None:
    """What is there now: the running cluster, or this machine, on which `assay run` would start
    one."""
    # A cluster that refuses is not one that is not there: what fits is then unknown.
    try:
        running = ray_nodes.running_cluster(settings.dashboard_url, settings.ray_token())
    except PlaceError as error:
        notes.append(f"{error}, so that what fits is unknown")
        return None
    if running is not None or settings.ray_address:
        return running
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = ray_nodes.num_local_gpus()
    here = Node(count=1, cpus=settings.num_cpus, gpus=gpus, gpu_memory=None, memory=memory)
    return Cluster(source="this machine; no cluster is running", nodes=(here,))


def _held(settings: Settings, ledger: "Ledger | None") -> tuple[Holding, ...]:
    """What the slots of the running cluster hold; nothing where none runs."""
    if ledger is None:
        return ()
    from assay.flow.resources.holdings import holdings

    try:
        return tuple(holdings(settings, ledger))
    except PlaceError:
        return ()


def _shape(spec: Spec, context: RunContext, root: Path) -> ModelShape | None:
    """The base model's dimensions, from wherever they can be had without a network."""
    fetched = context.records.get("fetch")
    if isinstance(fetched, ModelRecord):
        found = model_shape.from_folder(Path(fetched.artifact.path))
        if found is not None:
            return found
    if spec.model.kind == "hf":
        return model_shape.known(spec.model.name)
    path = (root / spec.model.source).expanduser()
    if spec.model.kind == "package":
        try:
            path = folders.packaged_file(spec.model)
        except AssayError:
            return None
    if path.suffix == ".gguf":
        return model_shape.from_gguf(path)
    return model_shape.from_folder(path)


def _needs(
    spec: Spec, shape: ModelShape | None, data: Sequence[DataPlan | None], cluster: Cluster | None
) -> Iterator[Need]:
    def training(
        stage: str, train: TrainSpec, its_data: DataPlan | None, driver_cpus: float
    ) -> Need:
        return training_need(
            stage,
            train,
            TrainedModel(shape, lambda device: _precision(train, device)),
            data=its_data,
            cluster=cluster,
            driver_cpus=driver_cpus,
        )

    def serving(stage: str, scheme: Scheme | GgufType) -> Need:
        count = spec.serve.replicas.min
        return serving_need(
            stage, spec.serve, shape=shape, scheme=scheme, num_replicas=count, cluster=cluster
        )

    if spec.sweep is not None:
        yield training("sweep", _trial(spec), data[0], 1.0)
    for index, train in enumerate(spec.train_steps):
        yield training(numbered("train", index), train, data[index], 0.0)
        if train.method.is_adapter and train.objective.generates:
            what = "an adapter is added in fp32"
            if shape:
                merging = loaded_memory(shape, MERGING_BYTES, what)
            else:
                merging = None
            yield loading_need(numbered("merge", index), merging, cluster)
    if spec.compress.recipe:
        if shape:
            compressing = compressing_memory(spec.compress, shape)
        else:
            compressing = None
        yield loading_need("compress", compressing, cluster)
    yield serving("baseline", "none")
    yield serving("deploy", spec.compress.served)


def _trial(spec: Spec) -> TrainSpec:
    """A sweep's trial; its learning rate needs nothing."""
    assert spec.sweep is not None
    said = spec.sweep.model_dump(
        include={"max_steps", "num_epochs", "num_workers"}, exclude_none=True
    )
    return TrainSpec.model_validate({**spec.train_steps[0].model_dump(), **said})


def _precision(train: TrainSpec, device: Device) -> Precision:
    """What `auto` comes to; other machines' processors are taken for ones like this machine's."""
    if train.precision != "auto":
        return train.precision
    if device == "GPU" or computes_in_bf16():
        return "bf16"
    return "fp32"


def _blocks(
    context: RunContext,
    shape: ModelShape | None,
    needs: Sequence[Need],
    ledger: "Ledger | None",
    cluster: Cluster | None,
    *,
    is_described: bool,
) -> Iterator[tuple[str, str]]:
    """(stage, what keeps it from being run)."""
    spec = context.spec
    for need in needs:
        if need.fits is False:
            yield need.stage, need.advice
    if not context.settings.engine_python and not is_described:
        engine = "the engine's environment is missing: run `make setup`, or set ASSAY_ENGINE_PYTHON"
        for stage in ("baseline", "champion", "deploy"):
            yield stage, engine
    if reason := _spent(context, ledger) or _untrusted(context, ledger):
        yield MAKE_CANDIDATES[0] if spec.sweep else MAKE_CANDIDATES[1], reason
    if shape is None:
        return
    for index, train in enumerate(spec.train_steps):
        stage, low_rank = numbered("train", index), train.method.low_rank
        layers = low_rank.layer_indices() if low_rank else None
        if layers and layers[-1] >= shape.num_layers:
            yield (
                stage,
                f"method.layers names layer {layers[-1]}; the model has layers 0 to "
                f"{shape.num_layers - 1}",
            )
        elif train.max_length > shape.context_length > 0:
            yield (
                stage,
                f"max_length {train.max_length} is beyond the model's {shape.context_length} "
                "tokens",
            )
    for is_refused, note in _engine_notes(spec, cluster):
        if is_refused:
            yield "compress", note
    fault = group_fault(spec.compress, shape)
    if fault is not None:
        yield "compress", f"{fault[0]}; {fault[1]}"


def _engine_notes(spec: Spec, cluster: Cluster | None) -> list[tuple[bool, str]]:
    """What the engine on the cluster's devices does with the recipe; nothing where they are
    unknown."""
    if cluster is None:
        return []
    return list(engine_notes(spec.compress, "GPU" if cluster.gpus else "CPU"))


def _spent(context: RunContext, ledger: "Ledger | None") -> str:
    """Why no other candidate may be evaluated, if the suite's attempts are used up."""
    if ledger is None or context.suite.attempts is None:
        return ""
    if any(isinstance(task, Pending) for task in context.tasks):  # the sealed split
        return ""
    try:
        check_attempts_left(context.suite, context.tasks, ledger)
    except UsageError as error:
        return str(error)
    return ""


def _untrusted(context: RunContext, ledger: "Ledger | None") -> str:
    """Why nothing can rest on the suite's judge, if limits do."""
    try:
        check_judge(context.suite, context.root, ledger)
    except UsageError as error:
        return str(error)
    return ""


def _amounts(
    spec: Spec,
    data: DataPlan | None,
    training: Sequence[TrainingPlan | None],
    limits: tuple[LimitPlan, ...],
    cluster: Cluster | None,
) -> Amounts:
    by_task = {limit.task: limit.num_items for limit in limits}
    known = [count for count in by_task.values() if count is not None]
    num_waves = 1
    if spec.sweep is not None and cluster is not None:
        trial = _trial(spec)
        gpus = gpus_of(trial, cluster)
        if gpus:
            slots = cluster.gpus / gpus
        else:
            slots = (cluster.cpus / (1 + trial.num_workers * trial.worker.cpus)) * trial.num_workers
        num_waves = waves(spec.sweep.num_trials, int(slots), trial.num_workers)
    return Amounts(
        training=tuple(training),
        trial=training_plan(_trial(spec), data) if spec.sweep and data else None,
        num_waves=num_waves,
        num_items=sum(known) if len(known) == len(by_task) else None,
    )


def _total(stages: list[StagePlan]) -> tuple[float | None, tuple[str, ...]]:
    """Seconds of the stages that would run, as far as known, and those whose time is unknown."""
    ahead = [stage for stage in stages if stage.action != "cached"]
    known = [stage.seconds for stage in ahead if stage.seconds is not None]
    unknown = tuple(stage.stage for stage in ahead if stage.seconds is None)
    return (sum(known) if known or not ahead else None), unknown
