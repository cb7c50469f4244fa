"""llama.cpp behind Ray Serve: a GGUF file answers in the same slot, by the same API, as vLLM does.

It runs in the platform's environment; xllamacpp brings llama.cpp's own server as a library, which
listens on a port of its own. Each replica passes requests on to it, and says which artifact it has
loaded.
"""

import json
import os
from pathlib import Path
from typing import Any

from assay.engines.deployment.api_errors import error_answer, models_answer
from assay.files import verified

FILE = "model.gguf"
ANSWERED = ("/v1/chat/completions", "/v1/completions")

MOST_SEQUENCES = 8
"""Answers that are decoded together; each has room for `max_model_len` tokens in the memory of
keys and values, which is taken at the start."""


def start_engine(file: Path, *, max_model_len: int, num_sequences: int) -> Any:
    """llama.cpp's server with the file; it listens at `listening_address`, and ends with the
    object."""
    import xllamacpp

    said = xllamacpp.CommonParams()
    said.model.path = str(file)
    said.n_parallel = num_sequences
    said.n_ctx = num_sequences * max_model_len
    said.cpuparams.n_threads = os.cpu_count() or 1
    said.verbosity = -1
    return xllamacpp.Server(said)


class LlamaCppApi:
    """The API of one model, on llama.cpp's server with a file."""

    def __init__(self, file: Path, name: str, *, max_model_len: int, num_sequences: int) -> None:
        import httpx

        self.engine = start_engine(file, max_model_len=max_model_len, num_sequences=num_sequences)
        self.name = name
        # No limit of time: an answer takes as long as it takes, and the gateway has limits.
        self.client = httpx.AsyncClient(base_url=self.engine.listening_address, timeout=None)

    async def answer(self, request: Any) -> Any:
        """A Starlette response to a Starlette request."""
        path = next((one for one in ANSWERED if request.url.path.endswith(one)), "")
        if request.method == "GET" and request.url.path.endswith("/v1/models"):
            return models_answer(self.name)
        if request.method != "POST" or not path:
            return error_answer(404, f"llama.cpp answers {' and '.join(ANSWERED)} here")
        body = await request.body()
        fault = _fault(body, self.name)
        if fault is not None:
            return error_answer(*fault)
        return await self._passed_on(path, body)

    async def _passed_on(self, path: str, body: bytes) -> Any:
        """As the bytes come, so that a stream stays one."""
        from starlette.background import BackgroundTask
        from starlette.responses import StreamingResponse

        kind = {"Content-Type": "application/json"}
        request = self.client.build_request("POST", path, content=body, headers=kind)
        answer = await self.client.send(request, stream=True)
        return StreamingResponse(
            answer.aiter_raw(),
            answer.status_code,
            media_type=answer.headers.get("Content-Type"),
            background=BackgroundTask(answer.aclose),
        )


def build_app(args: dict[str, Any]) -> Any:
    """The Serve application; `args` are of the form that `ray.serve.llm` takes."""
    from ray import serve

    config = args["llm_configs"][0]
    loading, deployment = config["model_loading_config"], config["deployment_config"]
    wanted, engine = config["callback_config"]["callback_kwargs"], config["engine_kwargs"]

    @serve.deployment(name="LlamaCpp", **deployment)
    class LlamaCpp:
        def __init__(self) -> None:
            folder = Path(loading["model_source"])
            replica = serve.get_replica_context().replica_id.unique_id
            with verified(folder, wanted, replica):
                self.api = LlamaCppApi(
                    folder / FILE,
                    str(loading["model_id"]),
                    max_model_len=int(engine["max_model_len"]),
                    num_sequences=int(engine["max_num_seqs"]),
                )

        async def __call__(self, request: Any) -> Any:
            """Every answer says which artifact was loaded: the gateway lets no others through."""
            response = await self.api.answer(request)
            response.headers["X-Assay-Artifact"] = wanted["artifact"]
            return response

    return LlamaCpp.bind()  # type: ignore[attr-defined]


def _fault(body: bytes, name: str) -> tuple[int, str] | None:
    """What llama.cpp would silently take otherwise than vLLM does."""
    try:
        asked = json.loads(body)
        model = asked.get("model", name)
    except (ValueError, AttributeError):
        return 400, "the request is no JSON object"
    if model != name:
        return 404, f"the model {model} does not exist; this is {name}"
    if asked.get("echo"):
        return 400, "llama.cpp tells no log-probabilities of a prompt (echo)"
    return None
