"""The order of stages, caching, resuming, and waiting for approval."""
