"""The train stage's own worker group on Ray Train: `python with_ray.py JOB`, on the cluster of the
environment."""

import sys

from assay.engines.cluster import tasks
from assay.engines.training.job import TrainingJob
from assay.engines.workers import ray_train
from assay.settings import Settings

if __name__ == "__main__":
    tasks.connect(Settings().cluster_address)
    ray_train.fit(TrainingJob.model_validate_json(sys.argv[1]), num_gpus_per_worker=0)
    tasks.disconnect()
