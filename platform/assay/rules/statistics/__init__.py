"""Confidence bounds and power."""
