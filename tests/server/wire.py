"""A stdio server spoken to by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.server.conftest import server_env

SERVER = [sys.executable, "-m", "rmi_agent.server.cli"]


class Wire:
    """A stdio server spoken to by hand: every line of its stdout is looked at.

    Args:
        projects: its projects folder.
        process: a server that runs already; one is started if left out.
        options: of its command line.
        settings: its environment.
    """

    def __init__(
        self, projects: Path, process: Any = None, options: tuple[str, ...] = (), **settings: str
    ) -> None:
        self.process = process or subprocess.Popen(
            [*SERVER, *options],
            env=server_env(projects, **settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.request(
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": "t", "version": "1"},
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        assert self.process.stdout is not None
        self.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        for line in self.process.stdout:
            message = json.loads(line)  # anything else on stdout fails here
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == 1:
                return dict(message["result"])
        raise AssertionError(self.process.stderr and self.process.stderr.read())

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.request("tools/call", name=tool, arguments=arguments)

    def close(self) -> None:
        """Let the server end, and wait for that."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(20)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
