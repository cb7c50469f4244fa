"""The workers that train: Ray Train, Ray Tune, retries, a pool that stays."""
