"""What a running stage says of itself, one JSON line at a time."""

from assay.records.record import Record


class Progress(Record):
    """Where a stage stands."""

    step: int
    num_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    selection_loss: float | None = None
    """As last measured."""
    warning: str = ""
    """What is going wrong, though it goes on."""
    num_tokens: int | None = None
    """Trained on so far, over all workers."""
    memory_bytes: int | None = None
    """Highest so far, of the worker that tells."""
    text: str = ""
    """What is being done, when there are no steps to count."""
    is_over: bool = False
    """Whether nobody works on it now: a trial has ended, or waits for the scheduler."""
