"""`make bench-train`: tokens/s of the `train` stage against a bare loop of transformers' Trainer, on CPU.

Both train the demo's model on the demo's data with the same LoRA settings, batches, order and threads. The stage
is one Ray Train worker under DeepSpeed, as `assay run` starts it, on a Ray head that is up for the stage alone.
Tokens are those of the data, pad tokens left out, over all steps but the first.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from common import base_model, demo_spec, met, own_place, running_head, stop_on_sigterm, train_file

from assay.engines import ray_cluster, ray_train
from assay.engines.hf_trainer import TrainingJob
from assay.place import Place
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec

BAR = 0.9
BARE_LOOP = Path(__file__).with_name("bare_trainer.py")

Result = dict[str, float]
"""`tokens_per_s`, `seconds_to_first_step`, `num_tokens` and `first_loss` of one run."""


def main() -> None:
    options = _options()
    spec = demo_spec()
    model = base_model(spec)
    data = train_file(spec, model)
    train = _train_spec(spec, options.steps, options.threads)
    results: dict[str, list[Result]] = {"stage": [], "bare": []}
    with own_place() as place:
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
        print(
            f"{options.steps} steps of {train.global_batch_size} examples, {train.worker.threads} threads", flush=True
        )
        for number in range(1, options.rounds + 1):
            for name, run in (("stage", _run_stage), ("bare", _run_bare)):
                results[name].append(run(place, job))
                print(f"round {number}  {name:<5}  {_line(results[name][-1])}", flush=True)
    _report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of a run (30)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, in turn (3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's threads (all cores)")
    options = parser.parse_args()
    if options.steps < 2 or options.rounds < 1 or options.threads < 1:
        parser.error("at least 2 steps, 1 round and 1 thread are wanted")
    return options


def _train_spec(spec: Spec, steps: int, threads: int) -> TrainSpec:
    changes = {"num_workers": 1, "max_steps": steps, "worker": {"cpus": 1, "threads": threads}}
    return TrainSpec.model_validate({**spec.train.model_dump(), **changes})


def _run_stage(place: Place, job: TrainingJob) -> Result:
    with running_head(place):
        try:
            ray_cluster.connect(place.cluster_address)
            stop_on_sigterm()
            outcome = ray_train.fit(_starting_now(job), num_gpus_per_worker=0)
        finally:
            ray_cluster.disconnect()
    return {
        "tokens_per_s": outcome.tokens_per_s,
        "seconds_to_first_step": outcome.seconds_to_first_step,
        "num_tokens": outcome.num_tokens,
        "first_loss": outcome.history[0].loss,
    }


def _run_bare(place: Place, job: TrainingJob) -> Result:
    Path(job.output).mkdir(exist_ok=True)
    result = Path(job.output) / "result.json"
    result.unlink(missing_ok=True)
    environment = {**os.environ, **ray_cluster.WORKER_ENV, "OMP_NUM_THREADS": str(job.train.worker.threads)}
    log = place.home / "bare.log"
    with log.open("w") as output:
        command = [sys.executable, str(BARE_LOOP), _starting_now(job).model_dump_json()]
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"the bare loop failed:\n{log.read_text()[-2000:]}")
    return json.loads(result.read_text())


def _starting_now(job: TrainingJob) -> TrainingJob:
    return TrainingJob.model_validate({**job.model_dump(), "started_at": time.time()})


def _line(result: Result) -> str:
    return (
        f"{result['tokens_per_s']:7.1f} tokens/s   first step after {result['seconds_to_first_step']:5.1f} s   "
        f"{result['num_tokens']:.0f} tokens, first loss {result['first_loss']:.3f}"
    )


def _report(results: dict[str, list[Result]]) -> None:
    speed = {name: median(run["tokens_per_s"] for run in runs) for name, runs in results.items()}
    start_s = {name: median(run["seconds_to_first_step"] for run in runs) for name, runs in results.items()}
    ratio = speed["stage"] / speed["bare"]
    print(f"median   stage {speed['stage']:.1f}, bare {speed['bare']:.1f} tokens/s")
    print(f"ratio    {ratio:.3f}   {met(ratio, BAR)}")
    print(f"from run to the first step   stage {start_s['stage']:.1f} s, bare {start_s['bare']:.1f} s")
    summary = {
        "bench": "train",
        "ratio": ratio,
        "tokens_per_s": speed,
        "seconds_to_first_step": start_s,
        "runs": results,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
