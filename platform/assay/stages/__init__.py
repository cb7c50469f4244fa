"""One module per stage, each with one public `run`."""
