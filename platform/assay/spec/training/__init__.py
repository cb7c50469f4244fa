"""Blocks inside `train:`."""
