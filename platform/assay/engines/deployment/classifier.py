"""A classifier behind Ray Serve: a chat is answered with the label, so that gate, gateway and
clients treat it as any other model; `/v1/classify` tells all probabilities.

It runs in the platform's environment, with transformers.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.deployment.api_errors import error_answer, models_answer
from assay.files import verified

BATCH = 32
BATCH_WAIT_S = 0.004
"""How long a request waits for others to be computed with; a short text takes about as long on a
processor."""
MOST_ALTERNATIVES = 20  # as in OpenAI's API


class Classified(NamedTuple):
    """What the model makes of one text."""

    logprobs: dict[str, float]
    """Label to its log-probability, likeliest first."""
    num_tokens: int

    @property
    def label(self) -> str:
        """The likeliest."""
        return next(iter(self.logprobs))


class Model:
    """A sequence classifier and its tokenizer, from a folder."""

    def __init__(self, folder: Path, max_length: int) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
        self.model = model.to(self.device).eval()
        known = int(getattr(model.config, "max_position_embeddings", 0) or max_length)
        self.max_length = min(max_length, known)
        names = model.config.id2label
        self.labels = [str(names[number]) for number in range(model.config.num_labels)]

    def classify(self, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[Classified]:
        """One result for each chat. A text beyond the model's length is cut at its end, before the
        template's close."""
        import torch

        from assay.engines.data.chats.tokens import classified
        from assay.engines.models.methods import pad_token

        rows = []
        for chat in chats:
            tokens = classified(self.tokenizer, [dict(turn) for turn in chat]).tokens
            rows.append(tokens[: self.max_length])
        width = max(len(row) for row in rows)
        padded = torch.full((len(rows), width), pad_token(self.tokenizer))
        mask = torch.zeros_like(padded)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        inputs = {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}
        with torch.inference_mode():
            logits = self.model(**inputs).logits.float()
        found = []
        for values, row in zip(logits.log_softmax(-1).tolist(), rows, strict=True):
            found.append(Classified(self._ranked(values), len(row)))
        return found

    def _ranked(self, logprobs: Sequence[float]) -> dict[str, float]:
        pairs = sorted(zip(self.labels, logprobs, strict=True), key=lambda pair: -pair[1])
        return dict(pairs)


def build_app(args: dict[str, Any]) -> Any:
    """The Serve application; `args` are of the form that `ray.serve.llm` takes."""
    from ray import serve

    config = args["llm_configs"][0]
    loading, deployment = config["model_loading_config"], config["deployment_config"]
    wanted = config["callback_config"]["callback_kwargs"]

    @serve.deployment(name="Classifier", **deployment)
    class Classifier:
        def __init__(self) -> None:
            folder = Path(loading["model_source"])
            self.name = str(loading["model_id"])
            replica = serve.get_replica_context().replica_id.unique_id
            with verified(folder, wanted, replica):
                self.model = Model(folder, int(config["engine_kwargs"]["max_model_len"]))

        async def __call__(self, request: Any) -> Any:
            """Every answer says which artifact was loaded: the gateway lets no others through."""
            from starlette.responses import JSONResponse, Response

            answer = await self._answer_to(request)
            response = answer if isinstance(answer, Response) else JSONResponse(answer)
            response.headers["X-Assay-Artifact"] = wanted["artifact"]
            return response

        async def _answer_to(self, request: Any) -> Any:
            path = request.url.path
            if request.method == "GET" and path.endswith("/v1/models"):
                return models_answer(self.name)
            if request.method == "POST" and path.endswith(("/v1/chat/completions", "/v1/classify")):
                return await self._answer(request, is_chat=path.endswith("/chat/completions"))
            return error_answer(404, f"a classifier answers chats and /v1/classify, not {path}")

        async def _answer(self, request: Any, *, is_chat: bool) -> Any:
            try:
                body = json.loads(await request.body())
                chats = [body["messages"]] if is_chat else _texts(body["input"])
                assert all(map(_is_text, chats))
            except (ValueError, KeyError, TypeError, AssertionError):
                wanted = "`messages` with text" if is_chat else "`input`, a text or a list of texts"
                return error_answer(400, f"the request needs {wanted}")
            found = [await self._batched(chat) for chat in chats]
            if not is_chat:
                return _classified(self.name, found)
            answer = _chat_answer(self.name, found[0], body)
            return _stream(answer, body) if body.get("stream") else answer

        @serve.batch(  # type: ignore[untyped-decorator]
            max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S
        )
        async def _batched(self, chats: list[Any]) -> list[Classified]:
            import asyncio

            # In a thread: torch would hold up the loop that takes the next requests.
            return await asyncio.to_thread(self.model.classify, chats)

    return Classifier.bind()  # type: ignore[attr-defined]


def _texts(given: Any) -> list[list[dict[str, str]]]:
    texts = [given] if isinstance(given, str) else list(given)
    return [[{"role": "user", "content": text}] for text in texts]


def _is_text(chat: Any) -> bool:
    """Whether there are turns, and all of them are text: nothing is to be done with images."""
    return bool(chat) and all(isinstance(turn["content"], str) for turn in chat)


def _classified(name: str, found: Sequence[Classified]) -> dict[str, Any]:
    """In the form of vLLM's `/classify`, with the probabilities by label beside."""
    data, num_tokens = [], 0
    for index, one in enumerate(found):
        probabilities = {label: math.exp(value) for label, value in one.logprobs.items()}
        data.append({"index": index, "label": one.label, "probs": probabilities})
        num_tokens += one.num_tokens
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": name,
        "data": data,
        "usage": {"prompt_tokens": num_tokens, "completion_tokens": 0, "total_tokens": num_tokens},
    }


def _chat_answer(name: str, found: Classified, body: Mapping[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": found.label},
        "finish_reason": "stop",
        "logprobs": None,
    }
    if body.get("logprobs"):
        wanted = min(int(body.get("top_logprobs") or 1), MOST_ALTERNATIVES)
        ranked = [{"token": label, "logprob": value} for label, value in found.logprobs.items()]
        choice["logprobs"] = {"content": [{**ranked[0], "top_logprobs": ranked[:wanted]}]}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [choice],
        "usage": {
            "prompt_tokens": found.num_tokens,
            "completion_tokens": 1,
            "total_tokens": found.num_tokens + 1,
        },
    }


def _stream(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    """The answer as server-sent events: the label in one piece, and the end."""
    from starlette.responses import StreamingResponse

    (choice,) = answer["choices"]
    head = {key: answer[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    pieces: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        pieces.append({**head, "choices": [], "usage": answer["usage"]})
    lines = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
    return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")
