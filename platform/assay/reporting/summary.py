"""What a stage came to, in a line that the terminal and the page share."""

from assay.records.gate import ContaminationRecord, EvaluationRecord, GateRecord
from assay.records.losses import parted, with_end
from assay.records.record import Record
from assay.records.stages import (
    DatasetRecord,
    DeploymentRecord,
    ModelRecord,
    SweepRecord,
    TrainingRecord,
    TrialRecord,
)
from assay.reporting.words import items_asked, reasoning

# Selection losses on the way.
MOST_SHOWN = 5


def came_to(record: Record) -> str:
    """One line on what a stage came to."""
    if isinstance(record, ModelRecord):
        return _model(record)
    if isinstance(record, DatasetRecord):
        dropped = record.num_dropped_too_long + record.num_dropped_duplicates
        tail = f", {dropped} left out" if dropped else ""
        return f"{record.train.num_examples} examples, {record.train.num_tokens} tokens{tail}"
    if isinstance(record, SweepRecord):
        return _sweep(record)
    if isinstance(record, TrainingRecord):
        return _training(record)
    if isinstance(record, DeploymentRecord):
        return f"slot {record.slot} answers"
    if isinstance(record, EvaluationRecord):
        thought = reasoning(record)
        tail = f", {thought}" if thought else ""
        return f"{items_asked(record)} items in {record.seconds:.0f} s{tail}"
    if isinstance(record, ContaminationRecord):
        found = "none"
        if record.exact or record.near:
            found = f"{len(record.exact)} copied, {len(record.near)} alike"
        return f"{record.num_items} items, {found} in the training data"
    if isinstance(record, GateRecord):
        return f"{record.scorecard.outcome}, {came_to(record.candidate)}"
    return ""


def warning(record: Record) -> str:
    """What a stage's record warns of; empty for nothing."""
    # With a best step the best weights were kept.
    if isinstance(record, TrainingRecord) and record.best_step is None:
        return parted(with_end(record))
    return ""


def trial_words(trial: TrialRecord) -> str:
    """A trial by what was varied; a population's with the rates that it went on with."""
    others = []
    for name, value in trial.parameters.items():
        shown = format(value, ".4g") if isinstance(value, float) else value
        others.append(f"{name.rpartition('.')[2]} {shown}")
    return ", ".join([" then ".join(f"{rate:.3g}" for rate in trial.rates), *others])


def _model(record: ModelRecord) -> str:
    scheme = "" if record.scheme == "none" else f" {record.scheme},"
    return (
        f"{record.num_parameters / 1e6:.0f}M parameters,{scheme} "
        f"{record.artifact.size / 1e6:.0f} MB{_divergence(record)}"
    )


def _divergence(record: ModelRecord) -> str:
    """How far a compressed model is from the merged one."""
    found = record.divergence
    if found is None:
        return ""
    return (
        f", {found.kl:.2g} nats from the merged model ({found.top1_agreement:.0%} same top token)"
    )


def _sweep(record: SweepRecord) -> str:
    words = []
    for trial in record.trials:
        loss = trial.training.selection_loss if trial.training else None
        end = trial.outcome if loss is None else f"{loss:.3f}"
        words.append(f"{trial_words(trial)}: {end}")
    chosen = trial_words(record.trials[record.chosen])
    return f"learning rate {chosen} chosen by selection loss ({', '.join(words)})"


def _training(record: TrainingRecord) -> str:
    loss = ""
    if record.selection_loss is not None:
        loss = f", selection loss {record.selection_loss:.3f}"
    seen = []
    for point in record.history:
        if point.selection_loss is not None:
            seen.append(point.selection_loss)
    if seen and loss:
        newest = ", ".join(f"{one:.3f}" for one in seen[-MOST_SHOWN:])
        loss += f" (on the way {newest})"
    again = f", {record.num_restarts} restarts" if record.num_restarts else ""
    fast = f" with {', '.join(record.kernels)}" if record.kernels else ""
    rate = f"{record.tokens_per_s:.0f} tokens/s"
    return f"{record.num_steps} steps, {rate}{fast}{loss}{again}"
