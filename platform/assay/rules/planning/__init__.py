"""What a run needs: memory, fit, items."""
