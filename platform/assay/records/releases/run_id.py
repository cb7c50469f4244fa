"""The ids of runs: a name, a dash, and digits of a digest."""

# 128 bits: nobody finds two specs with one id. Runs of older versions have 6 digits.
NUM_DIGITS = 32

# Enough to tell a place's runs apart; whatever is longer is found by its beginning.
NUM_SHOWN = 10


def run_id_of(name: str, digest: str) -> str:
    """The id of what has this digest."""
    return f"{name}-{digest[:NUM_DIGITS]}"


def short_run(run: str) -> str:
    """An id as it is shown, and as it may be typed."""
    name, _, digits = run.rpartition("-")
    if len(digits) == NUM_DIGITS:
        return f"{name}-{digits[:NUM_SHOWN]}"
    return run
