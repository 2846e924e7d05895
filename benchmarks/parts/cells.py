"""A warm cell, and what answering it costs the server."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import Any

from jupyter_client.manager import start_new_async_kernel

from ..bench import NOTHING, Bench, call, run_cell
from ..measure import interleaved, processor, quiet


async def round_trip(kernel: Any) -> None:
    """A cell by jupyter_client alone, until its reply and its idle status are there."""
    request = kernel.execute("1 + 1", allow_stdin=False)
    reply = asyncio.ensure_future(kernel.get_shell_msg())
    while True:
        message = await kernel.get_iopub_msg()
        mine = message["parent_header"].get("msg_id") == request
        if mine and message["content"].get("execution_state") == "idle":
            break
    await reply


async def cells(bench: Bench) -> None:
    """A warm cell over each transport, and what it would cost without a kernel, or a server."""
    manager, kernel = await start_new_async_kernel(stderr=subprocess.DEVNULL)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(manager.shutdown_kernel, now=True)
        stack.callback(kernel.stop_channels)
        nothing, _ = await stack.enter_async_context(bench.stdio(NOTHING))
        ours, server = await stack.enter_async_context(bench.stdio())
        remote, http_server = await stack.enter_async_context(bench.http_client())
        session, http_session = await run_cell(ours), await run_cell(remote)
        calls = {
            "raw": lambda: round_trip(kernel),
            "nothing": lambda: call(nothing, "nothing", code="1 + 1"),
            "stdio": lambda: run_cell(ours, session),
            "http": lambda: run_cell(remote, http_session),
        }
        await interleaved(calls, 20, block=10)
        await quiet(server, http_server)
        before = processor(server), processor(http_server)
        found = await interleaved(calls, bench.rounds, block=10, skipped=0)
        await quiet(server, http_server)  # what was put off counts as well
        taken = processor(server) - before[0], processor(http_server) - before[1]
    raw = bench.values("raw round trip of jupyter_client over ZMQ, ms", found["raw"])
    nothing_ms = bench.values("an MCP tool that does nothing, stdio, ms", found["nothing"])
    ours_ms = bench.values("run_cell, warm, stdio, ms", found["stdio"])
    bench.values("run_cell, warm, HTTP, ms", found["http"])
    cpu = bench.value("run_cell, CPU of the server, stdio, ms", 1000 * taken[0] / bench.rounds)
    bench.value("run_cell, CPU of the server, HTTP, ms", 1000 * taken[1] / bench.rounds)
    bench.target(
        "warm run_cell ÷ (raw jupyter_client + nothing)", ours_ms / (raw + nothing_ms), 0.8
    )
    bench.target("server CPU of a warm cell, ms", cpu, 5)
