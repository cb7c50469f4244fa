"""Blocks of a suite's file beside its tasks and limits."""
