"""What this server costs, beside its rivals in the same run: `python benchmarks/run.py`.

Rivals: the raw round trip of jupyter_client, kernels of the stock provisioner, an MCP tool that
does nothing, and one that does `subprocess.run([python, file])`, as servers of this kind
usually do. Every figure is a median or a 95th percentile of one run on one machine; the ratios
are what counts. `--json FILE` writes all of it there too, `--only PART` runs some parts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from jupyter_client.manager import start_new_async_kernel
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import TIERS, Kernel, Launch, Policy, why_not
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.process import ipython_folder
from rmi_agent.kernels.protocol.outputs import Outputs

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
TOKEN = secrets.token_urlsafe(32)
ALL_FOR_US = {
    "RMI_AGENT_TOKEN": TOKEN,
    "RMI_AGENT_RATE_LIMIT": "0",
    "RMI_AGENT_SESSIONS_PER_USER": "1000",
}
HELLO = "print('Hello, World!')\n"
IMPORTS = "import pandas, matplotlib.pyplot as plt\nprint(len(pandas.DataFrame([1, 2])))\n"
NOTHING = """
from fastmcp import FastMCP
mcp = FastMCP("nothing")
@mcp.tool
async def nothing(code: str) -> str:
    "Do nothing."
    return "2"
mcp.run(show_banner=False, log_level="ERROR")
"""
BY_SUBPROCESS = """
import asyncio, subprocess, sys
from fastmcp import FastMCP
mcp = FastMCP("subprocess")
@mcp.tool
async def run_python(file_name: str) -> str:
    "Run a file."
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, file_name], capture_output=True, text=True)
    return done.stdout + done.stderr
mcp.run(show_banner=False, log_level="ERROR")
"""
STOCK = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Stock",
    "language": "python",
    "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
}


@dataclass
class Target:
    """A figure or ratio, and the bound that it is to keep."""

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class Bench:
    """What the parts share: a folder, the rivals' files, and what has been found."""

    folder: Path
    rounds: int
    figures: dict[str, float] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, text in (("hello", HELLO), ("imports", IMPORTS)):
            (self.projects / f"{name}.py").write_text(text)
        (self.folder / "nothing.py").write_text(NOTHING)
        (self.folder / "by_subprocess.py").write_text(BY_SUBPROCESS)
        (self.folder / "kernels" / "stock").mkdir(parents=True)
        (self.folder / "kernels" / "stock" / "kernel.json").write_text(json.dumps(STOCK))

    @property
    def projects(self) -> Path:
        path = self.folder / "python_projects"
        path.mkdir(exist_ok=True)
        return path

    def env(self, **more: str) -> dict[str, str]:
        own = {
            "PYTHON_PROJECTS_DIR": str(self.projects),
            "RMI_AGENT_NOTEBOOKS_DIR": str(self.folder / "notebooks"),
            "JUPYTER_PATH": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "data"),
        }
        return {**os.environ, **own, **more}

    def stdio(self, command: list[str], **more: str) -> Client[Any]:
        transport = StdioTransport(command[0], command[1:], env=self.env(**more), keep_alive=False)
        return Client(transport)

    @contextlib.asynccontextmanager
    async def http(self, **more: str) -> AsyncIterator[tuple[str, psutil.Process]]:
        command = [*SERVER[:-1], "info", "--transport", "http", "--port", "0"]
        process = await asyncio.create_subprocess_exec(
            *command, env=self.env(**ALL_FOR_US, **more), stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        async for line in process.stderr:
            if b"MCP at " in line:
                break
        reading = asyncio.create_task(process.stderr.read())
        try:
            yield line.decode().split("MCP at ")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            await asyncio.wait({reading})
            await process.wait()


async def times(call: Callable[[], Awaitable[Any]], rounds: int, pause: float = 0) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for _ in range(rounds):
        await asyncio.sleep(pause)
        started = time.perf_counter()
        await call()
        found.append(1000 * (time.perf_counter() - started))
    return found


async def median(call: Callable[[], Awaitable[Any]], rounds: int, pause: float = 0) -> float:
    """Milliseconds of a call, once it is warm."""
    await times(call, min(20, rounds))
    return statistics.median(await times(call, rounds, pause))


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def pss(processes: list[psutil.Process]) -> list[float]:
    """Megabytes of each, with shared memory counted in parts."""
    return [process.memory_full_info().pss / 1e6 for process in processes]


# -- the parts


async def cells(bench: Bench) -> None:
    """A warm cell, over each transport, against what it can't do without."""
    manager, kernel = await start_new_async_kernel()

    async def raw() -> None:
        request = kernel.execute("1 + 1", allow_stdin=False)
        reply = asyncio.ensure_future(kernel.get_shell_msg())
        while True:
            message = await kernel.get_iopub_msg()
            mine = message["parent_header"].get("msg_id") == request
            if mine and message["content"].get("execution_state") == "idle":
                break
        await reply

    async def idle() -> None:
        await nothing.call_tool_mcp("nothing", {"code": "1 + 1"})

    async def cell() -> None:
        await client.call_tool_mcp("run_cell", {"code": "1 + 1", "session_id": session})

    # One after the other, several times: the machine's moods are then everybody's.
    found: dict[str, list[float]] = {"raw": [], "nothing": [], "stdio": [], "http": []}
    async with contextlib.AsyncExitStack() as stack:
        nothing = await stack.enter_async_context(
            bench.stdio([sys.executable, str(bench.folder / "nothing.py")])
        )
        ours = await stack.enter_async_context(bench.stdio(SERVER))
        url, _ = await stack.enter_async_context(bench.http())
        remote = await stack.enter_async_context(Client(url, auth=TOKEN))
        sessions = {}
        for client in (ours, remote):
            result = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
            sessions[client] = result.structured_content["session_id"]  # type: ignore[index]
        for turn in range(6):
            for name, call, client in (
                ("raw", raw, ours),
                ("nothing", idle, ours),
                ("stdio", cell, ours),
                ("http", cell, remote),
            ):
                session = sessions[client]
                values = await times(call, bench.rounds // 5)
                found[name] += values if turn else []
    kernel.stop_channels()
    await manager.shutdown_kernel(now=True)
    raw_time, nothing_time, stdio, http = (statistics.median(row) for row in found.values())
    bench.figures |= {
        "raw jupyter_client round trip, ms": raw_time,
        "a tool that does nothing, stdio, ms": nothing_time,
        "run_cell, warm, stdio, ms": stdio,
        "run_cell, warm, HTTP, ms": http,
    }
    ratio = stdio / (raw_time + nothing_time)
    bench.targets.append(Target("warm run_cell ÷ (raw + nothing)", ratio, 1.3))


async def files(bench: Bench) -> None:
    """A file in a fresh session; a pause lets the pool refill, as between two calls of a chat."""
    found: dict[tuple[str, str], float] = {}
    async with (
        bench.stdio(SERVER) as ours,
        bench.stdio([sys.executable, str(bench.folder / "by_subprocess.py")]) as rival,
    ):
        for name in ("hello", "imports"):
            opened: list[str] = []

            async def run(name: str = name, opened: list[str] = opened) -> None:
                result = await ours.call_tool_mcp("run_python", {"file_name": f"{name}.py"})
                opened.append(result.structured_content["session_id"])  # type: ignore[index]

            async def by_subprocess(name: str = name) -> None:
                file = str(bench.projects / f"{name}.py")
                await rival.call_tool_mcp("run_python", {"file_name": file})

            values: dict[str, list[float]] = {"ours": [], "subprocess": []}
            for _ in range(max(10, bench.rounds // 10)):
                await asyncio.sleep(0.7)
                values["ours"] += await times(run, 1)
                values["subprocess"] += await times(by_subprocess, 1)
                await ours.call_tool_mcp("close_session", {"session_id": opened.pop()})
            for side, row in values.items():
                found[name, side] = statistics.median(row[3:])
                bench.figures[f"run_python {name}, {side}, ms"] = found[name, side]
    ratio = found["hello", "ours"] / found["hello", "subprocess"]
    bench.targets.append(Target("run_python hello ÷ by subprocess", ratio, 1.0))
    times_faster = found["imports", "subprocess"] / found["imports", "ours"]
    bench.targets.append(
        Target("pandas and pyplot, times faster than by subprocess", times_faster, 20, True)
    )


async def sustained(bench: Bench) -> None:
    """Eight clients that run a file in fresh sessions, one after the other."""
    rates = {}
    for kind, more in (
        ("forked", {}),
        ("stock", {"RMI_AGENT_KERNEL_NAME": "stock", "RMI_AGENT_SANDBOX": "off"}),
    ):
        async with bench.http(**more) as (url, _), contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(url, auth=TOKEN)) for _ in range(8)]
            await asyncio.sleep(5)
            ends, done = time.perf_counter() + 15, 0

            async def work(client: Client[Any]) -> int:
                count = 0
                while time.perf_counter() < ends:  # noqa: B023
                    result = await client.call_tool_mcp("run_python", {"file_name": "hello.py"})
                    assert "Hello" in result.content[0].text, result  # type: ignore[union-attr]
                    count += 1
                return count

            done = sum(await asyncio.gather(*(work(client) for client in clients)))
            rates[kind] = done / 15
            bench.figures[f"run_python hello, 8 clients, {kind}, a second"] = rates[kind]
    bench.targets += [
        Target("run_python hello, 8 clients, a second", rates["forked"], 50, True),
        Target("that ÷ stock", rates["forked"] / rates["stock"], 6, True),
    ]


async def starts(bench: Bench) -> None:
    """A kernel's start to its first answer, without the pool."""
    launches = {
        "stock": Launch(bench.folder, bench.folder, "stock", env=bench.env()),
        "forked": Launch(bench.folder, bench.folder, env=bench.env()),
    }

    async def start(launch: Launch) -> None:
        kernel = kernels.setdefault(id(launch), Kernel(launch))
        await kernel.start()
        await kernel.run_cell("1 + 1", Outputs(new_code_cell()))

    found: dict[str, list[float]] = {"stock": [], "forked": []}
    kernels: dict[int, Kernel] = {}
    os.environ["JUPYTER_PATH"] = str(bench.folder)
    for turn, (kind, launch) in itertools.product(range(12), launches.items()):
        values = await times(lambda launch=launch: start(launch), 1)  # type: ignore[misc]
        await kernels.pop(id(launch)).close(graceful=False)
        await asyncio.sleep(2 if turn == 0 else 0.3)
        found[kind] += values if turn else []
    TEMPLATES.close()
    stock, forked = (statistics.median(row) for row in found.values())
    bench.figures |= {
        "kernel to first answer, stock, ms": stock,
        "kernel to first answer, forked, ms": forked,
    }
    bench.targets += [
        Target("kernel to first answer, ms", forked, 40),
        Target("times sooner than stock", stock / forked, 8, True),
    ]


async def sandboxed(bench: Bench) -> None:
    """What the best sandbox of this machine costs: warm cells, and starts without the pool."""
    own = {"IPYTHONDIR": str(ipython_folder(bench.folder / "ipython"))}  # as a server does it
    plain = Launch(bench.projects, bench.folder, env=bench.env(**own))
    works = [
        policy
        for tier in TIERS
        if not why_not(policy := Policy(tier, bench.projects, bench.folder / "homes"))
    ]
    if not works:
        return
    boxed = works[0].sandbox("bench", bench.folder).launch(plain)
    launches = {"off": plain, "on": boxed}
    starting: dict[str, list[float]] = {"off": [], "on": []}
    answering: dict[str, list[float]] = {"off": [], "on": []}

    async def cell(kernel: Kernel) -> None:
        await kernel.run_cell("1 + 1", Outputs(new_code_cell()))

    async def start(kernel: Kernel) -> None:
        await kernel.start()
        await cell(kernel)

    for turn in range(13):
        kernels = {kind: Kernel(launch) for kind, launch in launches.items()}
        for kind, kernel in kernels.items():
            first = await times(functools.partial(start, kernel), 1)
            starting[kind] += first if turn else []
        for _ in range(4):
            for kind, kernel in kernels.items():
                answering[kind] += await times(functools.partial(cell, kernel), 15)
        for kernel in kernels.values():
            await kernel.close(graceful=False)
        await asyncio.sleep(0.5)
    TEMPLATES.close()
    for what, found, bound in (("fresh kernel", starting, 1.3), ("warm cell", answering, 1.05)):
        off, on = (statistics.median(row) for row in found.values())
        bench.figures |= {f"{what}, no sandbox, ms": off, f"{what}, {works[0].tier}, ms": on}
        bench.targets.append(Target(f"{what}, sandbox on ÷ off", on / off, bound))


async def burst(bench: Bench) -> None:
    """Twenty new sessions at once, with a pool that expects few, and one that has seen it."""
    async with bench.http(RMI_AGENT_KERNEL_MAX="64") as (url, _), Client(url, auth=TOKEN) as client:
        await asyncio.sleep(5)
        for kind in ("the first", "the second"):

            async def first_cell() -> tuple[float, str]:
                started = time.perf_counter()
                result = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
                facts = result.structured_content or {}
                return 1000 * (time.perf_counter() - started), facts["session_id"]

            found = await asyncio.gather(*(first_cell() for _ in range(20)))
            slowest = max(taken for taken, _ in found)
            bench.figures[f"20 new sessions at once, {kind} time, slowest, ms"] = slowest
            await asyncio.sleep(6)
            for _, session in found:
                await client.call_tool_mcp("close_session", {"session_id": session})
            await asyncio.sleep(3)
    bench.targets.append(Target("20 new sessions at once, slowest, pool warm, ms", slowest, 400))


async def memory(bench: Bench) -> None:
    """What an idle session takes that has run a cell."""
    found = {}
    for kind, more in (
        ("forked", {}),
        ("stock", {"RMI_AGENT_KERNEL_NAME": "stock", "RMI_AGENT_SANDBOX": "off"}),
    ):
        async with (
            bench.http(RMI_AGENT_KERNEL_MAX="30", **more) as (url, server),
            Client(url, auth=TOKEN) as client,
        ):
            await asyncio.sleep(4)
            for _ in range(20):
                await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
            await asyncio.sleep(2)
            tree = server.children(recursive=True)
            found[kind] = statistics.median(pss(tree))
            bench.figures[f"memory of an idle session, {kind}, MB"] = found[kind]
    bench.targets += [
        Target("memory of an idle session, MB", found["forked"], 20),
        Target("that ÷ stock", found["forked"] / found["stock"], 0.55),
    ]


async def hundred(bench: Bench) -> None:
    """A cell in each of many sessions, round robin."""
    found = {}
    more = {"RMI_AGENT_KERNEL_MAX": "110"}
    async with bench.http(**more) as (url, server), Client(url, auth=TOKEN) as client:
        sessions: list[str] = []
        for count in (4, 100):
            while len(sessions) < count:
                result = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
                sessions.append(result.structured_content["session_id"])  # type: ignore[index]
            await asyncio.sleep(2 if count == 4 else 65)  # the pool forgets that burst
            turns = itertools.cycle(sessions)

            async def cell(turns: Any = turns) -> None:
                arguments = {"code": "1 + 1", "session_id": next(turns)}
                await client.call_tool_mcp("run_cell", arguments)

            await times(cell, 100)
            found[count] = p95(await times(cell, max(300, bench.rounds)))
            bench.figures[f"1 + 1, {count} sessions, 95th percentile, ms"] = found[count]
        tree = sum(pss([server, *server.children(recursive=True)])) / 1000
        bench.figures["100 sessions, server and kernels, GB"] = tree
    bench.targets += [
        Target("p95 with 100 sessions ÷ with 4", found[100] / found[4], 1.5),
        Target("100 sessions, whole tree, GB", tree, 2.5),
    ]


async def long_life(bench: Bench) -> None:
    """The server's own memory after many cells."""
    total, found = 50 * bench.rounds, []
    async with bench.http() as (url, server), Client(url, auth=TOKEN) as client:
        sessions = []
        for _ in range(4):
            result = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
            sessions.append(result.structured_content["session_id"])  # type: ignore[index]
        for tenth in range(10):

            async def work(session: str) -> None:
                for number in range(total // 40):
                    arguments = {"code": f"print({number})", "session_id": session}
                    await client.call_tool_mcp("run_cell", arguments)

            await asyncio.gather(*(work(session) for session in sessions))
            found.append(server.memory_info().rss / 1e6)
            bench.figures[f"server after {total * (tenth + 1) // 10:,} cells, MB"] = found[-1]
    bench.targets += [
        Target(f"server after {total:,} cells, MB", found[-1], 120),
        Target("that ÷ at three tenths", found[-1] / found[2], 1.1),
    ]


PARTS = {
    part.__name__: part
    for part in (cells, files, starts, sandboxed, sustained, burst, memory, hundred, long_life)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="calls of the quick ones")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmi") as folder:
        bench = Bench(Path(folder), arguments.rounds)
        for name in arguments.only:
            asyncio.run(PARTS[name](bench))
    for name, value in bench.figures.items():
        print(f"{name:<52}{value:10.2f}")
    print()
    for target in bench.targets:
        sign = "≥" if target.at_least else "≤"
        verdict = "met" if target.met else "missed"
        print(f"{target.name:<52}{target.value:10.2f}  {sign} {target.bound:<6g}{verdict}")
    if arguments.json:
        rows = [{**vars(target), "met": target.met} for target in bench.targets]
        arguments.json.write_text(json.dumps({"figures": bench.figures, "targets": rows}, indent=1))


if __name__ == "__main__":
    main()
