"""Asking models: requests, lm-eval tasks, log-probabilities, load."""
