"""What `data.steps` did, in words."""

from collections.abc import Mapping

from assay.records.cleaning import Reason, StepCounts


def count_line(step: StepCounts) -> str:
    """One step's counts in a line."""
    parts = []
    if step.num_changed:
        parts.append(f"changed {_rows(step.num_changed)} ({_kinds(step.changed)})")
    if step.num_dropped:
        parts.append(f"left out {_rows(step.num_dropped)} ({_kinds(step.dropped)})")
    if step.made:
        parts.append(f"made {_rows(sum(step.made.values()))} ({_kinds(step.made)})")
    if step.note:
        parts.append(step.note)
    return f"{step.name}: {'; '.join(parts) or 'nothing to do'}"


def reason_words(reason: Reason) -> str:
    """What a step did to a row, and why."""
    if reason.action == "changed":
        return f"{reason.step} changed it ({_kinds(reason.counts)})"
    if reason.action == "made":
        return f"{reason.step} made it of {reason.parent} ({_kinds(reason.counts)})"
    words = f"{reason.step} left it out: {reason.why}"
    if not reason.kept:
        return words
    return f"{words} (similarity {reason.similarity:.3g}; {reason.kept_at} stays, {reason.kept})"


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.items())
