"""Phrases that the terminal and the page share."""

from assay.records.gate import EvaluationRecord, LimitResult


def reasoning(record: EvaluationRecord) -> str:
    """How much the model reasoned before it answered; empty for one that did not."""
    if not record.num_reasoned:
        return ""
    mean = record.reasoning_tokens / record.num_reasoned
    words = f"{mean:.0f} tokens of reasoning an answer, which are no part of it"
    if record.num_only_reasoned:
        words += f"; {record.num_only_reasoned} of {record.num_items} came to no answer behind it"
    return words


def items_asked(record: EvaluationRecord | LimitResult) -> str:
    """How many items were asked, and of how many where that was enough."""
    if record.num_unasked:
        of_all = f" of {record.num_items + record.num_unasked}"
    else:
        of_all = ""
    return f"{record.num_items}{of_all}"
