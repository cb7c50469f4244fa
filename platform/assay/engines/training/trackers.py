"""Where a run's curves go besides the ledger: TensorBoard files always, Ray's metrics where there
is a Ray, MLflow and Weights & Biases where the spec names them."""

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import MissingExtra
from assay.records.stages import LossPoint

FIELDS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "selection_loss")
PROJECT = "assay"
"""Weights & Biases' project, when WANDB_PROJECT does not name one."""


@dataclass(frozen=True)
class Tracker:
    """One place that a run's curves go to."""

    tell: Callable[[LossPoint], None]
    end: Callable[[bool], None] = lambda ended_well: None
    """Called once; another run of the same process may follow."""


def require(names: Sequence[str]) -> None:
    """Raises `MissingExtra` for a tracker that is not installed; nothing is imported."""
    for name in names:
        # Looked for, not imported: some take seconds to import.
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(
                f"train.report_to names {name}, which is not installed: pip install 'assay[{name}]'"
            )


def trackers(
    names: Sequence[str], *, run: str, folder: Path, kept: Path, settings: str
) -> list[Tracker]:
    """What is to be told of every point of the run's history. Files go to `folder`. In `kept`
    stands under which name a tracker knows this run, so that an attempt that goes on later adds to
    it. `settings` is the training's spec as JSON."""
    found = [_tensorboard(folder / "tensorboard"), _ray_metrics(run)]
    if "mlflow" in names:
        found.append(_mlflow(run, folder, kept / "mlflow-run", json.loads(settings)))
    if "wandb" in names:
        found.append(_wandb(run, folder, kept / "wandb-run", json.loads(settings)))
    return [tracker for tracker in found if tracker is not None]


@contextmanager
def until_ended(running: Sequence[Tracker]) -> Iterator[None]:
    """Ends the trackers with what is done inside, and tells them whether it went well."""
    ended_well = False
    try:
        yield
        ended_well = True
    finally:
        for tracker in running:
            tracker.end(ended_well)


def _values(point: LossPoint) -> dict[str, float]:
    values = {name: getattr(point, name) for name in FIELDS}
    return {name: float(value) for name, value in values.items() if value is not None}


def _tensorboard(folder: Path) -> Tracker:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), write_to_disk=True)

    def tell(point: LossPoint) -> None:
        for name, value in _values(point).items():
            writer.add_scalar(f"train/{name}", value, point.step)
        # A run may be killed at any time, and its curve should reach as far as it did.
        writer.flush()

    return Tracker(tell, lambda ended_well: writer.close())


def _ray_metrics(run: str) -> Tracker | None:
    # A worker that was started without Ray, as in tests and benchmarks, must not load it for this.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util.metrics import Gauge

    gauges = {
        name: Gauge(
            f"assay_train_{name}", description=f"{name} of a training run", tag_keys=("run",)
        )
        for name in ("step", *FIELDS)
    }

    def tell(point: LossPoint) -> None:
        for name, value in {"step": float(point.step), **_values(point)}.items():
            gauges[name].set(value, tags={"run": run})

    return Tracker(tell)


def _mlflow(run: str, folder: Path, kept: Path, settings: dict[str, Any]) -> Tracker:
    """On MLFLOW_TRACKING_URI, or in a file of the run's folder."""
    import mlflow

    in_folder = not mlflow.is_tracking_uri_set()
    if in_folder:
        # MLflow's own default is a folder `mlruns` where the process happens to stand.
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    if kept.exists():
        started = mlflow.start_run(run_id=kept.read_text())
    else:
        started = mlflow.start_run(run_name=run)
        mlflow.log_params(_flat(settings))
        # After the parameters: MLflow refuses to log one twice, so that a run with an id has all of
        # them.
        kept.write_text(started.info.run_id)

    def tell(point: LossPoint) -> None:
        mlflow.log_metrics(_values(point), step=point.step, run_id=started.info.run_id)

    def end(ended_well: bool) -> None:
        mlflow.end_run("FINISHED" if ended_well else "FAILED")
        if in_folder:
            # The next run of this process has a folder of its own.
            mlflow.set_tracking_uri(None)

    return Tracker(tell, end)


def _wandb(run: str, folder: Path, kept: Path, settings: dict[str, Any]) -> Tracker:
    import wandb

    if not kept.exists():
        kept.write_text(uuid.uuid4().hex[:12])
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    started = wandb.init(
        project=project,
        name=run,
        id=kept.read_text(),
        resume="allow",
        config=settings,
        dir=str(folder),
    )

    def tell(point: LossPoint) -> None:
        started.log(_values(point), step=point.step)

    return Tracker(tell, lambda ended_well: started.finish(exit_code=0 if ended_well else 1))


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """The settings that say something, by their paths."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        elif value is not None:
            found[f"{before}{name}"] = str(value)
    return found
