"""Fresh sessions with a file, as many as can be had: eight clients at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from fastmcp import Client

from ..bench import BY_SUBPROCESS, STOCK, TOKEN, Bench, close, run_file
from ..measure import Call, median, quiet
from .files import by_subprocess

CLIENTS = 8
SECONDS = 5.0  # of one kind before the next one's turn
TURNS = 3


async def rate(calls: list[Call]) -> float:
    """Calls per second, if each is made again at once."""
    began = time.perf_counter()

    async def again(call: Call) -> int:
        count = 0
        while time.perf_counter() < began + SECONDS:
            await call()
            count += 1
        return count

    done = sum(await asyncio.gather(*(again(call) for call in calls)))
    return done / (time.perf_counter() - began)


async def rates(bench: Bench) -> None:
    """Ours on stdio and HTTP, ours with stock kernels, and a bare subprocess tool, in turns."""
    async with contextlib.AsyncExitStack() as stack:
        ours, server = await stack.enter_async_context(bench.stdio())
        stock, stock_server = await stack.enter_async_context(bench.stdio(**STOCK))
        rival, _ = await stack.enter_async_context(bench.stdio(BY_SUBPROCESS))
        url, http_server = await stack.enter_async_context(bench.http())
        remote = [await stack.enter_async_context(Client(url, auth=TOKEN)) for _ in range(CLIENTS)]

        async def session(client: Client[Any]) -> None:
            await close(client, await run_file(client))

        kinds: dict[str, list[Call]] = {
            "stdio": [lambda: session(ours)] * CLIENTS,
            "stock kernels": [lambda: session(stock)] * CLIENTS,
            "a bare subprocess tool": [lambda: by_subprocess(bench, rival)] * CLIENTS,
            "HTTP": [lambda client=client: session(client) for client in remote],  # type: ignore[misc]
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(1 + TURNS):
            for kind, calls in kinds.items():
                await quiet(server, stock_server, http_server, most=8)
                value = await rate(calls)
                found[kind] += [value] if turn else []
    for kind, values in found.items():
        bench.value(f"fresh sessions with a file, 8 clients, {kind}, a second", median(values))
    stdio, stock_rate, bare, http = (median(values) for values in found.values())
    name = "fresh sessions with a file, 8 clients"
    bench.target(f"{name}, stdio, a second", stdio, 60, at_least=True)
    bench.target(f"{name}, HTTP, a second", http, 60, at_least=True)
    bench.target(f"{name}, ÷ stock kernels", stdio / stock_rate, 12, at_least=True)
    bench.target(f"{name}, ÷ a bare subprocess tool", stdio / bare, 0.5, at_least=True)
