"""Compressing models: llm-compressor."""
