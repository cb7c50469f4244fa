"""Ray Serve LLM, told what it need not do, and to load nothing but what was evaluated.

This file is copied into the engine's environment, where `assay` is not; `assay_files` is its `store/files.py`.
"""

import asyncio
import hashlib
import json
import os
import socket
import time
from importlib.metadata import distributions
from pathlib import Path

from assay_files import Identity, digest_files, plain_files
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase  # Ray has no public name for it
from ray.llm._internal.serve.core.server.llm_server import LLMServer

CLOCK_TICK_NS = 20_000_000  # file systems note changes by the kernel's tick, 1 to 10 ms
TOLD = ("vllm", "torch", "transformers", "ray", "compressed_tensors")


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
        files = await asyncio.to_thread(verify, folder, wanted["artifact"])
        seconds = time.monotonic() - began
        await super().start()
        await asyncio.to_thread(require_unchanged, folder, files)
        report(Path(wanted["reports"]), wanted["artifact"], seconds)


def verify(folder: Path, artifact: str) -> dict[str, Identity]:
    """Raises `ValueError` unless the folder is, file by file and byte by byte, the artifact of this digest. Returns
    which files were read."""
    manifest = json.loads(folder.with_name(f"{artifact}.json").read_text())
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    if hashlib.sha256(text.encode()).hexdigest() != artifact:
        raise ValueError(f"the manifest of artifact {artifact[:12]} is not its own")
    there, wanted = plain_files(folder), manifest["files"]
    for name in sorted(there.keys() ^ wanted.keys()):
        raise ValueError(f"{folder / name} was {'added to' if name in there else 'taken from'} what was evaluated")
    _let_the_clock_tick(there)
    digests = digest_files(folder, list(wanted))
    for name, (sha256, identity) in digests.items():
        if {"sha256": sha256, "size": identity[2]} != wanted[name]:
            raise ValueError(f"{folder / name} is not what was evaluated: its SHA-256 has changed")
    return {name: identity for name, (_, identity) in digests.items()}


def require_unchanged(folder: Path, files: dict[str, Identity]) -> None:
    """Raises `ValueError` when a file was replaced or written to since it was verified: the engine may have loaded
    something else."""
    there = plain_files(folder)
    for name in sorted(there.keys() | files.keys()):
        if there.get(name) != files.get(name):
            raise ValueError(f"{folder / name} was changed while the engine loaded it")


def report(reports: Path, artifact: str, seconds: float) -> None:
    """Writes down what this replica has loaded, where the platform looks for it."""
    replica = serve.get_replica_context().replica_id.unique_id
    packages = sorted(f"{found.name}-{found.version}" for found in distributions() if found.name.startswith(TOLD))
    content = {
        "replica": replica,
        "artifact": artifact,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "packages": packages,
        "seconds_to_verify": seconds,
        "at": time.time(),
    }
    reports.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = reports / f"{replica}.{os.getpid()}"
    draft.write_text(json.dumps(content))
    draft.replace(reports / f"{replica}.json")


def _let_the_clock_tick(files: dict[str, Identity]) -> None:
    """Waits until a change from now on has another time than those before."""
    newest = max((identity[4] for identity in files.values()), default=0)
    while 0 <= time.time_ns() - newest < CLOCK_TICK_NS:
        time.sleep(CLOCK_TICK_NS / 1e9)
