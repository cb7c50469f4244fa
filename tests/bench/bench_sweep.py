"""`make bench-sweep`: successive halving against the grid, and what a trial costs besides its
training.

Both sweep learning rates over the demo's model and data. Halving should come within the standard
error of the grid's best loss on the selection split for at most 40 % of its tokens. The overhead of
a trial is the time from its call to the end of its first step, less an average step: workers,
imports, the model, DeepSpeed.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from common import base_model, demo_spec, met, own_place, running_head, stop_on_sigterm

from assay.engines.cluster import tasks
from assay.engines.models import folders
from assay.records.stages import DatasetRecord, ModelRecord, SweepRecord, TrainingRecord
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec
from assay.stages import prepare, sweep, train
from assay.stages.context import Work

ROOT = Path(__file__).resolve().parents[2]
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2)
TOKENS_BAR, OVERHEAD_BAR_S = 0.4, 3.0


def main() -> None:
    options = _options()
    spec = demo_spec()
    folder = base_model(spec)
    base = TrainSpec.model_validate(
        {
            **spec.train_steps[0].model_dump(),
            "num_workers": 1,
            "worker": {"cpus": 1, "threads": options.threads},
        }
    )
    rates = [
        RATES[round(i * (len(RATES) - 1) / (options.trials - 1))] for i in range(options.trials)
    ]
    records: dict[str, SweepRecord] = {}
    with own_place() as settings, running_head(settings):
        try:
            tasks.connect(settings.cluster_address)
            stop_on_sigterm()
            model, data = _given(settings, folder, spec)
            for scheduler in ("none", "asha"):
                wanted = SweepSpec.model_validate(
                    {"learning_rate": rates, "max_steps": options.steps, "scheduler": scheduler}
                    | {"max_concurrent_trials": 1}
                )
                inputs = sweep.Inputs(sweep=wanted, train=base, model=model, data=data)
                records[scheduler] = sweep.run(inputs, _work(settings, scheduler), trial=train.part)
                print(f"{scheduler:<5} {_line(records[scheduler])}", flush=True)
        finally:
            tasks.disconnect()
    _report(records["none"], records["asha"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=9, help="learning rates (9)")
    parser.add_argument(
        "--steps", type=int, default=18, help="optimizer steps of a whole trial (18)"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    options = parser.parse_args()
    if not 3 <= options.trials <= len(RATES) or options.steps < 9:
        parser.error(f"3 to {len(RATES)} trials and at least 9 steps are wanted")
    return options


def _given(settings: Settings, folder: Path, spec: Spec) -> tuple[ModelRecord, DatasetRecord]:
    facts = folders.describe(folder)
    work = _work(settings, "prepare")
    model = ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())
    return model, prepare.run(
        prepare.Inputs(data=spec.data, train=spec.train_steps[0], model=model), work
    )


def _work(settings: Settings, name: str) -> Work:
    folder = settings.home / "runs" / name
    return Work(settings, folder, folder / "progress.jsonl", ROOT)


def _overheads_s(record: SweepRecord) -> list[float]:
    """Of each finished trial, in the order in which they ran: the grid runs its rates as they
    stand."""
    done = [trial.training for trial in record.trials if trial.training]
    return [one.seconds_to_first_step - _step_s(one) for one in done]


def _step_s(training: TrainingRecord) -> float:
    return training.num_tokens / training.num_steps / training.tokens_per_s


def _line(record: SweepRecord) -> str:
    losses = ", ".join(
        f"{trial.learning_rate:g}: "
        f"{format(trial.training.selection_loss, '.3f') if trial.training else trial.outcome}"
        for trial in record.trials
    )
    return (
        f"{record.seconds:6.0f} s  {record.num_tokens} tokens  chose {record.learning_rate:g}  "
        f"({losses})"
    )


def _best(record: SweepRecord) -> tuple[float, float]:
    """Lowest selection loss, and its standard error."""
    losses = [
        (trial.training.selection_loss, trial.training.selection_loss_se or 0.0)
        for trial in record.trials
        if trial.training and trial.training.selection_loss is not None
    ]
    return min(losses)


def _report(grid: SweepRecord, halved: SweepRecord) -> None:
    (best, error), (found, _) = _best(grid), _best(halved)
    share = halved.num_tokens / grid.num_tokens
    cold, *warm = _overheads_s(grid)
    within = "within" if found <= best + error else "OUTSIDE"
    print(f"best selection loss  grid {best:.3f} ± {error:.3f}, halving {found:.3f}: {within}")
    print(
        f"tokens of halving    {share:.0%} of the grid's   {met(share, TOKENS_BAR, at_most=True)}"
    )
    print(
        f"overhead of a trial  cold {cold:.1f} s, warm {median(warm):.1f} s, at worst "
        f"{max(warm):.1f} s"
    )
    print(f"                     {met(max(warm), OVERHEAD_BAR_S, at_most=True)}")
    summary = {
        "bench": "sweep",
        "tokens_share": share,
        "best": {"grid": best, "grid_se": error, "halving": found},
        "overhead_s": {"cold": cold, "warm": warm},
        "seconds": {"grid": grid.seconds, "halving": halved.seconds},
    }
    print(json.dumps(summary))
    if found > best + error or share > TOKENS_BAR or max(warm) > OVERHEAD_BAR_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
