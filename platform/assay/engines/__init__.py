"""One file per foreign library, which is imported inside functions only."""
