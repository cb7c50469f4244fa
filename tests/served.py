"""A small model behind a real HTTP server: OpenAI's chats and completions, with faults that a test
asks for.

The model is a table drawn from digests: the same tokens always have the same log-probabilities.
"""

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from servers import Server

VOCABULARY = 320
"""As many tokens as the tiny tokenizer has, and some."""


def logprobs(context: list[int]) -> list[float]:
    """Log-probabilities of the next token."""
    seed = hashlib.sha256(json.dumps(context[-3:]).encode()).digest()
    logits = [
        seed[token % 32] / 32 + seed[token // 32 % 32] / 64 + token / VOCABULARY
        for token in range(VOCABULARY)
    ]
    total = math.log(sum(math.exp(logit) for logit in logits))
    return [logit - total for logit in logits]


class OpenAI(BaseHTTPRequestHandler):
    """Answers questions by `answer`; a subclass says what goes wrong."""

    server: "Counting"
    knows_token_ids: ClassVar[bool] = True
    takes_several: ClassVar[bool] = True
    first_token_s: ClassVar[float] = 0.0
    token_s: ClassVar[float] = 0.0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.meet(body)
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(self.server.stall_s)
        several = isinstance(body.get("prompt"), list) and isinstance(body["prompt"][0], list)
        status = (
            fault if isinstance(fault, int) else 400 if several and not self.takes_several else 200
        )
        if status == 200 and body.get("stream"):
            self.stream(body)
            return
        said = (
            b'{"choices": ['
            if fault == "torn"
            else json.dumps(self.reply(body) if status == 200 else {}).encode()
        )
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
        except OSError:
            return  # the client did not wait

    def stream(self, body: dict[str, Any]) -> None:
        """As many tokens as are asked for, at the pace of this model."""
        count = body["max_tokens"]
        prompt_tokens = (
            7 + len(body["messages"][-1]["content"]) // 2
        )  # a chat template's own, and two letters each
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count}
        self.send_response(200)
        self.end_headers()
        time.sleep(self.first_token_s)
        for number in range(count):
            time.sleep(self.token_s if number else 0)
            ended = "length" if number == count - 1 else None
            self._event({"choices": [{"delta": {"content": "word "}, "finish_reason": ended}]})
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            text = self.server.answer(body["messages"][-1]["content"])
            return {
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ]
            }
        prompts = body["prompt"]
        if isinstance(prompts, str):
            return {
                "choices": [
                    {"index": 0, "text": self.server.answer(prompts), "finish_reason": "stop"}
                ]
            }
        many = prompts if isinstance(prompts[0], list) else [prompts]
        return {
            "choices": [
                {"index": i, "logprobs": self.scores(prompt, body)} for i, prompt in enumerate(many)
            ]
        }

    def scores(self, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        if body.get("echo"):
            tables = [logprobs(prompt[:place]) for place in range(1, len(prompt))]
            own: list[float | None] = [
                table[token] for table, token in zip(tables, prompt[1:], strict=True)
            ]
            top: list[dict[str, float] | None] = [{"x": max(table)} for table in tables]
            return {"token_logprobs": [None, *own], "top_logprobs": [None, *top]}
        table = logprobs(prompt)
        best = max(range(VOCABULARY), key=table.__getitem__)
        asked = [*body["logprob_token_ids"], best] if self.knows_token_ids else [best]
        return {
            "tokens": [f"token_id:{best}"],
            "top_logprobs": [{f"token_id:{token}": table[token] for token in asked}],
        }

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Counting(Server):
    """Counts requests, and does what `fault` says to the n-th one: a status, `hang up`, `stall`,
    `torn`, or None."""

    answer: Callable[[str], str] = staticmethod(lambda question: f"answer to {question}")
    fault: Callable[[int], object] = staticmethod(lambda number: None)
    stall_s: float = 1.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bodies: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def meet(self, body: dict[str, Any]) -> object:
        with self._lock:
            self.bodies.append(body)
            return self.fault(len(self.bodies))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"
