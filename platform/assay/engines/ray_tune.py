"""Ray Tune: draws learning rates and runs one trial for each, as many at once as fit."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.spec.sweep import LogUniform, SweepSpec


@dataclass(frozen=True)
class TrialOutcome:
    """What came of one trial: the JSON that `trial` returned, or the error it raised."""

    learning_rate: float
    result: str | None
    error: str | None


def run_trials(
    sweep: SweepSpec, trial: Callable[[float], str], *, folder: Path, max_concurrent: int
) -> list[TrialOutcome]:
    """Calls `trial(learning_rate)` for every learning rate of the sweep, each in an actor of its own, and
    returns the outcomes in the order of the learning rates. A trial that raises does not stop the others."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the older reporter is silent when asked to be
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    def trainable(config: dict[str, float]) -> None:
        tune.report({"result": trial(config["learning_rate"]), "done": True})

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"learning_rate": _domain(tune, sweep)},
        tune_config=tune.TuneConfig(
            num_samples=sweep.num_samples if isinstance(sweep.learning_rate, LogUniform) else 1,
            search_alg=BasicVariantGenerator(max_concurrent=max_concurrent, random_state=sweep.seed),
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    outcomes = [_outcome(result) for result in tuner.fit()]
    return sorted(outcomes, key=lambda outcome: outcome.learning_rate)


def _domain(tune: Any, sweep: SweepSpec) -> Any:
    if isinstance(sweep.learning_rate, LogUniform):
        return tune.loguniform(*sweep.learning_rate.loguniform)
    return tune.grid_search(list(sweep.learning_rate))


def _outcome(result: Any) -> TrialOutcome:
    rate = float(result.config["learning_rate"])
    if result.error is not None:
        lines = [line for line in str(result.error).splitlines() if line.strip()]
        return TrialOutcome(rate, None, lines[-1].strip() if lines else "failed")
    return TrialOutcome(rate, result.metrics["result"], None)
