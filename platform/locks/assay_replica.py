"""Ray Serve LLM, told what it need not do.

This file is copied into the engine's environment, where `assay` is not.
"""

from pathlib import Path

from ray.llm._internal.common.callbacks.base import CallbackBase  # Ray has no public name for it


class LocalModel(CallbackBase):
    """Nothing is fetched for a model that is a folder here. Ray would start a process to find that out, which imports
    vLLM first, and a replica on two cores would come up as much as a fifth later."""

    async def on_before_node_init(self) -> None:
        """Called by a replica before it prepares its nodes."""
        source = self.llm_config.model_loading_config.model_source
        self.ctx.run_init_node = not (isinstance(source, str) and Path(source).is_dir())
