"""Phrases that the terminal and the page share."""

from assay.records.gate import EvaluationRecord, LimitResult


def items_asked(record: EvaluationRecord | LimitResult) -> str:
    """How many items were asked, and of how many where that was enough."""
    of_all = f" of {record.num_items + record.num_unasked}" if record.num_unasked else ""
    return f"{record.num_items}{of_all}"
