"""`make bench-plan`: the memory that `assay plan` foresees against the peak that the `train` stage
measures, on CPU.

A tiny model and the demo's model (135 million weights) are trained for a few steps by two Ray Train
workers under ZeRO 0, 2 and 3, every weight and LoRA. The estimate is the plan's own, from the
data's counts and the model's dimensions; the peak is `TrainingRecord.peak_memory_bytes`, the
highest resident memory of any worker.
"""

import argparse
import json
import time
from pathlib import Path

from common import (
    base_model,
    demo_spec,
    made_once,
    met,
    own_place,
    running_head,
    stop_on_sigterm,
    train_file,
)

from assay.engines.cluster import tasks
from assay.engines.cluster.cpu_features import computes_in_bf16
from assay.engines.data.split_lengths import split_lengths
from assay.engines.models import shape as model_shape
from assay.records.artifact import Artifact
from assay.records.plan import MemoryEstimate
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord, TrainingRecord
from assay.rules.planning.memory import worker_memory
from assay.rules.planning.workload import training_plan
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec
from assay.stages import train as stage
from assay.stages.context import Work

BAR = 0.25
METHODS: dict[str, object] = {
    "full": "full",
    "lora": {"lora": {"r": 16, "target_modules": "all-linear"}},
}


def main() -> None:
    options = _options()
    spec = demo_spec()
    cases = [
        (size, zero, name)
        for size in ("tiny", "135M")
        for zero in (0, 2, 3)
        for name in METHODS
        if options.only in f"{size} zero-{zero} {name}"
    ]
    results = []
    print(f"{'case':<20} {'estimate':>10} {'measured':>10}  ratio   parts, in MB", flush=True)
    models = _models(spec)
    with own_place() as settings, running_head(settings):
        tasks.connect(settings.cluster_address)
        stop_on_sigterm()
        try:
            for size, zero, name in cases:
                train = _train_spec(spec, zero, METHODS[name], options.workers, options.steps)
                model, data = models[size], train_file(spec, models[size])
                estimate = _estimate(train, model, data)
                measured = _measured(train, model, data, settings)
                results.append((f"{size} zero-{zero} {name}", estimate, measured))
                print(_line(*results[-1]), flush=True)
        finally:
            tasks.disconnect()
    _report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="cases whose name holds this, such as `135M zero-2`"
    )
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a run (3)")
    parser.add_argument("--workers", type=int, default=2, help="Ray Train workers (2)")
    return parser.parse_args()


def _models(spec: Spec) -> dict[str, Path]:
    from tiny import make_model

    return {"tiny": made_once("model-tiny", make_model), "135M": base_model(spec)}


def _train_spec(spec: Spec, zero: int, method: object, workers: int, steps: int) -> TrainSpec:
    changes = {
        "method": method,
        "num_workers": workers,
        "max_steps": steps,
        "deepspeed": {"zero_stage": zero},
        "worker": {"cpus": 1, "threads": 1},
    }
    return TrainSpec.model_validate({**spec.train.model_dump(), **changes})


def _estimate(train: TrainSpec, model: Path, data: Path) -> MemoryEstimate:
    shape = model_shape.from_folder(model)
    assert shape is not None
    work = training_plan(train, split_lengths(data))
    return worker_memory(
        train,
        shape,
        tokens=work.tokens_per_pass,
        loss_tokens=work.loss_tokens_per_pass,
        device="CPU",
        precision="bf16" if computes_in_bf16() else "fp32",
    )


def _measured(train: TrainSpec, model: Path, data: Path, settings: Settings) -> TrainingRecord:
    folder = settings.home / f"work-{time.monotonic_ns()}"
    work = Work(settings, folder, folder / "progress.jsonl", Path.cwd())
    split = SplitRecord(
        file=data.name, digest="", num_examples=0, num_tokens=0, num_completion_tokens=0
    )
    inputs = stage.Inputs(
        train=train,
        model=ModelRecord(
            artifact=Artifact(digest=model.name, kind="model", path=str(model), size=0),
            architecture="",
            num_parameters=0,
            num_layers=0,
            context_length=0,
        ),
        data=DatasetRecord(
            artifact=Artifact(
                digest=data.parent.name, kind="dataset", path=str(data.parent), size=0
            ),
            train=split,
            selection=split,
            gate=None,
            num_dropped_too_long=0,
            num_dropped_duplicates=0,
        ),
    )
    return stage.run(inputs, work)


def _line(name: str, estimate: MemoryEstimate, measured: TrainingRecord) -> str:
    parts = ", ".join(f"{part.name} {part.size / 1e6:.0f}" for part in estimate.parts)
    ratio = estimate.total / measured.peak_memory_bytes
    return (
        f"{name:<20} {estimate.total / 1e6:>7.0f} MB {measured.peak_memory_bytes / 1e6:>7.0f} MB  "
        f"{ratio:.3f}   {parts}"
    )


def _report(results: list[tuple[str, MemoryEstimate, TrainingRecord]]) -> None:
    ratios = {
        name: estimate.total / measured.peak_memory_bytes for name, estimate, measured in results
    }
    worst = max(ratios.values(), key=lambda ratio: abs(ratio - 1))
    print(
        f"worst    {worst:.3f}   off by {abs(worst - 1):.1%}, "
        f"{met(abs(worst - 1), BAR, at_most=True)}"
    )
    summary = {
        "bench": "plan",
        "worst": worst,
        "ratios": ratios,
        "peak_bytes": {name: measured.peak_memory_bytes for name, _, measured in results},
        "estimate_bytes": {name: estimate.total for name, estimate, _ in results},
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
