"""The scorecard document of a run, or of an evaluation without one, put together from the ledger
and the evidence."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from pydantic import JsonValue

from assay.errors import NotApproved
from assay.records.evaluations.evaluation import URL_MARK, EvaluationRequest
from assay.records.evaluations.selftest import SelftestRecord
from assay.records.gate import GateRecord, SelfTest, ServiceRecord
from assay.records.losses import parted, with_end
from assay.records.record import digest_of, read_as
from assay.records.report import (
    Curve,
    Figure,
    Line,
    Report,
    SweepLines,
    TrialLine,
)
from assay.records.stages import LossPoint, ModelRecord, SweepRecord, TrainingRecord, TrialRecord
from assay.reporting.wrong_answers import wrong_answers
from assay.settings import Settings
from assay.stages.gate import read_service
from assay.store.artifacts import ArtifactStore, open_store

if TYPE_CHECKING:
    from assay.store.ledger import Ledger
    from assay.store.schema.rows import RunRow

NUM_EXAMPLES = 10
# Share of the answers spoilt: the regression by which a scorecard tells a suite's power.
STOPPED_AT = 0.2


def report(name: str, *, settings: Settings, num_examples: int = NUM_EXAMPLES) -> Report:
    """The newest verdict of a run or evaluation, named by the start of its id; of the newest that
    has one, when the name is empty. Raises `NotApproved` when the gate has not spoken yet, and
    `IntegrityError` when the answers that it rests on were changed since."""
    # Late: the stage graph knows this module, and a plan needs no ledger.
    from assay.store.ledger import Ledger

    ledger = Ledger(settings.ledger_url)
    store = open_store(settings)
    rows = [ledger.find_run(name)]
    if not name:
        rows += ledger.runs()
    for row in rows:
        decided = _Decided.of(row, ledger)
        if decided is not None:
            return _report(decided, ledger, store, num_examples)
    raise NotApproved(f"{rows[0].id} has no verdict yet; `assay run` takes it to the gate")


def selftest_key(suite_digest: str) -> str:
    """Under which the ledger remembers a suite's self-test."""
    return digest_of(["selftest", suite_digest])


def newest_selftest(suite_digest: str, ledger: "Ledger") -> SelftestRecord | None:
    """The suite's self-test, where there was one."""
    found = ledger.record(selftest_key(suite_digest))
    if found:
        return read_as(SelftestRecord, found.record)
    return None


def summary(selftest: SelftestRecord | None) -> SelfTest | None:
    """What a scorecard says of it: the worst rate of wrong verdicts, and how many spoilt models
    were stopped."""
    if selftest is None:
        return None
    rates = []
    for limit in selftest.limits:
        if limit.on_limit:
            rates.append(limit.on_limit.passes)
        if limit.equal:
            rates.append(limit.equal.fails)
    stopped = [point for point in selftest.planted if point.corrupted == STOPPED_AT]
    worst = max(rates, key=lambda rate: rate.share, default=None)
    return SelfTest(
        false_alarm_rate=worst.share if worst else 0.0,
        false_alarm_upper=worst.upper if worst else 1.0,
        promised=1 - selftest.confidence,
        power=1 - stopped[0].passes.share if stopped else None,
        kept=not selftest.faults,
        at=selftest.at,
    )


@dataclass(frozen=True)
class _Decided:
    """A run with a verdict."""

    row: "RunRow"
    gate: GateRecord
    stages: dict[str, JsonValue]

    @classmethod
    def of(cls, row: "RunRow", ledger: "Ledger") -> "_Decided | None":
        stages = stages_of(row, ledger)
        gate = read_as(GateRecord, stages.get("gate"))
        if gate is None:
            return None
        return cls(row, gate, stages)


def _report(decided: _Decided, ledger: "Ledger", store: ArtifactStore, num_examples: int) -> Report:
    row, gate, stages = decided.row, decided.gate, decided.stages
    card = gate.scorecard
    for kept in (gate.candidate, gate.base, gate.champion, card.service):
        if kept is not None:
            store.verify(kept.evidence)
    return Report(
        name=row.id,
        subject=_subject(row),
        bytes_known=not card.artifact_digest.startswith(URL_MARK),
        scorecard=card,
        scorecard_digest=digest_of(card.model_dump(mode="json")),
        candidate=gate.candidate,
        base=gate.base,
        champion=gate.champion,
        wrong_answers=wrong_answers(gate, num_examples),
        service=_service(card.service) if card.service else (),
        compression=tuple(_compression(stages)),
        curves=curves_of(stages),
        sweep=_sweep(stages),
        approvals=tuple(ledger.approvals(row.id)),
        selftest=newest_selftest(card.suite_digest, ledger),
        digests=_digests(gate),
        stages=stages,
    )


def _subject(row: "RunRow") -> str:
    """The run's id; for an evaluation without a run what was evaluated."""
    request = read_as(EvaluationRequest, row.spec)
    if request:
        return request.candidate.words
    return row.id


def stages_of(row: "RunRow", ledger: "Ledger") -> dict[str, JsonValue]:
    """Each finished stage's newest record, as JSON data."""
    found = {}
    for stage in ledger.stages(row.id):
        if stage.state not in ("done", "cached"):
            continue
        record = ledger.record(stage.key)
        if record is not None:
            found[stage.stage] = json.loads(record.record)
    return found


def _service(record: ServiceRecord) -> tuple[Figure, ...]:
    """What was measured under load, as people speak of it."""
    seen = read_service(record)
    found: list[tuple[str, float, str]] = [
        ("requests", seen.num_requests, ""),
        ("in flight", seen.num_concurrent, ""),
    ]
    found += _percentiles("time to first token", seen.ttft_s)
    found += _percentiles("time between tokens", seen.inter_token_s)
    rate = seen.output_tokens / seen.seconds if seen.seconds else 0.0
    # Of no requests, none failed and none was completed.
    num_requests = max(1, seen.num_requests)
    found += [
        ("output", rate, "tokens/s"),
        ("engines", seen.num_engines, ""),
        ("failed", 100 * seen.num_failed / num_requests, "%"),
        ("completed", 100 * seen.num_completed / num_requests, "%"),
    ]
    if seen.peak_memory_bytes is not None and seen.memory_bytes:
        found.append(("peak memory", 100 * seen.peak_memory_bytes / seen.memory_bytes, "%"))
    figures = []
    for name, value, unit in found:
        figures.append(Figure(name=name, value=value, unit=unit))
    return tuple(figures)


def _compression(stages: Mapping[str, JsonValue]) -> Iterator[Figure]:
    """What the compressed model lost, on texts of the training split."""
    record = read_as(ModelRecord, stages["compress"]) if "compress" in stages else None
    if record is None or record.divergence is None:
        return
    found = record.divergence
    yield Figure(name=f"{record.scheme}: divergence", value=found.kl, unit="nats")
    yield Figure(name="same likeliest token", value=100 * found.top1_agreement, unit="%")
    if found.loss is not None and found.merged_loss is not None:
        yield Figure(name="loss of the merged model", value=found.merged_loss, unit="nats a token")
        yield Figure(name="loss", value=found.loss, unit="nats a token")
    yield Figure(name="compared tokens", value=found.num_tokens, unit="")
    yield Figure(name="size", value=record.artifact.size / 1e6, unit="MB")


def _percentiles(name: str, seconds: Sequence[float]) -> Iterator[tuple[str, float, str]]:
    ordered = sorted(seconds)
    if not ordered:
        return
    for percent in (50, 95, 99):
        index = min(len(ordered) - 1, len(ordered) * percent // 100)
        yield f"{name}, p{percent}", 1000 * ordered[index], "ms"


def curves_of(stages: Mapping[str, JsonValue]) -> tuple[Curve, ...]:
    """The losses of each training run and of each sweep's trials, where the run has them."""
    curves = []
    for name, data in stages.items():
        lines, note = _lines_of(name, data)
        # A point alone is no line.
        drawn = tuple(line for line in lines if len(line.points) > 1)
        if drawn:
            curve = Curve(title=name, x_label="step", y_label="loss", lines=drawn, note=note)
            curves.append(curve)
    return tuple(curves)


def _lines_of(name: str, data: JsonValue) -> tuple[list[Line], str]:
    """The losses that a stage's record tells, and what is to be said of them."""
    if name.startswith("sweep"):
        sweep = read_as(SweepRecord, data)
        return (_trial_lines(sweep) if sweep else []), ""
    training = read_as(TrainingRecord, data) if name.startswith("train") else None
    if training is None:
        return [], ""
    history = with_end(training)
    rate = f"learning rate {training.learning_rate:g}"
    lines = [
        Line(name=rate, points=_losses(training.history)),
        Line(name="selection", points=_selection_losses(history)),
    ]
    notes = (_computed_with(training), parted(history))
    return lines, "; ".join(filter(None, notes))


def _trial_lines(sweep: SweepRecord) -> list[Line]:
    lines = []
    for index, trial in enumerate(sweep.trials):
        points = _losses(trial.history)
        lines.append(Line(name=_trial_name(trial), points=points, chosen=index == sweep.chosen))
    return lines


def _sweep(stages: Mapping[str, JsonValue]) -> SweepLines | None:
    record = read_as(SweepRecord, stages["sweep"]) if "sweep" in stages else None
    if record is None:
        return None
    trials, num_steps = [], 0
    for index, trial in enumerate(record.trials):
        trials.append(_trial(trial, index == record.chosen))
        num_steps += trial.num_steps
    return SweepLines(
        trials=tuple(trials),
        seconds=record.seconds,
        num_steps=num_steps,
        num_tokens=record.num_tokens,
    )


def _trial(trial: TrialRecord, chosen: bool) -> TrialLine:
    seen = trial.latest
    return TrialLine(
        name=_trial_name(trial),
        learning_rate=trial.learning_rate,
        loss=seen.selection_loss if seen else None,
        error=seen.selection_loss_se if seen else None,
        num_steps=trial.num_steps,
        num_tokens=trial.num_tokens,
        outcome=trial.outcome,
        chosen=chosen,
    )


def _computed_with(training: TrainingRecord) -> str:
    """Precision, kernels, and why others were not used."""
    besides = [kernel for kernel in training.kernels if kernel != "flash"]
    used = ", ".join([training.precision, training.attention, *besides])
    unused = "; ".join(f"no {kernel}: {why}" for kernel, why in training.kernels_unused.items())
    if unused:
        return f"{used} ({unused})"
    return used


def _losses(history: Sequence[LossPoint]) -> tuple[tuple[float, float], ...]:
    return tuple((float(point.step), point.loss) for point in history if isfinite(point.loss))


def _selection_losses(history: Sequence[LossPoint]) -> tuple[tuple[float, float], ...]:
    losses = []
    for point in history:
        # Most steps have none; a run that diverged has one that cannot be drawn.
        if point.selection_loss is not None and isfinite(point.selection_loss):
            losses.append((float(point.step), point.selection_loss))
    return tuple(losses)


def _trial_name(trial: TrialRecord) -> str:
    words = [" then ".join(f"{rate:.3g}" for rate in trial.rates)]
    for key, value in trial.parameters.items():
        words.append(f"{key.rpartition('.')[2]} {_number(value)}")
    return ", ".join(words)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _digests(gate: GateRecord) -> dict[str, str]:
    """Everything that the scorecard speaks of."""
    card = gate.scorecard
    found = {
        "scorecard": digest_of(card.model_dump(mode="json")),
        "suite, with its tasks and data": card.suite_digest,
        "model": card.artifact_digest,
        "base model": card.base_digest,
        "champion": card.champion_digest,
    }
    for task, digest in card.task_digests.items():
        found[f"task {task}"] = digest
    found["answers of the model"] = gate.candidate.evidence.digest
    if gate.base:
        found["answers of the base model"] = gate.base.evidence.digest
    if gate.champion:
        found["answers of the champion"] = gate.champion.evidence.digest
    for name, digest in card.evidence.items():
        found[f"evidence: {name}"] = digest
    if card.contamination:
        found["training data"] = card.contamination.train_digest
    if card.parity:
        found["parity probes"] = card.parity.probes_digest
    return {name: digest for name, digest in found.items() if digest}
