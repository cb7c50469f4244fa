"""The train stage's own worker group on Ray Train: `python with_ray.py JOB`, on the cluster of the
environment."""

from job_argument import job_of_arguments

from assay.engines.cluster import tasks
from assay.engines.training.job import TrainingJob
from assay.engines.workers import ray_train
from assay.settings import Settings

if __name__ == "__main__":
    job = TrainingJob.model_validate_json(job_of_arguments(__doc__))
    tasks.connect(Settings().cluster_address)
    ray_train.fit(job, num_gpus_per_worker=0)
    tasks.disconnect()
