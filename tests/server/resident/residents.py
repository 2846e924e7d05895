"""Background servers of a user who is made for the test, and clients that are attached to them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.processes import still_running
from tests.server.conftest import fill, server_env

COMMAND = [sys.executable, "-m", "rmi_agent.server.cli"]


@dataclass
class User:
    """One who has a folder of state of their own."""

    folder: Path
    env: dict[str, str]
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state" / "rmi-agent"

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "resident.json").read_text("utf-8"))
        return found

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(self.record["pid"])

    def run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            env={**self.env, **settings},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=100,
        )

    def begin(self, *words: str) -> subprocess.Popen[str]:
        self.begun.append(
            process := subprocess.Popen(
                [*COMMAND, *words],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return process

    def start(self, **settings: str) -> dict[str, Any]:
        done = self.run("start", **settings)
        assert done.returncode == 0, done.stderr
        return self.record

    def client(
        self, *words: str, mode: str = "legacy", settings: dict[str, str] | None = None, **more: Any
    ) -> Client[Any]:
        """A host's connection to a process on stdio; what that says is in `stderr`."""
        transport = StdioTransport(
            COMMAND[0],
            [*COMMAND[1:], *words],
            env={**self.env, **(settings or {})},
            keep_alive=False,
            log_file=self.folder / "stderr",
        )
        return Client(transport, mode=mode, **more)

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text("utf-8")


@contextlib.contextmanager
def user(folder: Path) -> Iterator[User]:
    """A user, whose server ends with the block, with all that it has started."""
    state = folder / "state"
    settings = {
        "XDG_STATE_HOME": str(state),
        "RMI_AGENT_KERNEL_POOL": "0",
        "RMI_AGENT_KERNEL_PRELOAD": "",
    }
    someone = User(folder, server_env(fill(folder), **settings))
    try:
        yield someone
    finally:
        for process in someone.begun:
            process.kill()
            process.communicate(timeout=20)
        left: list[psutil.Process] = []
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            left = [someone.server, *someone.server.children(recursive=True)]
        if (someone.state / "resident.json").exists():
            someone.run("stop")
        assert still_running(left, 10) == []
