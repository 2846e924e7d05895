"""Files in a row by a host that closes no session: `python benchmarks/full_pool.py`.

After `RMI_AGENT_KERNEL_MAX` calls each new session takes the kernel of another one. Compares the
calls from then on with the first ten of the same run, and tells the processor time per call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
FIRST, FULL_FROM = 10, 17  # how many calls count as the first; the first with a full pool
SETTLING = 5.0  # seconds that the server gets before the first call, to preload and to fill up


@dataclass(frozen=True)
class Row:
    """Calls in a row: milliseconds of each, and of processor time of the server for all."""

    calls: list[float]
    processor: float

    def figures(self) -> dict[str, float]:
        """Figures by name; the last two are ratios to the median of the first calls."""
        first = statistics.median(self.calls[:FIRST])
        full = sorted(self.calls[FULL_FROM - 1 :])
        p95 = full[int(0.95 * (len(full) - 1) + 0.5)]
        return {
            "full pool: first ten, median ms": first,
            "full pool: later, median ms": statistics.median(full),
            "full pool: later, p95 ms": p95,
            "full pool: later, max ms": full[-1],
            "full pool: server processor, ms a call": self.processor / len(self.calls),
            "full pool: later / first ten": statistics.median(full) / first,
            "full pool: p95 / first ten": p95 / first,
        }


async def in_a_row(env: dict[str, str], file_name: str, count: int) -> Row:
    """Run a file of the projects folder `count` times, each in a session that stays open."""
    transport = StdioTransport(SERVER[0], SERVER[1:], env=env, keep_alive=False)
    async with Client(transport) as client:
        first = await client.call_tool_mcp("run_python", {"file_name": file_name})
        facts = first.structured_content
        assert facts is not None, first.content
        await client.call_tool_mcp("close_session", {"session_id": facts["session_id"]})
        await asyncio.sleep(SETTLING)
        server = server_beneath(psutil.Process())
        before, calls = server.cpu_times(), []
        for _ in range(count):
            began = time.perf_counter()
            result = await client.call_tool_mcp("run_python", {"file_name": file_name})
            calls.append(1000 * (time.perf_counter() - began))
            assert (result.structured_content or {}).get("status") == "ok", result.content
        after = server.cpu_times()
    return Row(calls, 1000 * (after.user + after.system - before.user - before.system))


def server_beneath(process: psutil.Process) -> psutil.Process:
    """The server that a process has started."""
    return next(c for c in process.children() if "rmi_agent.server.cli" in " ".join(c.cmdline()))


def full_pool(folder: Path, count: int = 60, **more: str) -> dict[str, float]:
    """The figures of a server of its own, whose files are in `folder`; its settings are `more`."""
    projects = folder / "python_projects"
    projects.mkdir(exist_ok=True)
    (projects / "hello.py").write_text("print('Hello, World!')\n")
    own = {
        "PYTHON_PROJECTS_DIR": str(projects),
        "RMI_AGENT_NOTEBOOKS_DIR": str(folder / "notebooks"),
        "JUPYTER_PATH": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    row = asyncio.run(in_a_row({**os.environ, **own, **more}, "hello.py", count))
    return row.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="how many calls")
    with tempfile.TemporaryDirectory() as name:
        for figure, value in full_pool(Path(name), parser.parse_args().count).items():
            print(f"{figure:45} {value:8.1f}")


if __name__ == "__main__":
    main()
