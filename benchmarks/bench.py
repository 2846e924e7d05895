"""What the parts of `python -m benchmarks.run` share: folders, servers, clients, and the results.

Knows how our server and its rivals are started; nothing about what is asked of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from .measure import Figure, Target, median, p95

RIVALS = Path(__file__).parent / "rivals"
NOTHING = [sys.executable, str(RIVALS / "nothing_server.py")]
BY_SUBPROCESS = [sys.executable, str(RIVALS / "subprocess_server.py")]
OURS = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
TOKEN = secrets.token_urlsafe(32)
ALL_FOR_US = {
    "RMI_AGENT_TOKEN": TOKEN,
    "RMI_AGENT_RATE_LIMIT": "0",
    "RMI_AGENT_SESSIONS_PER_USER": "1000",
}
STOCK = {"RMI_AGENT_KERNEL_NAME": "stock", "RMI_AGENT_SANDBOX": "off"}
STOCK_SPEC = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Stock",
    "language": "python",
    "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
}
FILES = {
    "hello.py": "print('Hello, World!')\n",
    "imports.py": "import pandas, matplotlib.pyplot as plt\nprint(len(pandas.DataFrame([1, 2])))\n",
}
MINE = ("RMI_AGENT_", "PYTHON_", "NGROK_")  # variables of this shell's that no server gets


class Skipped(Exception):
    """A measurement that this machine does not allow; its text says why."""


@dataclass
class Bench:
    """A folder for everything that servers write, and what has been measured.

    Attributes:
        folder: a new one.
        rounds: calls of the quick measurements; the slow ones take a share of it.
        environments: where virtual environments of rivals are kept.
    """

    folder: Path
    rounds: int
    environments: Path
    part: str = ""
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.projects.mkdir()
        for name, text in FILES.items():
            (self.projects / name).write_text(text)
        (self.folder / "kernels" / "stock").mkdir(parents=True)
        (self.folder / "kernels" / "stock" / "kernel.json").write_text(json.dumps(STOCK_SPEC))
        (self.folder / "run").mkdir(mode=0o700)

    @property
    def projects(self) -> Path:
        return self.folder / "python_projects"

    def value(self, name: str, value: float) -> float:
        """Report a single value, and return it."""
        self._report(Figure(self.part, name, value))
        return value

    def values(self, name: str, values: Sequence[float]) -> float:
        """Report the median and 95th percentile of many values, and return the median."""
        self._report(Figure(self.part, name, median(values), p95(values), len(values)))
        return median(values)

    def _report(self, figure: Figure) -> None:
        self.figures.append(figure)
        tail = "" if figure.p95 is None else f"   p95 {figure.p95:10.2f}   of {figure.count}"
        print(f"  {figure.name:<62}{figure.median:10.2f}{tail}", flush=True)

    def target(self, name: str, value: float, bound: float, *, at_least: bool = False) -> None:
        """Report a row of the table at the end."""
        self.targets.append(Target(self.part, name, value, bound, at_least))

    def skip(self, what: str, why: object) -> None:
        """Report that a row is missing, and why."""
        self.skipped.append(f"{self.part}: {what}: {why}")
        print(f"  skipped: {what}: {why}", flush=True)

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a server: its own folders, and no settings of this shell's."""
        own = {
            "PYTHON_PROJECTS_DIR": str(self.projects),
            "RMI_AGENT_NOTEBOOKS_DIR": str(self.folder / "notebooks"),
            "JUPYTER_PATH": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            **{f"XDG_{kind}_HOME": str(self.folder / kind) for kind in ("DATA", "STATE")},
        }
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(MINE)}
        return {**inherited, **own, **more}

    @contextlib.asynccontextmanager
    async def stdio(
        self, command: list[str] = OURS, /, **more: str
    ) -> AsyncIterator[tuple[Client[Any], psutil.Process]]:
        """A client of a server on stdio, and the server's process."""
        log = self.folder / "stderr.log" if command is not OURS else None
        transport = StdioTransport(
            command[0],
            command[1:],
            env=self.env(**more),
            cwd=str(self.folder),
            keep_alive=False,
            log_file=log,
        )
        before = psutil.Process().children()
        async with Client(transport) as client:
            (process,) = set(psutil.Process().children()) - set(before)
            yield client, process

    @contextlib.asynccontextmanager
    async def http(self, **more: str) -> AsyncIterator[tuple[str, psutil.Process]]:
        """The URL of our server over HTTP, and its process."""
        command = [*OURS[:-1], "info", "--transport", "http", "--port", "0"]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self.env(**ALL_FOR_US, **more),
            cwd=self.folder,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        said = b""
        async for line in process.stderr:
            said += line
            if b"MCP at " in line:
                break
        else:
            raise RuntimeError(f"The server did not start:\n{said.decode()[-2000:]}")
        reading = asyncio.create_task(process.stderr.read())
        try:
            yield line.decode().split("MCP at ")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            await asyncio.wait({reading})
            await process.wait()

    @contextlib.asynccontextmanager
    async def http_client(self, **more: str) -> AsyncIterator[tuple[Client[Any], psutil.Process]]:
        """The same with one client."""
        async with self.http(**more) as (url, process), Client(url, auth=TOKEN) as client:
            yield client, process


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool's structured result.

    Raises:
        RuntimeError: the tool failed, or the code that it ran.
    """
    result = await client.call_tool_mcp(tool, arguments)
    found = result.structured_content or {}
    if result.is_error or found.get("status", "ok") != "ok":
        raise RuntimeError(f"{tool} failed: {str(result.content)[:500]}")
    return found


async def run_cell(client: Client[Any], session: str | None = None, code: str = "1 + 1") -> str:
    """Run a cell, in a new session unless one is given; the session's id."""
    more = {} if session is None else {"session_id": session}
    return str((await call(client, "run_cell", code=code, **more))["session_id"])


async def run_file(client: Client[Any], name: str = "hello.py") -> str:
    """Run a file in a fresh session; the session's id."""
    return str((await call(client, "run_python", file_name=name))["session_id"])


async def close(client: Client[Any], session: str) -> None:
    """Close a session."""
    await call(client, "close_session", session_id=session)
