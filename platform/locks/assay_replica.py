"""Ray Serve LLM, told what it need not do, and to load nothing but what was evaluated.

This file is copied into the engine's environment, where `assay` is not; `assay_files` is its `files.py`.
"""

import asyncio
import time
from pathlib import Path

from assay_files import report, require_unchanged, verify_artifact
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase  # Ray has no public name for it
from ray.llm._internal.serve.core.server.llm_server import LLMServer


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
