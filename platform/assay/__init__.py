"""Assay takes a language model from a YAML file to production, and lets nothing through
unweighed."""

__version__ = "0.1.0"
