"""How long `1 + 1` takes while other sessions run long: `python -m benchmarks.neighbours`.

The eight others wait and print in the first case and compute in the second, where eight
processes ask for every core; what a machine can give then is shown by the rival in the same
run, a raw jupyter_client round trip on a kernel of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from jupyter_client.manager import start_new_async_kernel

OTHERS = 8
WAITING = "import time\nwhile True: print('on', flush=True); time.sleep(0.5)"
COMPUTING = "while True: sum(range(10_000))"
SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]


async def p95(call: Callable[[], Awaitable[Any]], rounds: int) -> float:
    """The 95th percentile of a call, in milliseconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        times.append(1000 * (time.perf_counter() - started))
    return sorted(times)[int(0.95 * rounds)]


async def measure(folder: Path, rounds: int) -> None:
    projects = folder / "python_projects"
    projects.mkdir()
    env = {
        **os.environ,
        "PYTHON_PROJECTS_DIR": str(projects),
        "RMI_AGENT_NOTEBOOKS_DIR": str(folder / "n"),
    }
    env |= {"RMI_AGENT_RESPONSE_DEADLINE": "1", "RMI_AGENT_KERNEL_POOL": "0"}
    manager, kernel = await start_new_async_kernel()

    async def raw() -> None:
        await kernel.execute_interactive("1 + 1", output_hook=lambda _: None, allow_stdin=False)

    transport = StdioTransport(SERVER[0], SERVER[1:], env=env, keep_alive=False)
    async with Client(transport) as client:

        async def run(code: str, session: str | None = None) -> str:
            given = {"code": code, "timeout": 600}
            result = await client.call_tool_mcp(
                "run_cell", given if session is None else {**given, "session_id": session}
            )
            assert result.structured_content is not None
            return str(result.structured_content["session_id"])

        mine = await run("1 + 1")
        calls = {"run_cell": lambda: run("1 + 1", mine), "raw jupyter_client": raw}
        for call in calls.values():
            await p95(call, 30)
        idle = {name: await p95(call, rounds) for name, call in calls.items()}
        for what, code in (("wait and print", WAITING), ("compute", COMPUTING)):
            others = await asyncio.gather(*(run(code) for _ in range(OTHERS)))
            for name, call in calls.items():
                busy = await p95(call, rounds)
                print(
                    f"{OTHERS} others {what}: {name} p95 {busy:.1f} ms,"
                    f" idle {idle[name]:.1f} ms, ratio {busy / idle[name]:.2f}"
                )
            for other in others:
                await client.call_tool_mcp("close_session", {"session_id": other})
    kernel.stop_channels()
    await manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), parser.parse_args().rounds))


if __name__ == "__main__":
    main()
