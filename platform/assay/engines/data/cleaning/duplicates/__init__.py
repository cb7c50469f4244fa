"""Equal and nearly equal rows: candidates, comparison, proof."""
