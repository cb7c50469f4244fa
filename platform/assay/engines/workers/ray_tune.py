"""Ray Tune: runs a sweep's trials, each up to where the sweep wants to see it, as many at once as
fit.

Tune's actors stay from one trial to the next, and with them their training workers (`pool`).

Tune draws the parameters and runs the trials; which goes on, and from where, is decided in
`rules/search`. Tune's own ASHA and PBT decide by the order in which results happen to come, and PBT
by checkpoints that it keeps itself: the same seed would choose another rate on another machine, and
a sweep that was broken off would begin anew.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from assay.engines.cluster import signals
from assay.errors import StageFailed
from assay.spec.sweep import Range, Scalar

STOP_WITHIN_S = 9.0
METRIC = "loss"
# What the search is told of a trial that failed.
FAILED_LOSS = 1e9


@dataclass(frozen=True)
class Turn:
    """One trial, to be trained up to a share of its steps."""

    trial: int
    parameters: dict[str, Any]
    until: float


@dataclass(frozen=True)
class Search:
    """Where Optuna's TPE draws parameters from, and what it knows of them."""

    space: Mapping[str, tuple[Scalar, ...] | Range]
    known: list[tuple[dict[str, Scalar], float]]
    """Trials that have ended before, with their losses."""
    seed: int


class TrialScheduler(Protocol):
    """Who decides what is trained, and is told what came of it; called in Tune's own process, one
    at a time."""

    def next(self, draw: Callable[[], dict[str, Scalar]] | None) -> Turn | None:
        """The next turn; None when there is none now. `draw` asks the search for new parameters."""

    def ended(self, turn: Turn, result: str) -> float | None:
        """A turn has ended with this JSON; returns its loss, if there is one."""

    def lost(self, turn: Turn) -> None:
        """The turn's process has gone without a word."""

    def is_over(self) -> bool:
        """Whether no turn is left."""


def run(
    course: TrialScheduler,
    turn: Callable[[Turn], str],
    *,
    search: Search | None,
    folder: Path,
    max_concurrent: int,
    halt_file: Path,
) -> None:
    """Calls `turn` for what `course` wants, in actors that are used again, until it is over. With a
    `search`, Optuna's TPE draws the parameters. On Ctrl-C or SIGTERM `halt_file` is made and waited
    for, and `KeyboardInterrupt` raised."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the older reporter is silent when asked to be
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # a trial's curves are in its record
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    def trainable(config: dict[str, Any]) -> None:
        asked = Turn(config["trial"], config["parameters"], config["until"])
        tune.report({METRIC: 0.0, "result": turn(asked), "done": True})

    suggestions = _suggestions(course, _optuna(search) if search else None)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=-1,
            search_alg=ConcurrencyLimiter(suggestions, max_concurrent=max_concurrent),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    halt_file.unlink(missing_ok=True)
    try:
        signals.run_beside(tuner.fit, ask=halt_file.touch, within_s=STOP_WITHIN_S)
    except Exception as error:
        if not halt_file.exists():
            raise StageFailed(f"the sweep stopped: {error}") from error
    if halt_file.exists():
        raise KeyboardInterrupt


def _suggestions(course: TrialScheduler, optuna: Any) -> Any:
    """Tune's Searcher class exists only once Tune is imported."""
    from ray.tune.search import Searcher

    class Suggestions(Searcher):  # type: ignore[misc]
        """Suggests the course's turns, one after the other."""

        def __init__(self) -> None:
            super().__init__(metric=METRIC, mode="min")
            self.turns: dict[str, Turn] = {}
            self.drawn: dict[int, str] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            drawn: list[bool] = []

            def draw() -> dict[str, Scalar]:
                drawn.append(True)
                return _flat(optuna.suggest(trial_id))

            if course.is_over():
                return str(Searcher.FINISHED)
            turn = course.next(draw if optuna else None)
            if turn is None:
                return None
            self.turns[trial_id] = turn
            if drawn:
                self.drawn[turn.trial] = trial_id
            return {"trial": turn.trial, "parameters": turn.parameters, "until": turn.until}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            turn = self.turns.pop(trial_id)
            if error or not result or "result" not in result:
                course.lost(turn)
                return
            loss = course.ended(turn, result["result"])
            # Told of the first look alone: later ones cannot be compared.
            if optuna and turn.trial in self.drawn:
                told = {METRIC: loss if loss is not None else FAILED_LOSS}
                optuna.on_trial_complete(self.drawn.pop(turn.trial), told)

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            """What a turn reports comes at its end."""

        def save(self, checkpoint_path: str) -> None:
            """The course keeps what is to be kept."""

        def restore(self, checkpoint_path: str) -> None:
            """See `save`."""

    return Suggestions()


def _optuna(search: Search) -> Any:
    """Tune's searcher over Optuna's TPE, told of what is known."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {}
    for name, values in search.space.items():
        distributions[name] = _distribution(optuna.distributions, values)
    searcher = OptunaSearch(
        space=distributions,
        metric=METRIC,
        mode="min",
        sampler=optuna.samplers.TPESampler(seed=search.seed),
    )
    for parameters, loss in search.known:
        searcher.add_evaluated_point(parameters, loss)
    return searcher


def _distribution(distributions: Any, values: tuple[Scalar, ...] | Range) -> Any:
    if not isinstance(values, Range):
        return distributions.CategoricalDistribution(list(values))
    if values.randint:
        return distributions.IntDistribution(*values.randint)
    return distributions.FloatDistribution(*values.ends, log=values.loguniform is not None)


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Scalar]:
    """Tune takes `method.lora.r` as it stands, and `/` for nesting; names come back as they
    were."""
    found: dict[str, Scalar] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}/")
        else:
            found[f"{above}{name}"] = value
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # plain numbers, no numpy
