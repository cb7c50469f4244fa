"""A project folder as a user has one, with a place of its own, and the `assay` command in it."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from servers import free_ports
from tiny import make_project

PORTS = ("ASSAY_RAY_PORT", "ASSAY_DASHBOARD_PORT", "ASSAY_SERVE_PORT", "ASSAY_GATEWAY_PORT")


class Project:
    """The tiny model, its spec and suite in a folder; `assay` there meets no other place."""

    def __init__(self, folder: Path, **env: str) -> None:
        make_project(folder)
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.folder = folder
        self.home = folder / "home"
        self.gateway = f"http://127.0.0.1:{ports['ASSAY_GATEWAY_PORT']}/v1"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("RAY_", "ASSAY_"))
        }
        self.env = {**inherited, **ports, "ASSAY_HOME": str(self.home), **env}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The command, running."""
        command = [sys.executable, "-m", "assay.cli.main", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def assay(self, *arguments: str, exit_code: int = 0) -> str:
        """What a command prints to stdout; fails when the exit code is another."""
        return self._run(arguments, exit_code)[0]

    def errors(self, *arguments: str, exit_code: int) -> str:
        """What a command that fails prints to stderr."""
        return self._run(arguments, exit_code)[1]

    def serve_applications(self) -> dict[str, Any]:
        """What Ray Serve has deployed, by name."""
        token = (self.home / "ray-token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.env['ASSAY_DASHBOARD_PORT']}/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer)["applications"])

    def _run(self, arguments: tuple[str, ...], exit_code: int) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        assert process.returncode == exit_code, (
            f"assay {' '.join(arguments)} -> {process.returncode}\n{out}\n{err}"
        )
        return out, err
