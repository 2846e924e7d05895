"""A server in a process of its own, with users who have tokens, and its whole log."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.server.auth.oauth import ALICE, BOB, USERS
from tests.server.conftest import server_env

__all__ = ["ALICE", "BOB", "USERS"]
TEXT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@dataclass
class Served:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextlib.contextmanager
def served(
    projects: Path,
    *options: str,
    before: str = "",
    cwd: Path | None = None,
    port: int = 0,
    **settings: str,
) -> Iterator[Served]:
    """A server, on a free port unless named; `before` is code that it runs before it starts."""
    log = projects.parent / "server.log"
    code = f"{before}\nfrom rmi_agent.server.cli import main\nmain()"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--transport", "http", "--port", str(port), *options],
            env=server_env(projects, **settings),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        until = time.monotonic() + 60
        while "MCP at " not in (text := log.read_text("utf-8")):
            assert process.poll() is None, text
            assert time.monotonic() < until, text
            time.sleep(0.05)
        yield Served(text.split("MCP at ")[1].split("/mcp")[0], process, log)
    finally:
        process.terminate()
        process.wait(20)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def spoken(port: int, message: bytes, host: str = "127.0.0.1") -> bytes:
    """What a server answers to bytes as they are, until it closes."""
    heard = b""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(message)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                heard += part
    return heard


def request(*headers: str, method: str = "POST", path: str = "/mcp", body: str = "") -> bytes:
    """A request whose headers nobody has corrected; the connection ends with it."""
    lines = [f"{method} {path} HTTP/1.1", *headers, "Connection: close"]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
