"""Evaluations without a run: `assay gate run`, comparisons, the gate's own test."""
