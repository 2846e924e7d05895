"""How far one server goes, and what it is that gives out: `python benchmarks/scaling.py`.

Measures processor time and memory by the run and by the session, since those add up where
throughput on one machine does not: its clients and kernels want the same cores. The rival is
jupyter_client by itself, in a process that does nothing but send cells to as many kernels and
wait for them. `docs/scaling.md` has what comes of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
from fastmcp import Client
from jupyter_client.manager import start_new_async_kernel
from run import TOKEN, Bench, pss

SECONDS = 8.0
CALLERS = (1, 4, 16)
Call = Callable[[], Awaitable[Any]]


def processor(process: psutil.Process) -> tuple[float, float]:
    """Seconds of processor time of a process, and of all that it has started, ended or not."""
    own = process.cpu_times()
    others = own.children_user + own.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            others += sum(child.cpu_times()[:4])
    return own.user + own.system, others


def tree(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


async def busy(calls: list[Call]) -> int:
    """How often all callers together are answered, each asking again at once."""
    ends = time.perf_counter() + SECONDS

    async def ask(call: Call) -> int:
        count = 0
        while time.perf_counter() < ends:
            await call()
            count += 1
        return count

    return sum(await asyncio.gather(*(ask(call) for call in calls)))


class Rate:
    """What answering costs: `async with Rate(...) as rate`, and count in between."""

    def __init__(self, bench: Bench, what: str, server: psutil.Process, *more: psutil.Process):
        self._bench, self._what, self._server, self._more = bench, what, server, more
        self.count = 0

    def _taken(self) -> tuple[float, float]:
        server, others = processor(self._server)
        return server, others + sum(sum(processor(one)) for one in self._more)

    async def __aenter__(self) -> Rate:
        self._before, self._began = self._taken(), time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        after, lasted = self._taken(), time.perf_counter() - self._began
        server, rest = (1000 * (b - a) for a, b in zip(self._before, after, strict=True))
        self._bench.figures |= {
            f"{self._what}: a second": self.count / lasted,
            f"{self._what}: processor of the server, ms each": server / max(1, self.count),
            f"{self._what}: of kernels and engine, ms each": rest / max(1, self.count),
        }


async def cells(bench: Bench, kind: str, engine: psutil.Process | None, **more: str) -> None:
    """Warm cells of several callers at once, each with a session and a connection of its own."""
    async with (
        bench.http(RMI_AGENT_KERNEL_MAX="64", **more) as (url, server),
        contextlib.AsyncExitStack() as stack,
    ):
        calls: list[Call] = []
        for count in CALLERS:
            while len(calls) < count:
                client = await stack.enter_async_context(Client(url, auth=TOKEN))
                first = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
                facts = first.structured_content or {}
                arguments = {"code": "1 + 1", "session_id": facts["session_id"]}

                async def call(client: Client[Any] = client, arguments: Any = arguments) -> None:
                    result = await client.call_tool_mcp("run_cell", arguments)
                    assert (result.structured_content or {})["status"] == "ok", result

                calls.append(call)
            await asyncio.sleep(3)
            others = [engine] if engine is not None else []
            async with Rate(bench, f"cells, {kind}, {count} callers", server, *others) as rate:
                rate.count = await busy(calls)


async def raw(bench: Bench) -> None:
    """The same by jupyter_client alone, in this process."""
    started = [await start_new_async_kernel() for _ in range(max(CALLERS))]
    calls: list[Call] = []
    for _, kernel in started:

        async def call(kernel: Any = kernel) -> None:
            request = kernel.execute("1 + 1", allow_stdin=False)
            reply = asyncio.ensure_future(kernel.get_shell_msg())
            while True:
                message = await kernel.get_iopub_msg()
                mine = message["parent_header"].get("msg_id") == request
                if mine and message["content"].get("execution_state") == "idle":
                    break
            await reply

        await call()
        calls.append(call)
    for count in CALLERS:
        async with Rate(bench, f"cells, jupyter_client, {count} callers", psutil.Process()) as rate:
            rate.count = await busy(calls[:count])
    for manager, kernel in started:
        kernel.stop_channels()
        await manager.shutdown_kernel(now=True)


async def files(bench: Bench) -> None:
    """A file in a fresh session, and the session's end, four callers."""
    async with (
        bench.http(RMI_AGENT_KERNEL_MAX="32") as (url, server),
        contextlib.AsyncExitStack() as stack,
    ):
        calls: list[Call] = []
        for _ in range(4):
            client = await stack.enter_async_context(Client(url, auth=TOKEN))

            async def call(client: Client[Any] = client) -> None:
                done = await client.call_tool_mcp("run_python", {"file_name": "hello.py"})
                facts = done.structured_content or {}
                assert facts["status"] == "ok", done
                await client.call_tool_mcp("close_session", {"session_id": facts["session_id"]})

            await call()
            calls.append(call)
        await asyncio.sleep(3)
        async with Rate(bench, "files in fresh sessions, 4 callers", server) as rate:
            rate.count = await busy(calls)


async def idle(bench: Bench) -> None:
    """What sessions take that nobody uses."""
    most = 40
    async with (
        bench.http(RMI_AGENT_KERNEL_MAX="64") as (url, server),
        Client(url, auth=TOKEN) as client,
    ):
        await asyncio.sleep(3)
        before, own = sum(pss(tree(server))), sum(pss([server]))
        for _ in range(most):
            await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
        await asyncio.sleep(70)  # the pool forgets that burst
        after, own_now = sum(pss(tree(server))), sum(pss([server]))
        taken, began = sum(processor(server)), time.perf_counter()
        await asyncio.sleep(20)
        taken = sum(processor(server)) - taken
        percent = 100 * taken / (time.perf_counter() - began)
        bench.figures |= {
            "an idle session: its kernel, MB": (after - before) / most,
            "an idle session: the server's part, MB": (own_now - own) / most,
            "the server with none, MB": own,
            "100 idle sessions: percent of a core": percent / most * 100,
        }


@contextlib.asynccontextmanager
async def jupyter_server(bench: Bench) -> AsyncIterator[tuple[dict[str, str], psutil.Process]]:
    """A Jupyter Server as the engine: what our settings are then, and its process."""
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = bench.folder / "jupyter"
    folder.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(folder), "JUPYTER_CONFIG_DIR": str(folder)},
        cwd=folder,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx2.AsyncClient() as client:
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


async def engine(bench: Bench) -> None:
    """Cells on a Jupyter Server, and what its kernels take."""
    async with jupyter_server(bench) as (settings, process):
        before = sum(pss([process, *tree(process)]))
        await cells(bench, "Jupyter Server", process, **settings, RMI_AGENT_SANDBOX="off")
        kernels = tree(process)
        bench.figures["Jupyter Server: it alone, MB"] = before
        bench.figures["Jupyter Server: processes left after the end"] = len(kernels)


async def local(bench: Bench) -> None:
    """Cells on kernels of this machine."""
    await cells(bench, "here", None)


PARTS = {part.__name__: part for part in (local, raw, files, idle, engine)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmi") as folder:
        bench = Bench(Path(folder), 200)
        for name in arguments.only:
            asyncio.run(PARTS[name](bench))
    for name, value in bench.figures.items():
        print(f"{name:<72}{value:10.2f}")
    ours = bench.figures.get("cells, here, 16 callers: processor of the server, ms each")
    theirs = bench.figures.get(
        "cells, jupyter_client, 16 callers: processor of the server, ms each"
    )
    if ours and theirs:
        print(f"\nprocessor time of a cell, the server's ÷ jupyter_client's {ours / theirs:18.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.figures, indent=1))


if __name__ == "__main__":
    main()
