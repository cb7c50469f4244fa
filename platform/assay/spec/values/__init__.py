"""What stands in blocks and has rules of its own: names, patterns, prompts, metrics."""
