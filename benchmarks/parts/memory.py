"""What servers and sessions take while nobody uses them, and after many cells."""

from __future__ import annotations

import asyncio

from ..bench import NOTHING, OURS, STOCK, Bench, run_cell
from ..measure import busy, pss, quiet, tree

SESSIONS = 20
CELLS_A_ROUND = 50


async def session(bench: Bench) -> dict[str, float]:
    """The memory of a session that has run a cell and is idle: MB, ours and stock."""
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
    return found


async def long_life(bench: Bench) -> float:
    """The server's own memory while it answers many cells of four sessions: MB at the end."""
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
    return resident[-1]


async def idle(bench: Bench) -> None:
    """A server that nobody uses: the memory of all its processes, and its processor time."""
    found, percent = {}, {}
    for kind, command in (("ours", OURS), ("one tool that does nothing", NOTHING)):
        async with bench.stdio(command) as (_, server):
            await quiet(server)
            await asyncio.sleep(5)
            await quiet(server)
            found[kind] = sum(pss(tree(server)))
            bench.value(f"an idle server, {kind}, all processes, PSS, MB", found[kind])
            bench.value("that server's own process, PSS, MB", pss([server])[0])
            percent[kind] = await busy(server)
            bench.value(f"an idle server, {kind}, % of a core", percent[kind])
    bench.target(
        "idle server, 2 warm kernels, usual preload, all processes, MB", found["ours"], 220
    )
    bench.target("idle server, % of a core", percent["ours"], 0.1)
