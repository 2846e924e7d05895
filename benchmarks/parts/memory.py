"""What servers and sessions take while nobody uses them, and after many cells."""

from __future__ import annotations

import asyncio
import time

import psutil

from ..bench import NOTHING, STOCK, Bench, run_cell
from ..measure import pss, quiet, tree, tree_processor

SESSIONS = 20
WATCHED = 30.0  # seconds of an idle server
CELLS_A_ROUND = 50


async def session(bench: Bench) -> None:
    """The memory of a session that has run a cell and is idle."""
    found = {}
    for kind, more in (("ours", {}), ("stock, no sandbox", STOCK)):
        more = {**more, "RMI_AGENT_KERNEL_MAX": "30"}
        async with bench.http_client(**more) as (client, server):
            await quiet(server)
            for _ in range(SESSIONS):
                await run_cell(client)
            await quiet(server)
            # Most processes are kernels: the median is one of theirs.
            found[kind] = bench.values(
                f"an idle session, {kind}, PSS, MB", pss(server.children(recursive=True))
            )
    bench.target("memory of an idle session, MB", found["ours"], 15)


async def long_life(bench: Bench) -> None:
    """The server's own memory while it answers many cells of four sessions."""
    total, resident = CELLS_A_ROUND * bench.rounds, []
    async with bench.http_client() as (client, server):
        sessions = [await run_cell(client) for _ in range(4)]

        async def work(session: str) -> None:
            for number in range(total // 40):
                await run_cell(client, session, f"print({number})")

        for tenth in range(1, 11):
            await asyncio.gather(*(work(session) for session in sessions))
            resident.append(server.memory_info().rss / 1e6)
            bench.value(f"server after {total * tenth // 10:,} cells, RSS, MB", resident[-1])
        bench.value("the same, PSS, MB", pss([server])[0])
    bench.target(f"server after {total:,} cells, RSS, MB", resident[-1], 110)
    bench.target("flat: that ÷ at three tenths", resident[-1] / resident[2], 1.05)


async def idle(bench: Bench) -> None:
    """A server that nobody uses: the memory of all its processes, and its processor time."""
    found = {}
    async with bench.stdio() as (_, server), bench.stdio(NOTHING) as (_, nothing):
        await quiet(server, nothing)
        await asyncio.sleep(5)
        await quiet(server, nothing)
        for kind, process in (("ours", server), ("one tool that does nothing", nothing)):
            found[kind] = sum(pss(tree(process)))
            bench.value(f"an idle server, {kind}, all processes, PSS, MB", found[kind])
        bench.value("ours, the server's own process, PSS, MB", pss([server])[0])
        percent = await busy(server, nothing)
    bench.value("an idle server, % of a core", percent[0])
    bench.value("the same of one tool that does nothing, % of a core", percent[1])
    bench.target(
        "idle server, 2 warm kernels, usual preload, all processes, MB", found["ours"], 220
    )
    bench.target("idle server, % of a core", percent[0], 0.1)


async def busy(*processes: psutil.Process) -> list[float]:
    """The share of a core that each of these trees takes, in percent."""
    before, began = [tree_processor(process) for process in processes], time.perf_counter()
    await asyncio.sleep(WATCHED)
    lasted = time.perf_counter() - began
    after = [tree_processor(process) for process in processes]
    return [100 * (b - a) / lasted for a, b in zip(before, after, strict=True)]
