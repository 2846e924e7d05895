"""Many sessions on one server: twenty that start at once, and a hundred that are open."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

from ..bench import BY_SUBPROCESS, Bench, close, run_cell
from ..measure import busy, interleaved, median, p95, pss, quiet, times, tree
from .files import by_subprocess

AT_ONCE = 20
MANY = 100
FORGOTTEN = 125.0  # seconds after which the pool has given up the spares for such a burst


async def burst(bench: Bench) -> None:
    """Twenty new sessions at once: the slowest answer on a server that has seen no such burst."""
    first: list[float] = []
    second: list[float] = []
    for number in range(3):
        async with bench.http_client(RMI_AGENT_KERNEL_MAX="64") as (client, server):
            for slowest in (first, second):
                sessions: list[str] = []

                async def new(sessions: list[str] = sessions) -> None:
                    sessions.append(await run_cell(client))

                await quiet(server)
                found = await asyncio.gather(*(times(new) for _ in range(AT_ONCE)))
                slowest.append(max(value for values in found for value in values))
                for session in sessions:
                    await close(client, session)
        bench.value(f"server {number + 1}: {AT_ONCE} new sessions at once, slowest, ms", first[-1])
        bench.value("the same once more, ms", second[-1])
    async with bench.stdio(BY_SUBPROCESS) as (rival, _):
        await by_subprocess(bench, rival)
        found = await asyncio.gather(
            *(times(lambda: by_subprocess(bench, rival)) for _ in range(AT_ONCE))
        )
    slowest_bare = max(value for values in found for value in values)
    bench.value(f"a bare subprocess tool, {AT_ONCE} files at once, slowest, ms", slowest_bare)
    bench.target("20 new sessions at once, first time, slowest, ms", median(first), 350)


async def hundred(bench: Bench) -> None:
    """`1 + 1` round robin on servers with 4 and with 100 sessions; the memory of the latter."""
    async with contextlib.AsyncExitStack() as stack:
        few, few_server = await stack.enter_async_context(bench.http_client())
        many, many_server = await stack.enter_async_context(
            # With room for the spares after so many: idle sessions would have to make it.
            bench.http_client(RMI_AGENT_KERNEL_MAX=str(2 * MANY))
        )
        await quiet(few_server, many_server)
        turns: dict[str, Iterator[str]] = {}
        for kind, client, count in (("4", few, 4), ("100", many, MANY)):
            turns[kind] = itertools.cycle([await run_cell(client) for _ in range(count)])
        await asyncio.sleep(FORGOTTEN)
        await quiet(few_server, many_server)
        megabytes = sum(pss(tree(many_server)))
        percent = await busy(many_server)
        calls = {
            "4": lambda: run_cell(few, next(turns["4"])),
            "100": lambda: run_cell(many, next(turns["100"])),
        }
        await interleaved(calls, MANY, block=10)
        found = await interleaved(calls, max(100, 2 * bench.rounds), block=10, skipped=0)
    for kind, values in found.items():
        bench.values(f"1 + 1, {kind} sessions, HTTP, ms", values)
    ratio = p95(found["100"]) / p95(found["4"])
    bench.target("1 + 1, 100 sessions, p95 ÷ with 4", ratio, 1.2)
    bench.value("100 idle sessions with their server, % of a core", percent)
    gigabytes = bench.value("100 idle sessions with their server, PSS, GB", megabytes / 1000)
    bench.target("memory of 100 sessions with the server, GB", gigabytes, 1.7)
