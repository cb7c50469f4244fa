"""Model folders, their shapes, and what is put into a model to train it."""
