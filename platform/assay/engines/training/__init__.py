"""One training run, inside a worker."""
