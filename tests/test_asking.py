import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.engines.evaluation.client import Endpoint, Request, content_of, request_all
from assay.engines.evaluation.judge import abstentions
from assay.engines.evaluation.logprobs import Pair, score
from assay.errors import PlaceError
from assay.records.gate import Sample
from assay.spec.suite.judge import JudgeSpec
from served import Counting, OpenAI, logprobs
from servers import free_port, serving


@pytest.fixture
def server() -> Iterator[Counting]:
    with serving(OpenAI, Counting) as server:
        yield server


def endpoint(server: Counting, *, patience_s: float = 20.0, timeout_s: float = 0.5) -> Endpoint:
    return Endpoint(
        server.url, "tiny", num_concurrent=8, patience_s=patience_s, timeout_s=timeout_s
    )


def questions(count: int) -> list[Request]:
    return [
        Request("chat/completions", {"messages": [{"role": "user", "content": str(i)}]})
        for i in range(count)
    ]


def test_every_request_has_its_answer(server: Counting) -> None:
    replies = request_all(endpoint(server), questions(20))
    assert [content_of(reply) for reply in replies] == [f"answer to {i}" for i in range(20)]
    assert all(reply.latency_s > 0 and reply.num_tries == 1 for reply in replies)


@pytest.mark.parametrize("fault", [500, 503, 429, 404, "hang up", "stall", "torn"])
def test_a_fault_is_asked_again(server: Counting, fault: object) -> None:
    server.fault = lambda number: fault if number <= 5 else None
    replies = request_all(endpoint(server), questions(10))
    assert [content_of(reply) for reply in replies] == [f"answer to {i}" for i in range(10)]
    assert len(server.bodies) == 15


def test_a_fault_that_stays_is_an_error_and_no_answer(server: Counting) -> None:
    server.fault = lambda number: 500 if '"3"' in json.dumps(server.bodies[number - 1]) else None
    replies = request_all(endpoint(server, patience_s=0.5), questions(10))
    assert [bool(reply.error) for reply in replies] == [i == 3 for i in range(10)]
    assert "HTTP 500" in replies[3].error


def test_a_refusal_is_not_repeated(server: Counting) -> None:
    server.fault = lambda number: 400
    (reply,) = request_all(endpoint(server), questions(1))
    assert "HTTP 400" in reply.error
    assert len(server.bodies) == 1


def test_nobody_there_is_an_error_within_the_patience() -> None:
    started = time.monotonic()
    nobody = Endpoint(
        f"http://127.0.0.1:{free_port()}/v1", "tiny", 4, patience_s=0.3, timeout_s=0.3
    )
    assert all(reply.error for reply in request_all(nobody, questions(8)))
    assert time.monotonic() - started < 5


def test_an_answer_is_sent_for_once(server: Counting, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    first = request_all(endpoint(server), questions(10), answers=file)
    second = request_all(endpoint(server), questions(12), answers=file)
    assert len(server.bodies) == 12
    assert [reply.body for reply in second[:10]] == [reply.body for reply in first]
    assert [reply.num_tries for reply in second] == [0] * 10 + [1] * 2


def test_equal_requests_are_separate_draws(server: Counting, tmp_path: Path) -> None:
    request_all(endpoint(server), questions(1) * 3, answers=tmp_path / "answers.jsonl")
    assert len(server.bodies) == 3
    assert (
        len(
            {
                json.loads(line)["key"]
                for line in (tmp_path / "answers.jsonl").read_text().splitlines()
            }
        )
        == 3
    )


def test_a_torn_line_costs_one_answer(server: Counting, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    request_all(endpoint(server), questions(5), answers=file)
    file.write_bytes(file.read_bytes()[:-10])
    replies = request_all(endpoint(server), questions(6), answers=file)
    assert len(server.bodies) == 5 + 2
    assert not any(reply.error for reply in replies)
    request_all(endpoint(server), questions(6), answers=file)
    assert len(server.bodies) == 7


def test_a_killed_process_goes_on(server: Counting, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    server.fault = lambda number: time.sleep(0.004)
    process = multiprocessing.get_context("spawn").Process(
        target=request_all,
        args=(endpoint(server, timeout_s=5), questions(300)),
        kwargs={"answers": file},
    )
    process.start()
    while not file.exists() or len(file.read_bytes().splitlines()) < 40:
        time.sleep(0.005)
    process.kill()
    process.join()
    kept = len(file.read_bytes().splitlines())
    assert 40 <= kept < 300
    replies = request_all(endpoint(server, timeout_s=5), questions(300), answers=file)
    assert [content_of(reply) for reply in replies] == [f"answer to {i}" for i in range(300)]
    # What was in flight when the process died is asked again, and nothing else.
    assert len(server.bodies) <= 300 + 8


def expected(pair: Pair) -> float:
    whole = pair.context + pair.continuation
    return sum(
        logprobs(list(whole[:place]))[whole[place]]
        for place in range(len(pair.context), len(whole))
    )


LETTERS = [Pair((7, 8, 9 + item), (letter,)) for item in range(10) for letter in (40, 41, 42, 43)]
PHRASES = [
    Pair((7, 8, 9 + item), (40, 50 + choice, 60, 70, 80, 90))
    for item in range(4)
    for choice in range(3)
]


@pytest.mark.parametrize(
    ("pairs", "num_requests"), [(LETTERS, 2), (PHRASES, 2)], ids=["by place", "echoed"]
)
def test_scores_are_the_models_own(server: Counting, pairs: list[Pair], num_requests: int) -> None:
    scores = score(endpoint(server), pairs)
    assert [found.logprob for found in scores] == pytest.approx([expected(pair) for pair in pairs])
    assert len(server.bodies) == num_requests


def test_after_a_long_context_that_the_engine_keeps_nothing_is_echoed(server: Counting) -> None:
    before = tuple(range(130))
    pairs = [Pair(before + pair.context, pair.continuation) for pair in PHRASES]
    scores = score(endpoint(server), pairs)
    assert [found.logprob for found in scores] == pytest.approx([expected(pair) for pair in pairs])
    assert not [body for body in server.bodies if "echo" in body]


def test_no_request_names_more_tokens_than_vllm_takes(server: Counting) -> None:
    pairs = [
        Pair((7, item), (token,))
        for item in range(20)
        for token in range(15 * item, 15 * item + 15)
    ]
    scores = score(endpoint(server), pairs)
    assert [found.logprob for found in scores] == pytest.approx([expected(pair) for pair in pairs])
    assert max(len(body["logprob_token_ids"]) for body in server.bodies) <= 128


def test_a_server_without_token_ids_is_asked_by_echo() -> None:
    class Plain(OpenAI):
        knows_token_ids = False

    with serving(Plain, Counting) as server:
        scores = score(endpoint(server), LETTERS)
    assert [found.logprob for found in scores] == pytest.approx(
        [expected(pair) for pair in LETTERS]
    )
    assert sum(len(body["prompt"]) for body in server.bodies if "echo" in body) == len(LETTERS)


def test_a_server_that_takes_one_prompt_at_a_time_gets_them_so() -> None:
    class Single(OpenAI):
        takes_several = False

    with serving(Single, Counting) as server:
        scores = score(endpoint(server), PHRASES)
    assert [found.logprob for found in scores] == pytest.approx(
        [expected(pair) for pair in PHRASES]
    )


def test_the_likeliest_choice_is_greedy(server: Counting) -> None:
    table = logprobs([1, 2, 3])
    best = max(range(len(table)), key=table.__getitem__)
    scores = score(
        endpoint(server), [Pair((1, 2, 3), (best,)), Pair((1, 2, 3), ((best + 1) % 300,))]
    )
    assert [found.is_greedy for found in scores] == [True, False]


def test_a_score_that_the_server_fails_is_an_error(server: Counting) -> None:
    server.fault = lambda number: 503
    scores = score(endpoint(server, patience_s=0.2), LETTERS[:4])
    assert all("HTTP 503" in found.error for found in scores)


def test_a_judge_reads_abstentions(server: Counting, tmp_path: Path) -> None:
    said = {
        "no idea": "Let me think. ANSWERED? No: ABSTAINED.",
        "Paris": "ANSWERED",
        "hm": "Perhaps",
    }
    server.answer = lambda question: next(
        word for reply, word in said.items() if f"Assistant: {reply}\n" in question
    )
    items = [
        Sample(id=reply, prompt="Where?", target="", response=reply, scores={}) for reply in said
    ]
    judge = JudgeSpec(url=server.url, model="judge")
    assert abstentions(judge, items, tmp_path / "judged.jsonl") == [True, False, None]
    assert abstentions(judge, items, tmp_path / "judged.jsonl") == [True, False, None]
    assert len(server.bodies) == 3


def test_a_judge_without_its_key_is_said(server: Counting) -> None:
    judge = JudgeSpec(url=server.url, model="judge", api_key_env="ASSAY_NO_SUCH_KEY")
    with pytest.raises(PlaceError, match="ASSAY_NO_SUCH_KEY"):
        abstentions(judge, [], None)
