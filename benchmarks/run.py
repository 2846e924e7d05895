"""What a call costs, beside what it is made of: `python benchmarks/run.py [--rounds N]`.

Every figure is a median of one run on one machine; the ratios are what counts. Rivals in the
same run: the raw round trip of jupyter_client, an MCP tool that does nothing, and
`subprocess.run([python, file])`, which is what servers of this kind usually do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from jupyter_client.manager import start_new_async_kernel

HELLO = "print('Hello, World!')\n"
NOTHING = """
from fastmcp import FastMCP
mcp = FastMCP("nothing")
@mcp.tool
async def nothing(code: str) -> str:
    "Do nothing."
    return "2"
mcp.run(show_banner=False, log_level="ERROR")
"""
BY_SUBPROCESS = """
import asyncio, sys
from fastmcp import FastMCP
mcp = FastMCP("subprocess")
@mcp.tool
async def run_python(file_name: str) -> str:
    "Run a file."
    process = await asyncio.create_subprocess_exec(
        sys.executable, file_name, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await process.communicate()
    return (out + err).decode()
mcp.run(show_banner=False, log_level="ERROR")
"""


async def median(call: Callable[[], Awaitable[Any]], rounds: int, pause: float = 0) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        times.append(1000 * (time.perf_counter() - started))
        if pause:
            await asyncio.sleep(pause)
    return statistics.median(times)


def stdio(command: list[str], env: dict[str, str]) -> Client[Any]:
    return Client(StdioTransport(command[0], command[1:], env=env, keep_alive=False))


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    projects = folder / "python_projects"
    projects.mkdir()
    hello = projects / "hello.py"
    hello.write_text(HELLO)
    (folder / "nothing.py").write_text(NOTHING)
    (folder / "by_subprocess.py").write_text(BY_SUBPROCESS)
    env = {**os.environ, "PYTHON_PROJECTS_DIR": str(projects), "NOTEBOOKS_DIR": str(folder / "n")}

    started = time.perf_counter()
    manager, kernel = await start_new_async_kernel()
    figures["start of a stock kernel"] = 1000 * (time.perf_counter() - started)

    async def raw() -> None:
        request = kernel.execute("1 + 1", allow_stdin=False)
        reply = asyncio.ensure_future(kernel.get_shell_msg())
        while True:
            message = await kernel.get_iopub_msg()
            mine = message["parent_header"].get("msg_id") == request
            if mine and message["content"].get("execution_state") == "idle":
                break
        await reply

    await median(raw, 20)
    figures["raw jupyter_client round trip"] = await median(raw, rounds)
    kernel.stop_channels()
    await manager.shutdown_kernel(now=True)

    async with stdio([sys.executable, str(folder / "nothing.py")], env) as nothing:

        async def idle() -> None:
            await nothing.call_tool_mcp("nothing", {"code": "1 + 1"})

        await median(idle, 20)
        figures["a tool that does nothing, stdio"] = await median(idle, rounds)

    server = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
    async with stdio(server, env) as client:
        await measure_cells(client, figures, rounds, "stdio")
        await measure_files(client, figures, rounds)
    async with stdio([sys.executable, str(folder / "by_subprocess.py")], env) as client:

        async def by_subprocess() -> None:
            await client.call_tool_mcp("run_python", {"file_name": str(hello)})

        await median(by_subprocess, 3)
        figures["hello by a tool with subprocess"] = await median(by_subprocess, rounds // 5)

    async def plain() -> None:
        await asyncio.to_thread(subprocess.run, [sys.executable, hello], capture_output=True)

    figures["hello by subprocess.run alone"] = await median(plain, rounds // 5)

    process = await asyncio.create_subprocess_exec(
        *server[:-1], "info", "--transport", "http", "--port", "0", env=env, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async for line in process.stderr:
        if b"MCP at " in line:
            url = line.decode().split("MCP at ")[1].split()[0]
            break
    async with Client(url) as client:
        await measure_cells(client, figures, rounds, "HTTP")
    process.terminate()
    await process.wait()
    return figures


async def measure_cells(
    client: Client[Any], figures: dict[str, float], rounds: int, name: str
) -> None:
    first = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
    session = first.structured_content["session_id"]  # type: ignore[index]

    async def cell() -> None:
        await client.call_tool_mcp("run_cell", {"code": "1 + 1", "session_id": session})

    await median(cell, 20)
    figures[f"run_cell, warm, {name}"] = await median(cell, rounds)


async def measure_files(client: Client[Any], figures: dict[str, float], rounds: int) -> None:
    """Fresh sessions: a pause lets the pool refill, as between two calls of a person's chat."""

    async def fresh(tool: str, arguments: dict[str, str]) -> None:
        result = await client.call_tool_mcp(tool, arguments)
        sessions.append(result.structured_content["session_id"])  # type: ignore[index]

    sessions: list[str] = []
    for name, tool, arguments in (
        ("a fresh session's first cell, warm", "run_cell", {"code": "1 + 1"}),
        ("run_python hello, fresh and warm", "run_python", {"file_name": "hello.py"}),
    ):
        times = []
        for _ in range(max(5, rounds // 20)):
            await asyncio.sleep(2)
            started = time.perf_counter()
            await fresh(tool, arguments)
            times.append(1000 * (time.perf_counter() - started))
            await client.call_tool_mcp("close_session", {"session_id": sessions.pop()})
        figures[name] = statistics.median(times)
    await asyncio.sleep(2)
    for _ in range(3):  # the third finds the pool empty
        started = time.perf_counter()
        await fresh("run_cell", {"code": "1 + 1"})
        figures["a fresh session's first cell, cold"] = 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), arguments.rounds))
    floor = figures["raw jupyter_client round trip"] + figures["a tool that does nothing, stdio"]
    ratios = {
        "run_cell over stdio ÷ (raw + nothing)": figures["run_cell, warm, stdio"] / floor,
        "run_python hello ÷ a tool with subprocess": figures["run_python hello, fresh and warm"]
        / figures["hello by a tool with subprocess"],
    }
    for name, value in figures.items():
        print(f"{name:<44}{value:9.1f} ms")
    for name, value in ratios.items():
        print(f"{name:<44}{value:9.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ms": figures, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
