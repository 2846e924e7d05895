"""Other servers' warm calls beside ours, by the same client code."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil
from fastmcp import Client

from ..bench import Bench, Skipped, call, run_cell
from ..measure import Call, interleaved, quiet, tree_processor
from ..rivals.peers import PEERS, Peer

BLOCK = 10
BOUNDS = {"ipybox": 1.0, "clikernel": 1.3}


async def peers(bench: Bench) -> None:
    """`1 + 1` in an open session of each: milliseconds, and processor time of all processes."""
    async with contextlib.AsyncExitStack() as stack:
        ours, server = await stack.enter_async_context(bench.stdio())
        session = await run_cell(ours)
        calls: dict[str, Call] = {"ours": lambda: run_cell(ours, session)}
        servers: dict[str, psutil.Process] = {"ours": server}
        for peer in PEERS:
            try:
                client, servers[peer.package] = await started(bench, peer, stack)
            except Exception as why:  # whatever it is, the others are measured
                bench.skip(peer.package, f"{why!r:.300}" if not isinstance(why, Skipped) else why)
                continue

            async def cell(client: Client[Any] = client, tool: str = peer.tool) -> None:
                await call(client, tool, code="1 + 1")

            calls[peer.package] = cell
        await interleaved(calls, 2 * BLOCK, block=BLOCK)
        await quiet(*servers.values(), most=10)
        before = {name: tree_processor(process) for name, process in servers.items()}
        found = await interleaved(calls, bench.rounds, block=BLOCK, skipped=0)
        cpu = {
            name: 1000 * (tree_processor(process) - before[name]) / len(found[name])
            for name, process in servers.items()
        }
    warm = {name: bench.values(f"warm call, {name}, ms", found[name]) for name in calls}
    for name in calls:
        bench.value(f"warm call, {name}, all processes, CPU ms", cpu[name])
    for name in list(calls)[1:]:
        bench.target(f"warm call ÷ {name}", warm["ours"] / warm[name], BOUNDS[name])
        bench.target(f"CPU of a call ÷ {name}", cpu["ours"] / cpu[name], BOUNDS[name])


async def started(
    bench: Bench, peer: Peer, stack: contextlib.AsyncExitStack
) -> tuple[Client[Any], psutil.Process]:
    """A client of a peer that has answered a first call, and its process."""
    command = await peer.install(bench.environments)
    print(f"  {peer.package} {peer.version(bench.environments)}", flush=True)
    client, process = await stack.enter_async_context(bench.stdio(command))
    result = await client.call_tool_mcp(peer.tool, {"code": "1 + 1"})
    if result.is_error or "2" not in str(result.content):
        raise Skipped(f"its first answer was {str(result.content)[:300]}")
    return client, process
