"""What the user wrote: one file per YAML block, and `load.py`, which reads them."""
