"""`make bench-train`: seconds of an optimizer step of the `train` stage, on CPU, against a plain
loop that pads, and against no Ray.

All train the demo's model on the demo's questions, one or two to a chat, with the same LoRA
settings, batches, order and precision; `--turns 1` leaves each question alone, so that texts differ
less in length and padding costs less. With one worker the stage (Ray Train and DeepSpeed, on
batches without padding) stands against transformers' Trainer on padded batches, which is as fast as
a bare torch loop. With two workers it stands against its own worker and DeepSpeed configuration
without Ray. Both run at once, some steps of the one and the same steps of the other (see
`in_turns`), and every step but the first counts. Tokens are those of the data, pad tokens left out.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import (
    base_model,
    demo_spec,
    met,
    own_place,
    ray_workers,
    running_head,
    text_lengths,
    train_file,
)
from in_turns import STEPS_A_TURN, Runner, run_in_turns

from assay.engines.cluster import local_head, tasks
from assay.engines.training.job import TrainingJob
from assay.engines.workers import ray_train
from assay.records.stages import TrainingOutcome
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec

BARS = {1: 1.4, 2: 0.95}
"""What the stage's tokens/s are to be, by workers, as a share of the other's."""
CURVE_BAR = 0.02
FIRST_STEP_BAR_S = 3.0
"""How much later than the other's the stage's first step may come, imports and Ray's start aside."""
HERE = Path(__file__).parent
STAGE = ("stage", HERE / "with_ray.py")
OTHERS = {1: ("padded", HERE / "bare_trainer.py"), 2: ("no Ray", HERE / "without_ray.py")}

Result = dict[str, Any]
"""`seconds_to_first_step`, `num_tokens` and `losses` (a step each) of one run."""


def main() -> None:
    options = _options()
    spec = demo_spec()
    model = base_model(spec)
    data = train_file(spec, model, most_turns=options.turns)
    print(f"{_padding(data, spec):.0%} of the tokens of a padded batch are padding", flush=True)
    met_all = []
    with own_place() as settings:
        for num_workers in options.workers:
            changes = {
                "num_workers": num_workers,
                "max_steps": options.steps,
                "precision": options.precision,
                "worker": {"cpus": 1, "threads": options.threads // num_workers or 1},
            }
            train = TrainSpec.model_validate({**spec.train_steps[0].model_dump(), **changes})
            met_all.append(_compare(settings, train, model, data))
    if not all(met_all):
        sys.exit(1)


def _compare(settings: Settings, train: TrainSpec, model: Path, data: Path) -> bool:
    """Runs both in turns and reports; says whether the bars are met."""
    print(
        f"{train.num_workers} workers of {train.worker.threads} threads, {train.max_steps} steps "
        "of "
        f"{train.global_batch_size} examples",
        flush=True,
    )

    def start(name: str, script: Path) -> Runner:
        folder = settings.home / f"{script.stem}-{train.num_workers}"
        folder.mkdir()
        job = TrainingJob(
            train=train,
            model=str(model),
            train_file=str(data),
            selection_file=None,
            output=str(folder),
            progress_file=str(folder / "progress.jsonl"),
            started_at=time.time(),
            on_gpu=False,
        )
        with (folder / "log").open("w") as log:
            command = [sys.executable, str(script), job.model_dump_json()]
            process = subprocess.Popen(
                command, env=_environment(train, name), stdout=log, stderr=subprocess.STDOUT
            )
        if (name, script) == STAGE:
            ours = (lambda: ray_workers(settings), lambda: local_head._marked(settings))
            return Runner(name, process, folder / "progress.jsonl", *ours)
        return Runner(name, process, folder / "progress.jsonl")

    with running_head(settings):
        pair = [STAGE, OTHERS[train.num_workers]]
        runners = run_in_turns(
            [lambda name=name, script=script: start(name, script) for name, script in pair]
        )  # type: ignore[misc]
    return _report(runners, [_result(runner) for runner in runners], train)


def _environment(train: TrainSpec, name: str) -> dict[str, str]:
    threads = train.worker.threads
    own = {**tasks.WORKER_ENV, "OMP_NUM_THREADS": str(threads)}
    return {
        **os.environ,
        **(ray_train.worker_env(threads, on_gpu=False) if name == "no Ray" else own),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=31, help="optimizer steps of a run (31)")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="torch's threads (all cores)",
    )
    parser.add_argument(
        "--precision", choices=["auto", "bf16", "fp32"], default="auto", help="(auto)"
    )
    parser.add_argument("--turns", type=int, default=2, help="questions of a chat, at most (2)")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        choices=sorted(OTHERS),
        default=[1, 2],
        help="1, 2 or both",
    )
    options = parser.parse_args()
    if options.steps < 1 + 2 * STEPS_A_TURN or options.threads < 1:
        parser.error(f"at least {1 + 2 * STEPS_A_TURN} steps and 1 thread are wanted")
    return options


def _padding(data: Path, spec: Spec) -> float:
    """Share of pad tokens in batches drawn at random."""
    lengths, size = text_lengths(data), spec.train_steps[0].global_batch_size
    draw = random.Random(0)
    batches = [draw.sample(lengths, size) for _ in range(1000)]
    return 1 - sum(sum(batch) for batch in batches) / sum(size * max(batch) for batch in batches)


def _result(runner: Runner) -> Result:
    """What a run left; ends the benchmark with its last words when it failed."""
    folder = runner.progress.parent
    if runner.process.returncode:
        sys.exit(f"{runner.name} failed:\n{(folder / 'log').read_text()[-2000:]}")
    result: Result = json.loads((folder / "result.json").read_text())
    if "losses" in result:
        return result
    outcome = TrainingOutcome.model_validate(result)
    return {
        "seconds_to_first_step": outcome.seconds_to_first_step,
        "num_tokens": outcome.num_tokens,
        "losses": [point.loss for point in outcome.history],
    }


def _report(runners: list[Runner], results: list[Result], train: TrainSpec) -> bool:
    stage, other = runners
    turns = list(zip(stage.seconds, other.seconds, strict=True))
    ratio = sum(theirs for _, theirs in turns) / sum(mine for mine, _ in turns)
    # Delta method for a ratio of means of pairs.
    error = (
        stdev(theirs - ratio * mine for mine, theirs in turns)
        / math.sqrt(len(turns))
        / mean(stage.seconds)
    )
    apart = max(
        abs(mine - theirs) / max(theirs, 0.1)
        for mine, theirs in zip(results[0]["losses"], results[1]["losses"], strict=True)
    )
    for runner, result in zip(runners, results, strict=True):
        step_s = mean(runner.seconds) / STEPS_A_TURN
        print(
            f"{runner.name:<8} {step_s:.2f} s a step, "
            f"{result['num_tokens'] / train.max_steps / step_s:.0f} tokens/s; "
            f"first step after {result['seconds_to_first_step']:.1f} s, {runner.first_step_s:.1f} "
            f"without imports and Ray; {result['num_tokens']:.0f} tokens, "
            f"loss {result['losses'][0]:.3f} to {result['losses'][-1]:.3f}"
        )
    bar = BARS[train.num_workers]
    print(
        f"ratio    {ratio:.2f} (standard error {error:.2f}, {len(turns)} pairs of turns)   "
        f"{met(ratio, bar)}"
    )
    print(f"curves   {apart:.2%} apart at most   {met(apart, CURVE_BAR, at_most=True)}")
    later = stage.first_step_s - other.first_step_s
    print(
        f"start    {later:.1f} s later   {met(later, FIRST_STEP_BAR_S, at_most=True)}\n", flush=True
    )
    summary = {
        "bench": "train",
        "workers": train.num_workers,
        "ratio": ratio,
        "ratio_se": error,
        "curves_apart": apart,
        "first_step_later_s": later,
        "seconds": {runner.name: runner.seconds for runner in runners},
        "runs": {runner.name: result for runner, result in zip(runners, results, strict=True)},
    }
    print(json.dumps(summary), flush=True)
    return ratio >= bar and apart <= CURVE_BAR and later <= FIRST_STEP_BAR_S


if __name__ == "__main__":
    main()
