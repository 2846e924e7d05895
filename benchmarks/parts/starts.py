"""Starts: of a server until it has answered `initialize`, and of the client's commands."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..bench import NOTHING, OURS, RIVALS, Bench, Skipped
from ..measure import median, processor, quiet, tree_processor
from ..rivals.environments import ours

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "benchmarks", "version": "1"},
}
ANSWER = 120.0  # seconds at most
MODULE = "jupyter_server"  # where it is installed, some imports take much longer


@dataclass
class Start:
    """Milliseconds and processor milliseconds of a process until it had answered."""

    wall: float
    cpu: float
    first_cell: float = 0.0  # milliseconds until the answer to a first tool call


async def answer(process: asyncio.subprocess.Process, method: str, params: Any) -> None:
    """Send a request on stdio, and wait for its response."""
    assert process.stdin is not None and process.stdout is not None
    request = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    while line := await asyncio.wait_for(process.stdout.readline(), ANSWER):
        reply = json.loads(line)
        if reply.get("id") == method and "result" in reply:
            return
    raise RuntimeError(f"The server ended before it had answered {method}.")


async def started(bench: Bench, command: list[str], *, cell: bool = False) -> Start:
    """Start a server on stdio, ask it to initialize and, if `cell`, to run a cell; then end it."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        env=bench.env(),
        cwd=bench.folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    assert process.stdin is not None
    try:
        await answer(process, "initialize", INITIALIZE)
        wall = 1000 * (time.perf_counter() - began)
        found = Start(wall, 1000 * processor(psutil.Process(process.pid)))
        if cell:
            process.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
            params = {"name": "run_cell", "arguments": {"code": "1 + 1"}}
            await answer(process, "tools/call", params)
            found.first_cell = 1000 * (time.perf_counter() - began)
        return found
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def initialize(bench: Bench) -> None:
    """From a process's start to its answered `initialize`, with and without jupyter_server."""
    installed = importlib.util.find_spec(MODULE) is not None
    here, there = (f"with {MODULE}", "plain") if installed else ("plain", f"with {MODULE}")
    pythons = {here: sys.executable}
    try:
        more = [] if installed else [MODULE]
        folder = bench.environments / there.replace(" ", "-")
        pythons[there] = str(await ours(folder, *more) / "python")
    except Skipped as why:
        bench.skip(f"initialize, {there}", why)
    rounds = max(3, bench.rounds // 25)
    for kind, python in pythons.items():
        found: dict[str, list[Start]] = {"ours": [], "one tool that does nothing": []}
        for turn in range(1 + rounds):
            for side, command in zip(found, (OURS, NOTHING), strict=True):
                one = await started(bench, [python, *command[1:]], cell=side == "ours")
                found[side] += [one] if turn else []
        ours_, theirs = found.values()
        for side, starts in found.items():
            bench.values(f"initialize, {kind}, {side}, ms", [one.wall for one in starts])
            bench.values(f"initialize, {kind}, {side}, CPU ms", [one.cpu for one in starts])
        bench.values(f"start to the first cell, {kind}, ms", [one.first_cell for one in ours_])
        for what, name in (("wall", "initialize"), ("cpu", "CPU of it")):
            ratio = median([getattr(one, what) for one in ours_]) / median(
                [getattr(one, what) for one in theirs]
            )
            bench.target(f"{name} ÷ a FastMCP server with one tool, {kind}", ratio, 1.2)


async def commands(bench: Bench) -> None:
    """`rmi-agent --help` and `rmi-agent run`: processor seconds of all their processes."""
    if not sys.platform.startswith("linux"):
        raise Skipped("processes are counted on Linux only")
    script = Path(sys.executable).parent / "rmi-agent"
    client = [str(script)] if script.exists() else [sys.executable, "-m", "rmi_agent.cli"]
    (bench.projects / "hello_world.py").write_text("print('Hello, World!')\n")
    rounds = max(2, bench.rounds // 40)
    async with background(bench) as (server, own):
        kinds: dict[str, tuple[list[str], dict[str, str]]] = {
            "rmi-agent --help": (["--help"], {}),
            "rmi-agent run hello_world.py, alone": (["run", "hello_world.py"], {}),
            "rmi-agent run hello_world.py, background server": (["run", "hello_world.py"], own),
        }
        walls: dict[str, list[float]] = {kind: [] for kind in kinds}
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(1 + rounds):
            for kind, (arguments, more) in kinds.items():
                before = tree_processor(server)
                wall, spent = await counted(bench, [*client, *arguments], **more)
                await quiet(server)
                if more:
                    spent += tree_processor(server) - before
                walls[kind] += [wall] if turn else []
                seconds[kind] += [spent] if turn else []
    for (kind, spans), bound in zip(walls.items(), (0.3, 2.0, 1.2), strict=True):
        bench.values(f"{kind}, s", spans)
        spent = bench.values(f"{kind}, all processes, CPU s", seconds[kind])
        bench.target(f"{kind}, CPU s", spent, bound)


async def counted(bench: Bench, command: list[str], **more: str) -> tuple[float, float]:
    """Seconds until a command's end, and processor seconds of all that it has started.

    Raises:
        RuntimeError: it failed.
    """
    result = bench.folder / "counted.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(RIVALS / "counted.py"), str(result), *command),
        env=bench.env(**more),
        cwd=bench.folder,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} can't be counted: {said.decode()[-500:]}")
    found = json.loads(result.read_text())
    if found["code"] != 0:
        raise RuntimeError(f"{command} exited with {found['code']}: {said.decode()[-500:]}")
    return float(found["wall"]), float(found["processor"])


@contextlib.asynccontextmanager
async def background(bench: Bench) -> AsyncIterator[tuple[psutil.Process, dict[str, str]]]:
    """A background server, and the variables with which the client's commands find it."""
    own = {"XDG_STATE_HOME": str(bench.folder / "resident")}
    process = await asyncio.create_subprocess_exec(
        *(*OURS[:3], "start", "--foreground", "--log-level", "error"),
        env=bench.env(**own),
        cwd=bench.folder,
    )
    try:
        async with asyncio.timeout(ANSWER):
            while True:
                status = await asyncio.create_subprocess_exec(
                    *(*OURS[:3], "status"),
                    env=bench.env(**own),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                if await status.wait() == 0:
                    break
                await asyncio.sleep(0.3)
        server = psutil.Process(process.pid)
        await quiet(server)
        yield server, own
    finally:
        process.terminate()
        await process.wait()
