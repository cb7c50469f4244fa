"""Ray Serve LLM, told what it need not do, and to load nothing but what was evaluated.

This file is copied into the engine's environment, where `assay` is not; `assay_files` is its `files.py`.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

from assay_files import report, require_unchanged, verify_artifact
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase  # Ray has no public name for it
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.builder import LLMServingArgs
from ray.llm._internal.serve.core.ingress.ingress import OpenAiIngress, init, make_fastapi_ingress
from ray.llm._internal.serve.core.server.builder import build_llm_deployment
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.serve import Application

ARTIFACT_HEADER = b"x-assay-artifact"  # as the gateway's configuration has it


class LocalModel(CallbackBase):
    """Nothing is fetched for a model that is a folder here. Ray would start a process to find that out, which imports
    vLLM first, and a replica on two cores would come up as much as a fifth later."""

    async def on_before_node_init(self) -> None:
        """Called by a replica before it prepares its nodes."""
        source = self.llm_config.model_loading_config.model_source
        self.ctx.run_init_node = not (isinstance(source, str) and Path(source).is_dir())


class LLMServerVerified(LLMServer):
    """A replica that reads every byte of its model before it loads it, whoever has started it: a deployment,
    autoscaling, or a restart. One whose model is not the artifact that it was told of does not come up."""

    async def start(self) -> None:
        """Verifies, loads, looks whether the files are still those that were read, and reports."""
        wanted = self._llm_config.callback_config.callback_kwargs
        folder = Path(str(self._llm_config.model_loading_config.model_source))
        began = time.monotonic()
        files = await asyncio.to_thread(verify_artifact, folder, wanted["artifact"])
        seconds = time.monotonic() - began
        await super().start()
        await asyncio.to_thread(require_unchanged, folder, files)
        replica = serve.get_replica_context().replica_id.unique_id
        report(
            Path(wanted["reports"]), replica=replica, artifact=wanted["artifact"], seconds=seconds
        )


class SaysArtifact:
    """Middleware by which every answer says which artifact the replicas behind it have loaded: they do not come up with
    another one. The gateway lets no other answers through."""

    def __init__(self, app: Any, artifact: str) -> None:
        self.app = app
        self.header = (ARTIFACT_HEADER, artifact.encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, by ASGI."""

        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self.header]
            await send(message)

        await self.app(scope, receive, send_with_header)


def build_app(args: dict[str, Any]) -> Application:
    """What `ray.serve.llm:build_openai_app` builds for one model, with `SaysArtifact` before it: Ray has no place for
    middleware of one's own."""
    (config,) = LLMServingArgs.model_validate(args).llm_configs
    app = init()
    app.add_middleware(SaysArtifact, artifact=config.callback_config.callback_kwargs["artifact"])
    options = OpenAiIngress.get_deployment_options([config])
    return serve.deployment(make_fastapi_ingress(OpenAiIngress, app=app), **options).bind(
        llm_deployments={config.model_id: build_llm_deployment(config)},
        model_cards={config.model_id: to_model_metadata(config.model_id, config)},
        lora_paths={},
    )
