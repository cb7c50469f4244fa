"""What the gate measures of a server under load."""

import os
import threading
from collections.abc import Iterator

import pytest

from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.service.engine_memory import EngineProcess
from assay.engines.evaluation.service.load_test import measure
from assay.errors import PlaceError, StageFailed
from assay.spec.suite.measured import LoadSpec
from assay.stages.evidence import service
from served import Counting, OpenAI
from servers import serving

HERE = EngineProcess(pids=(os.getpid(),), on_gpu=False, num_engines=1)


class Paced(OpenAI):
    first_token_s = 0.05
    token_s = 0.01


@pytest.fixture
def server() -> Iterator[Counting]:
    with serving(Paced, Counting) as server:
        yield server


def load(**said: int) -> LoadSpec:
    return LoadSpec(
        **{
            "num_requests": 12,
            "num_concurrent": 4,
            "prompt_tokens": 40,
            "output_tokens": 10,
            **said,
        }
    )


def endpoint(server: Counting) -> Endpoint:
    return Endpoint(server.url, "tiny", timeout_s=5)


def test_times_and_counts_are_the_servers(server: Counting) -> None:
    measured = measure(endpoint(server), load(), HERE)
    assert (measured.num_requests, measured.num_completed, measured.num_failed) == (12, 12, 0)
    assert measured.output_tokens == 120
    assert measured.prompt_tokens == pytest.approx(12 * 40, rel=0.1)
    assert all(seconds >= 0.05 for seconds in measured.ttft_s)
    # A busy machine may read a first token late, and the rest sooner after it; the last comes when
    # the server sends it.
    last = [
        first + 9 * pace
        for first, pace in zip(measured.ttft_s, measured.inter_token_s, strict=True)
    ]
    assert all(seconds >= 0.139 for seconds in last)
    # Twelve answers of 0.14 s, four at a time: sooner than one after the other, whatever the
    # machine's pace.
    assert 0.42 <= measured.seconds < 0.6 * sum(last)
    assert sum(measured.window_tokens_per_s) / len(measured.window_tokens_per_s) == pytest.approx(
        120 / measured.seconds, rel=0.01
    )


def test_the_warm_up_is_not_counted_and_no_two_prompts_begin_alike(server: Counting) -> None:
    measure(endpoint(server), load(), HERE)
    begun = [body["messages"][-1]["content"].split()[0] for body in server.bodies]
    assert len(begun) == 12 + 2 + 4
    assert len(set(begun)) == len(begun)


def test_a_failed_request_counts_and_is_not_repeated(server: Counting) -> None:
    warm_up = 2 + 4
    server.fault = lambda number: 500 if number in (warm_up + 2, warm_up + 7) else None
    measured = measure(endpoint(server), load(), HERE)
    assert (measured.num_failed, measured.num_completed) == (2, 10)
    assert len(measured.ttft_s) == 10


def test_the_memory_is_that_of_the_engine(server: Counting) -> None:
    measured = measure(endpoint(server), load(), HERE)
    assert measured.peak_memory_bytes is not None
    assert measured.memory_bytes is not None
    assert 10 << 20 < measured.peak_memory_bytes < measured.memory_bytes


def test_the_memory_of_another_machine_is_not_known(server: Counting) -> None:
    measured = measure(
        endpoint(server), load(), EngineProcess(pids=(), on_gpu=False, num_engines=2)
    )
    assert measured.peak_memory_bytes is None
    assert measured.num_engines == 2


def test_a_server_that_never_answers_cannot_be_measured(server: Counting) -> None:
    server.fault = lambda number: 500
    with pytest.raises(StageFailed, match="does not answer a streamed chat"):
        measure(endpoint(server), load(), HERE)


def test_engines_that_come_during_the_load_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "COUNT_S", 0.001)
    counts: Iterator[int | None] = iter([1, None, 3, 2])
    looked = threading.Event()

    def count() -> int:
        number = next(counts, 0)
        if number is None:
            raise PlaceError("the dashboard is busy")
        if number == 0:
            looked.set()
        return number

    with service.counting(count) as most:
        assert looked.wait(10)
        assert most() == 3
