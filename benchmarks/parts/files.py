"""A file in a fresh session, beside a tool that does `subprocess.run([python, file])`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastmcp import Client

from ..bench import BY_SUBPROCESS, Bench, call, close, run_file
from ..measure import interleaved, median, p95, quiet, split, times, tree_times

PAUSE = 0.7  # seconds between two calls, as in a chat: spare kernels are made meanwhile
IN_A_ROW = 60
TOO_MANY = 20  # sessions that are more than the server's kernels


async def by_subprocess(bench: Bench, rival: Client[Any], name: str = "hello.py") -> None:
    """The rival's call."""
    await call(rival, "run_python", file_name=str(bench.projects / name))


async def beside_subprocess(bench: Bench, name: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a file: with kernels to spare, with a full pool, and by subprocess."""
    async with (
        bench.stdio() as (ours, server),
        bench.stdio() as (full, full_server),
        bench.stdio(BY_SUBPROCESS) as (rival, _),
    ):
        for _ in range(TOO_MANY):
            await run_file(full)
        opened: list[str] = []

        async def run() -> None:
            opened.append(await run_file(ours, name))

        async def close_it() -> None:
            await close(ours, opened.pop())

        await quiet(server, full_server)
        calls = {
            "ours": run,
            "ours, full pool": lambda: run_file(full, name),
            "subprocess": lambda: by_subprocess(bench, rival, name),
        }
        found = await interleaved(calls, rounds, pause=PAUSE, skipped=3, after=close_it)
    for kind, values in found.items():
        bench.values(f"run_python {name}, {kind}, ms", values)
    return found


async def hello(bench: Bench) -> None:
    """A file that prints a line; and what a fresh session costs each process."""
    found = await beside_subprocess(bench, "hello.py", max(10, bench.rounds * 3 // 10))
    ours, theirs = found["ours"], found["subprocess"]
    bench.target("run_python hello ÷ by subprocess", median(ours) / median(theirs), 1.0)
    bench.target("the same, 95th percentiles", p95(ours) / p95(theirs), 1.0)
    await profile(bench)


async def profile(bench: Bench) -> None:
    """Processor time of fresh sessions with a file, which are closed; eight at once."""
    each = max(3, bench.rounds // 8)
    async with bench.stdio() as (client, server):

        async def work(count: int) -> None:
            for _ in range(count):
                await close(client, await run_file(client))

        await asyncio.gather(*(work(3) for _ in range(8)))
        await quiet(server)
        before = tree_times(server)
        await asyncio.gather(*(work(each) for _ in range(8)))
        await quiet(server)  # what was put off counts as well, and so do the spares
        taken = split(server, before, tree_times(server))
    found = {
        kind: bench.value(f"CPU of a fresh file session, {kind}, ms", 1000 * seconds / (8 * each))
        for kind, seconds in asdict(taken).items()
    }
    bench.target("server CPU of a fresh file session, ms", found["server"], 10)


async def imports(bench: Bench) -> None:
    """A file that imports pandas and pyplot."""
    found = await beside_subprocess(bench, "imports.py", max(5, bench.rounds // 10))
    theirs = median(found["subprocess"])
    name = "pandas and pyplot, times faster than by subprocess"
    bench.target(name, theirs / median(found["ours"]), 30, at_least=True)
    bench.target(f"{name}, full pool", theirs / median(found["ours, full pool"]), 25, at_least=True)


async def in_a_row(bench: Bench) -> None:
    """Files one after the other without a pause, in sessions that nobody closes."""
    middle, high = [], []
    async with bench.stdio(BY_SUBPROCESS) as (rival, _):
        for number in range(3):
            async with bench.stdio() as (ours, server):
                await quiet(server)
                values = await times(lambda ours=ours: run_file(ours), IN_A_ROW)  # type: ignore[misc]
            theirs = await times(lambda: by_subprocess(bench, rival), IN_A_ROW)
            first = median(values[:10])
            middle.append(median(values) / first)
            high.append(p95(values) / first)
            bench.value(f"server {number + 1}: the first 10 files, median, ms", first)
            bench.values(f"server {number + 1}: {IN_A_ROW} files in a row, ms", values)
            bench.values(f"by subprocess, {IN_A_ROW} files in a row, ms", theirs)
    bench.target("60 files in a row, nothing closed: median ÷ first ten", median(middle), 1.2)
    bench.target("the same, 95th percentile ÷ first ten", median(high), 2)
