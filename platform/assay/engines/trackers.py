"""Where a run's curves go besides the ledger: TensorBoard files always, Ray's metrics where there is a Ray,
MLflow and Weights & Biases where the spec names them."""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from assay.errors import MissingExtra
from assay.records.stages import LossPoint

Track = Callable[[LossPoint], None]

FIELDS = ("loss", "learning_rate", "grad_norm", "tokens_per_s")


def require(names: Sequence[str]) -> None:
    """Raises `MissingExtra` for a tracker that is not installed; nothing is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"train.report_to names {name}, which is not installed: pip install 'assay[{name}]'")


def trackers(names: Sequence[str], *, run: str, folder: Path, settings: str) -> list[Track]:
    """What is to be told of every point of the run's history. `settings` is the training's spec as JSON."""
    found = [_tensorboard(folder), _ray_metrics(run)]
    if "mlflow" in names:
        found.append(_mlflow(run, settings))
    if "wandb" in names:
        found.append(_wandb(run, settings))
    return [track for track in found if track is not None]


def _values(point: LossPoint) -> dict[str, float]:
    values = {name: getattr(point, name) for name in FIELDS}
    return {name: float(value) for name, value in values.items() if value is not None}


def _tensorboard(folder: Path) -> Track:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), write_to_disk=True)

    def track(point: LossPoint) -> None:
        for name, value in _values(point).items():
            writer.add_scalar(f"train/{name}", value, point.step)
        writer.flush()

    return track


def _ray_metrics(run: str) -> Track | None:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util.metrics import Gauge

    gauges = {
        name: Gauge(f"assay_train_{name}", description=f"{name} of a training run", tag_keys=("run",))
        for name in ("step", *FIELDS)
    }

    def track(point: LossPoint) -> None:
        for name, value in {"step": float(point.step), **_values(point)}.items():
            gauges[name].set(value, tags={"run": run})

    return track


def _mlflow(run: str, settings: str) -> Track:
    import mlflow

    mlflow.start_run(run_name=run)
    mlflow.log_dict(json.loads(settings), "train.json")

    def track(point: LossPoint) -> None:
        mlflow.log_metrics(_values(point), step=point.step)

    return track


def _wandb(run: str, settings: str) -> Track:
    import wandb

    started = wandb.init(name=run, config=json.loads(settings))

    def track(point: LossPoint) -> None:
        started.log(_values(point), step=point.step)

    return track
