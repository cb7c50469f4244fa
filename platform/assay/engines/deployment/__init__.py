"""Deploying models: Ray Serve."""
