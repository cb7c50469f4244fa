"""`make bench-train`: tokens/s of the `train` stage, on CPU, against a plain loop that pads, and against no Ray.

All train the demo's model on the demo's data with the same LoRA settings, batches, order and precision. With one
worker the stage (Ray Train and DeepSpeed, on batches without padding) stands against transformers' Trainer on padded
batches, which is as fast as a bare torch loop. With two workers it stands against its own worker and DeepSpeed
configuration without Ray. Tokens are those of the data, pad tokens left out, over all steps but the first.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import base_model, demo_spec, met, own_place, running_head, stop_on_sigterm, train_file

from assay.engines import ray_cluster, ray_train
from assay.engines.hf_trainer import TrainingJob, TrainingOutcome
from assay.place import Place
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec

BARS = {1: 1.3, 2: 0.95}
"""What the stage's tokens/s are to be, by workers, as a share of the other's."""
CURVE_BAR = 0.02
HERE = Path(__file__).parent
OTHERS = {1: ("padded", HERE / "bare_trainer.py"), 2: ("no Ray", HERE / "without_ray.py")}

Result = dict[str, Any]
"""`tokens_per_s`, `seconds_to_first_step`, `num_tokens` and `losses` (a step each) of one run."""


def main() -> None:
    options = _options()
    spec = demo_spec()
    model = base_model(spec)
    data = train_file(spec, model)
    met_all = []
    with own_place() as place:
        for num_workers in options.workers:
            train = _train_spec(spec, options.steps, num_workers, options.threads // num_workers or 1)
            job = TrainingJob(
                train=train,
                model=str(model),
                train_file=str(data),
                selection_file=None,
                output=str(place.home / "output"),
                progress_file=str(place.home / "progress.jsonl"),
                started_at=0,
                on_gpu=False,
            )
            met_all.append(_compare(place, job, options.rounds))
    if not all(met_all):
        sys.exit(1)


def _compare(place: Place, job: TrainingJob, rounds: int) -> bool:
    """Runs both kinds in turn and reports; says whether the bars are met."""
    train = job.train
    other, script = OTHERS[train.num_workers]
    print(
        f"{train.num_workers} workers of {train.worker.threads} threads, {train.max_steps} steps of "
        f"{train.global_batch_size} examples",
        flush=True,
    )
    results: dict[str, list[Result]] = {"stage": [], other: []}
    for number in range(1, rounds + 1):
        results["stage"].append(_run_stage(place, job))
        print(f"round {number}  stage   {_line(results['stage'][-1])}", flush=True)
        results[other].append(_run_script(place, job, script))
        print(f"round {number}  {other:<6}  {_line(results[other][-1])}", flush=True)
    return _report(results, other, BARS[train.num_workers], num_workers=train.num_workers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of a run (30)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, in turn (3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's threads (all cores)")
    parser.add_argument("--workers", type=int, nargs="+", choices=sorted(OTHERS), default=[1, 2], help="1, 2 or both")
    options = parser.parse_args()
    if options.steps < 2 or options.rounds < 1 or options.threads < 1:
        parser.error("at least 2 steps, 1 round and 1 thread are wanted")
    return options


def _train_spec(spec: Spec, steps: int, num_workers: int, threads: int) -> TrainSpec:
    changes = {"num_workers": num_workers, "max_steps": steps, "worker": {"cpus": 1, "threads": threads}}
    return TrainSpec.model_validate({**spec.train_steps[0].model_dump(), **changes})


def _run_stage(place: Place, job: TrainingJob) -> Result:
    with running_head(place):
        try:
            ray_cluster.connect(place.cluster_address)
            stop_on_sigterm()
            outcome = ray_train.fit(_starting_now(job), num_gpus_per_worker=0)
        finally:
            ray_cluster.disconnect()
    return _result(outcome)


def _run_script(place: Place, job: TrainingJob, script: Path) -> Result:
    Path(job.output).mkdir(exist_ok=True)
    written = Path(job.output) / "result.json"
    written.unlink(missing_ok=True)
    threads = job.train.worker.threads
    own = {**ray_cluster.WORKER_ENV, "OMP_NUM_THREADS": str(threads)}
    environment = {**os.environ, **(ray_train.worker_env(threads, on_gpu=False) if job.train.num_workers > 1 else own)}
    log = place.home / "other.log"
    with log.open("w") as output:
        command = [sys.executable, str(script), _starting_now(job).model_dump_json()]
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{script.name} failed:\n{log.read_text()[-2000:]}")
    result = json.loads(written.read_text())
    return result if "losses" in result else _result(TrainingOutcome.model_validate(result))


def _result(outcome: TrainingOutcome) -> Result:
    return {
        "tokens_per_s": outcome.tokens_per_s,
        "seconds_to_first_step": outcome.seconds_to_first_step,
        "num_tokens": outcome.num_tokens,
        "losses": [point.loss for point in outcome.history],
    }


def _starting_now(job: TrainingJob) -> TrainingJob:
    return TrainingJob.model_validate({**job.model_dump(), "started_at": time.time()})


def _line(result: Result) -> str:
    return (
        f"{result['tokens_per_s']:7.1f} tokens/s   first step after {result['seconds_to_first_step']:5.1f} s   "
        f"{result['num_tokens']:.0f} tokens, loss {result['losses'][0]:.3f} to {result['losses'][-1]:.3f}"
    )


def _report(results: dict[str, list[Result]], other: str, bar: float, *, num_workers: int) -> bool:
    speed = {name: median(run["tokens_per_s"] for run in runs) for name, runs in results.items()}
    start_s = {name: median(run["seconds_to_first_step"] for run in runs) for name, runs in results.items()}
    # Within a round, because a machine of many tenants is now faster, now slower.
    ratios = [one["tokens_per_s"] / two["tokens_per_s"] for one, two in zip(*results.values(), strict=True)]
    ratio = median(ratios)
    apart = max(
        abs(mine - theirs) / max(theirs, 0.1)
        for mine, theirs in zip(results["stage"][0]["losses"], results[other][0]["losses"], strict=True)
    )
    print(f"median   stage {speed['stage']:.1f}, {other} {speed[other]:.1f} tokens/s")
    print(f"ratio    {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})   {met(ratio, bar)}")
    print(f"curves   {apart:.2%} apart at most   {met(apart, CURVE_BAR, at_most=True)}")
    print(f"from run to the first step   stage {start_s['stage']:.1f} s, {other} {start_s[other]:.1f} s\n")
    summary = {
        "bench": "train",
        "workers": num_workers,
        "ratio": ratio,
        "ratios": ratios,
        "curves_apart": apart,
        "tokens_per_s": speed,
        "seconds_to_first_step": start_s,
        "runs": results,
    }
    print(json.dumps(summary))
    return ratio >= bar and apart <= CURVE_BAR


if __name__ == "__main__":
    main()
