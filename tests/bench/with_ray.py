"""The train stage's own worker group on Ray Train: `python with_ray.py JOB`, on the cluster of the environment."""

import sys

from assay.engines import ray_cluster, ray_train
from assay.engines.training_job import TrainingJob
from assay.place import Place

if __name__ == "__main__":
    ray_cluster.connect(Place().cluster_address)
    ray_train.fit(TrainingJob.model_validate_json(sys.argv[1]), num_gpus_per_worker=0)
    ray_cluster.disconnect()
