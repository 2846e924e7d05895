"""How far one server goes, and what gives out first: `python -m benchmarks.scaling`.

Prints both tables of `docs/scaling.md` as they stand there. Measures processor time and memory of
each run and session, since those add up where throughput does not: on one machine, clients and
kernels want the same cores. The rival is jupyter_client in a process that only sends cells.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2
import psutil
from fastmcp import Client
from jupyter_client.manager import start_new_async_kernel

from .bench import TOKEN, Bench, close, run_cell, run_file
from .measure import Call, busy, processor, pss, quiet, tree, tree_processor
from .parts.cells import round_trip
from .parts.memory import long_life, session

SECONDS = 8.0  # of each rate
CALLERS = (1, 4, 16)
IDLE = 40  # sessions
FORGOTTEN = 70.0  # seconds after which the pool expects no such burst any more
PAUSE = 20.0  # seconds between two cells of an assistant, as docs/scaling.md assumes
Figures = dict[str, float]

MEASURED = {
    "an idle session on this machine": "{session:.0f} MB with the sandbox (a forked kernel; one"
    " that is started takes {stock:.0f})",
    "the server alone": "{server:.0f} MB, and {late:.0f} after {cells:,.0f} cells",
    "a hundred idle sessions": "{idle:.1f} % of a core",
    "a cell (`1 + 1`) over HTTP": "{here_server:.1f} ms of CPU for the server, {here_rest:.1f} ms"
    " for its kernel",
    "the same with jupyter_client alone": "{raw_server:.1f} ms and {raw_rest:.1f} ms: the server"
    " takes {times:.1f} times as much",
    "the same on a Jupyter Server": "{engine_server:.1f} ms of CPU for this server,"
    " {engine_rest:.1f} ms for Jupyter Server and kernel",
    "a file in a fresh session, including closing it": "{file_server:.0f} ms of CPU for the server,"
    " {file_rest:.0f} ms for all processes started",
    "a Jupyter Server alone": "{jupyter:.0f} MB",
    "cells per second, both cores shared with the clients": "{here_1:.0f} for one caller,"
    " {here_4:.0f} for four, {here_16:.0f} for sixteen",
    "files per second in fresh sessions, the same": "{files:.0f} for four callers",
}
CALCULATED = {
    "idle sessions in a gigabyte": "{gigabyte:.0f}",
    "cells per second that saturate one server": "{most:.0f}",
    "assistants at half of that rate, a cell every 20 seconds each": "{assistants:.0f}",
    "memory of 100 idle sessions and their server": "{hundred:.1f} GB",
    "servers for 10⁴ sessions: 500 cells per second": "{servers:.0f}",
    "memory of 625 kernels on one of 16 Jupyter Servers": "{machine:.0f} GB",
    "servers for 10⁶ sessions: 2,500 cells per second": "{many_servers:.0f}",
    "memory of 50,000 kernels on Jupyter Servers": "{many_kernels:.1f} TB",
}


def calculated(figures: Mapping[str, float]) -> Figures:
    """What follows from the measured figures; what misses one is left out."""
    found: Figures = {}
    with contextlib.suppress(KeyError):
        most = found["most"] = 1000 / figures["here_server"]
        found["assistants"] = most / 2 * PAUSE
        found["servers"], found["many_servers"] = (math.ceil(n / (most / 2)) for n in (500, 2500))
    with contextlib.suppress(KeyError):
        found["machine"] = 625 * figures["stock"] / 1000
        found["many_kernels"] = 50_000 * figures["stock"] / 1e6
    with contextlib.suppress(KeyError):
        found["gigabyte"] = 1000 / figures["session"]
        found["hundred"] = (100 * figures["session"] + figures["server"]) / 1000
    with contextlib.suppress(KeyError):
        found["times"] = figures["here_server"] / figures["raw_server"]
    return found


def markdown(heading: str, rows: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """A table of `docs/scaling.md`; a row whose figures are missing says so."""
    lines = [heading, "|---|---|"]
    for name, template in rows.items():
        try:
            lines.append(f"| {name} | {template.format_map(figures)} |")
        except KeyError as missing:
            lines.append(f"| {name} | not measured: {missing} |")
    return "\n".join(lines)


async def again(calls: list[Call]) -> tuple[int, float]:
    """How often all callers together are answered, each asking again at once; and seconds."""
    began = time.perf_counter()

    async def ask(call: Call) -> int:
        count = 0
        while time.perf_counter() < began + SECONDS:
            await call()
            count += 1
        return count

    done = sum(await asyncio.gather(*(ask(call) for call in calls)))
    return done, time.perf_counter() - began


async def rate(
    calls: list[Call], server: psutil.Process, *others: psutil.Process
) -> tuple[float, float, float]:
    """Answers per second, and processor ms of each: of the server, and of all other processes."""

    def taken() -> tuple[float, float]:
        own = processor(server)
        return own, tree_processor(server) - own + sum(tree_processor(one) for one in others)

    before = taken()
    count, lasted = await again(calls)
    own, rest = (1000 * (b - a) / count for a, b in zip(before, taken(), strict=True))
    return count / lasted, own, rest


async def cells(kind: str, bench: Bench, *others: psutil.Process, **settings: str) -> Figures:
    """Warm cells of several callers at once, each with a session and a connection of its own."""
    found: Figures = {}
    async with (
        bench.http(RMI_AGENT_KERNEL_MAX="64", **settings) as (url, server),
        contextlib.AsyncExitStack() as stack,
    ):
        calls: list[Call] = []
        for count in CALLERS:
            while len(calls) < count:
                client = await stack.enter_async_context(Client(url, auth=TOKEN))
                name = await run_cell(client)
                calls.append(lambda client=client, name=name: run_cell(client, name))  # type: ignore[misc]
            await quiet(server, *others)
            each, own, rest = await rate(calls, server, *others)
            found |= {f"{kind}_{count}": each, f"{kind}_server": own, f"{kind}_rest": rest}
    return found


async def local(bench: Bench) -> Figures:
    """Cells on kernels of this machine."""
    return await cells("here", bench)


async def raw(bench: Bench) -> Figures:
    """The same by jupyter_client alone, in this process."""
    started = [await start_new_async_kernel(stderr=subprocess.DEVNULL) for _ in range(max(CALLERS))]
    try:
        calls: list[Call] = [lambda kernel=kernel: round_trip(kernel) for _, kernel in started]  # type: ignore[misc]
        for call in calls:
            await call()
        _, own, rest = await rate(calls, psutil.Process())
        return {"raw_server": own, "raw_rest": rest}
    finally:
        for manager, kernel in started:
            kernel.stop_channels()
            await manager.shutdown_kernel(now=True)


async def files(bench: Bench) -> Figures:
    """A file in a fresh session, and the session's end, four callers."""
    async with (
        bench.http(RMI_AGENT_KERNEL_MAX="32") as (url, server),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Client(url, auth=TOKEN)) for _ in range(4)]

        async def once(client: Client) -> None:  # type: ignore[type-arg]
            await close(client, await run_file(client))

        calls: list[Call] = [lambda client=client: once(client) for client in clients]  # type: ignore[misc]
        for call in calls:
            await call()
        await quiet(server)
        each, own, rest = await rate(calls, server)
        return {"files": each, "file_server": own, "file_rest": rest}


async def idle(bench: Bench) -> Figures:
    """What a server takes, and what sessions take that nobody uses."""
    async with bench.http_client(RMI_AGENT_KERNEL_MAX="64") as (client, server):
        await quiet(server)
        alone = sum(pss([server]))
        for _ in range(IDLE):
            await run_cell(client)
        await asyncio.sleep(FORGOTTEN)
        await quiet(server)
        percent = await busy(server)
        return {"server": alone, "idle": percent / IDLE * 100}


async def memory(bench: Bench) -> Figures:
    """The two parts of `benchmarks.run` that measure memory."""
    ours, stock = (await session(bench)).values()
    late = await long_life(bench)
    return {"session": ours, "stock": stock, "late": late, "cells": 50.0 * bench.rounds}


async def engine(bench: Bench) -> Figures:
    """Cells on a Jupyter Server, and what its kernels take."""
    async with jupyter_server(bench) as (settings, process):
        alone = sum(pss(tree(process)))
        found = await cells("engine", bench, process, **settings, RMI_AGENT_SANDBOX="off")
        return {**found, "jupyter": alone}


@contextlib.asynccontextmanager
async def jupyter_server(bench: Bench) -> AsyncIterator[tuple[dict[str, str], psutil.Process]]:
    """A Jupyter Server as the engine: our settings for it, and its process."""
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = bench.folder / "jupyter"
    folder.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        env=bench.env(JUPYTER_RUNTIME_DIR=str(folder), JUPYTER_CONFIG_DIR=str(folder)),
        cwd=folder,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx2.AsyncClient() as client, asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(f"{url}/api")).is_success:
                        break
                await asyncio.sleep(0.2)
        settings = {"RMI_AGENT_JUPYTER_SERVER_URL": url, "RMI_AGENT_JUPYTER_SERVER_TOKEN": token}
        yield settings, psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


PARTS = {part.__name__: part for part in (local, raw, files, idle, memory, engine)}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="50 cells each, of the long run")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), arguments.rounds, Path(folder))
        for name in arguments.only:
            try:
                figures |= asyncio.run(PARTS[name](bench))
            except Exception as error:  # the other parts are measured all the same
                print(f"{name} failed: {error!r:.300}", file=sys.stderr)
    figures |= calculated(figures)
    for heading, rows in (
        ("| measured | cost |", MEASURED),
        ("| calculated from these | |", CALCULATED),
    ):
        print(f"\n{markdown(heading, rows, figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
