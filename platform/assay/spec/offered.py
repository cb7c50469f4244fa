"""What a spec can say and no engine does: told before anything starts, never silently left out."""

from collections.abc import Iterator

from assay.spec.data import DataSpec
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec
from assay.spec.yaml import Location


def not_offered(spec: Spec) -> Iterator[tuple[Location, str]]:
    """Where the spec asks for something that cannot be done yet, and what."""
    if isinstance(spec.train, tuple):
        yield ("train",), "a list of training steps"
    for index, step in enumerate(spec.train_steps):
        place: Location = ("train", index) if isinstance(spec.train, tuple) else ("train",)
        for location, what in _in_step(step):
            yield (*place, *location), what
    for location, what in _in_data(spec.data):
        yield ("data", *location), what


def _in_step(train: TrainSpec) -> Iterator[tuple[Location, str]]:
    method, lora = train.method, train.method.lora
    if method.name not in ("lora", "full"):
        yield ("method", method.name), f"method: {method.name}"
    if lora is not None:
        for field in ("use_dora", "use_rslora", "init"):
            if getattr(lora, field) not in (False, "default"):
                yield ("method", "lora", field), field
    if train.objective.name != "sft":
        yield ("objective",), f"objective: {train.objective.name}"
    for field in _PLAIN_FIELDS:
        if getattr(train, field) != TrainSpec.model_fields[field].default:
            yield (field,), field
    for field in ("nvme_path", "quantized_weights", "quantized_gradients", "hpz_partition_size", "raw"):
        if getattr(train.deepspeed, field):
            yield ("deepspeed", field), field
    if train.schedule in ("cosine_with_min", "wsd"):
        yield ("schedule",), f"schedule: {train.schedule}"


_PLAIN_FIELDS = (
    "data",
    "group_learning_rates",
    "layerwise_lr_decay",
    "optimizer",
    "betas",
    "neftune_alpha",
    "label_smoothing",
    "ewc",
)


def _in_data(data: DataSpec) -> Iterator[tuple[Location, str]]:
    if data.format in ("sharegpt", "preference", "kto", "text", "classification"):
        yield ("format",), f"format: {data.format}"
    if data.weights:
        yield ("weights",), "weights"
