"""What a run would do, reuse, need, cost and be able to show: the plan, found out without doing any
of it."""

from typing import Literal

from assay.records.holding import Holding
from assay.records.record import Record

Action = Literal["cached", "run", "blocked"]
Device = Literal["CPU", "GPU"]


class ModelShape(Record):
    """A dense decoder's dimensions, as its `config.json` names them."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    """Whether the output head is the embedding."""
    num_parameters: int
    context_length: int
    """Longest sequence the model was made for, in tokens; 0 when nobody says."""
    source: str
    """Where these figures are from."""
    norms_queries: bool = False
    """Whether queries and keys are normalized, as in Qwen3 and Gemma 3."""


class StagePlan(Record):
    """What a run would do at one stage."""

    stage: str
    action: Action
    because: tuple[str, ...] = ()
    """What has changed, or what is in the way."""
    made_by: str = ""
    """For `cached`: the run whose record stands."""
    seconds: float | None = None
    """For `cached`: how long it took then. For `run`: how long it will take; None when unknown."""
    seconds_from: str = ""
    """What the estimate rests on."""


class MemoryPart(Record):
    """One part of a process's memory."""

    name: str
    size: int
    """Bytes."""
    formula: str
    """How it is found, with the formula's source."""


class MemoryEstimate(Record):
    """The memory of one process at its highest: a training worker, or an engine replica."""

    device: Device
    parts: tuple[MemoryPart, ...]
    host_parts: tuple[MemoryPart, ...] = ()
    """What is offloaded from the GPU into the node's memory."""

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(part.size for part in self.parts)

    @property
    def host_total(self) -> int:
        """Bytes in the node's memory beside a GPU."""
        return sum(part.size for part in self.host_parts)


class Need(Record):
    """What one stage wants of the cluster, and whether it is there."""

    stage: str
    num_workers: int
    """Processes at once: training workers, trials' workers, or engine replicas."""
    cpus: float
    """Of each."""
    gpus: float
    """Of each."""
    memory: MemoryEstimate | None
    """Of each; None when the model's dimensions are unknown."""
    at_longest: int | None = None
    """For training: bytes on the device if every example had `max_length` tokens, all of which bear
    loss."""
    available: int | None = None
    """Bytes that the device of each has; None when the cluster is unknown."""
    fits: bool | None = None
    """None when the cluster, or what is needed of it, is unknown."""
    waits_for: str = ""
    """Who holds what it would have to wait for now; empty where there is room, or where that is not
    known."""
    advice: str = ""
    """When it does not fit: what is short, and the shape that would fit."""


class Node(Record):
    """So many equal nodes of a cluster."""

    count: int
    cpus: float
    gpus: float
    gpu_memory: int | None
    """Bytes of each GPU."""
    memory: int | None
    """Bytes."""


class Cluster(Record):
    """What there is to work on."""

    source: str
    """Where this is known from."""
    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """Of all nodes."""
        return sum(node.count * node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(node.count * node.gpus for node in self.nodes)


class DataPlan(Record):
    """The training split."""

    num_examples: int
    num_tokens: int
    num_loss_tokens: int
    """Tokens that bear loss."""
    longest: int
    """Tokens of the longest example."""
    deviation: float
    """Standard deviation of the examples' lengths, in tokens."""
    num_gate: int | None
    """Examples of the sealed split; None when there is none."""
    exact: bool
    """Whether this was counted, or estimated from the number of characters."""
    gate_metric: str = ""
    """What `auto` stands for in limits on the sealed split; empty where that is not known."""


class TrainingPlan(Record):
    """How much training there is."""

    num_steps: int
    num_tokens: int
    """Tokens to train on."""
    tokens_per_pass: int
    """Tokens of the largest forward pass of one worker, as far as can be foreseen."""
    loss_tokens_per_pass: int
    exact: bool


class LimitPlan(Record):
    """What the gate can show with the items that a limit has."""

    task: str
    requirement: str
    num_items: int | None
    """None when it cannot be counted."""
    detectable: float | None
    """The true share, or for a comparison the margin, from which on the limit is met in `power` of
    all cases; None when no result on so few items could meet it."""
    num_items_needed: int | None
    """Items that are enough for `example`; None when unknown."""
    example: str
    """The candidate that `num_items_needed` is counted for."""
    note: str = ""


class PowerPlan(Record):
    """What the suite can show."""

    confidence: float
    power: float
    limits: tuple[LimitPlan, ...]


class Plan(Record):
    """All of it."""

    run: str
    stages: tuple[StagePlan, ...]
    model: ModelShape | None
    data: tuple[DataPlan | None, ...]
    """For each training run; None where nothing can be said before it is prepared."""
    training: tuple[TrainingPlan | None, ...]
    """Each training run."""
    cluster: Cluster | None
    needs: tuple[Need, ...]
    held: tuple[Holding, ...]
    """What the slots hold of the cluster that runs."""
    seconds: float | None
    """Of all stages that would run, as far as known; None when none is."""
    seconds_unknown: tuple[str, ...]
    """Stages whose time is unknown."""
    cost: float | None
    """`seconds` at the place's price for an hour; None when either is unknown."""
    gate: PowerPlan
    notes: tuple[str, ...] = ()
