"""A soak: `python -m benchmarks.soak [--minutes 30] [--clients 20] [--seed 1]`.

Clients on all three transports call random tools, with kernels that are killed, floods,
time limits and cancelled calls among them. In the end it says what has leaked and whether
every run that a client was told of is on record, and leaves with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from .harness import (
    SERVER,
    Acknowledged,
    check_notebooks,
    descriptors,
    drain,
    environ,
    http_server,
)

STDIO = SERVER[0], [*SERVER[1:], "--log-level", "warning"]
TOKEN = secrets.token_urlsafe(32)
FORGOTTEN = 75.0  # seconds; the pool keeps as many kernels as were asked for in the last minute
STUCK = 90.0  # seconds that a client's last action may take
MOST_GROWTH = 1.1  # the server's memory in the last third, against the first

CELLS = {
    "small": "x = globals().get('x', 0) + 1; x",
    "print": "print('row\\n' * 200)",
    "picture": "from IPython.display import Image; Image(data=b'\\x89PNG' + bytes(50_000))",
    "error": "1 / 0",
    "sleep": "import time; time.sleep(0.5)",
    "child": "import subprocess; subprocess.Popen(['sleep', '3600']); None",
    "thread": "import threading; threading.Thread(target=print, args=('late',)).start()",
    "flood": "while True: print('f' * 1000)",
    "huge": "print('h' * 30_000_000)",
    "binary": "import os; os.write(1, os.urandom(100_000))",
    "exit": "import os; os._exit(3)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "timeout": "while True: pass",
    "memory": "x = [bytearray(b'x' * 1_000_000) for _ in range(1000)]",
    "question": "input('? ')",
    "sabotage": "get_ipython().kernel.session.key = b'x'",
}
RARE = {"flood", "huge", "timeout", "memory", "segfault", "killed", "exit"}


@dataclass
class Record:
    """What the clients were told."""

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    runs: list[Acknowledged] = field(default_factory=list)


class User:
    """One client, doing one thing after the other."""

    def __init__(self, client: Client[Any], chance: random.Random, record: Record) -> None:
        self.client, self.chance, self.record = client, chance, record
        self.session: str | None = None
        self.last: dict[str, Any] = {}

    async def live(self, ends: float) -> None:
        async with asyncio.timeout(ends + STUCK - time.monotonic()), self.client:
            while time.monotonic() < ends:
                await getattr(self, self.chance.choice(ACTIONS))()

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self.record.calls[tool] += 1
        given = {name: value for name, value in arguments.items() if value is not None}
        result = await self.client.call_tool_mcp(tool, given)
        if result.is_error:
            self.session = None
            text = result.content[0].text  # type: ignore[union-attr]
            self.record.errors[re.sub(r"(Session|Cell) \S+", r"\1 …", text)[:60]] += 1
            return {}
        facts = result.structured_content or {}
        if "status" in facts:
            self.record.statuses[facts["status"]] += 1
            self.session, self.last = facts["session_id"], facts
            if facts["status"] != "running" and facts["notebook"]:
                self.record.runs.append(
                    Acknowledged(facts["notebook"], facts["cell"], facts["status"])
                )
        return facts

    async def cell(self) -> None:
        name = self.chance.choice(list(CELLS))
        if name in RARE and self.chance.random() < 0.7:
            name = "small"
        await self.call("run_cell", code=CELLS[name], session_id=self.session, timeout=4)

    async def file(self) -> None:
        session = self.session if self.chance.random() < 0.5 else None
        await self.call("run_python", file_name="hello.py", args=["a"], session_id=session)

    async def write(self) -> None:
        name = f"made{self.chance.randrange(5)}.py"
        await self.call("write_python_file", file_name=name, content="print(1)")
        await self.call("run_python", file_name=name, session_id=self.session)

    async def look(self) -> None:
        await self.call(self.chance.choice(["list_sessions", "list_python_files"]))

    async def read(self) -> None:
        if self.last:
            keys = {name: self.last[name] for name in ("session_id", "cell")}
            await self.call("read_output", **keys, wait=2)

    async def button(self) -> None:
        if self.session:
            tool = self.chance.choice(["interrupt_session", "restart_session", "close_session"])
            session, self.session = self.session, None
            await self.call(tool, session_id=session)

    async def cancel(self) -> None:
        code = "import time; time.sleep(30)"
        calling = asyncio.create_task(
            self.call("run_cell", code=code, session_id=self.session, timeout=60)
        )
        await asyncio.sleep(self.chance.random())
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling


ACTIONS = ["cell"] * 8 + ["file"] * 2 + ["read", "look", "write", "button", "cancel"]


def environment(folder: Path, name: str) -> dict[str, str]:
    projects = folder / name / "python_projects"
    projects.mkdir(parents=True)
    (projects / "hello.py").write_text("import sys; print('hello', sys.argv)\n")
    return {
        **os.environ,
        "PYTHON_PROJECTS_DIR": str(projects),
        "RMI_AGENT_RESPONSE_DEADLINE": "3",
        "RMI_AGENT_OUTPUT_LIMIT": "5000000",
        "RMI_AGENT_MEMORY_LIMIT": "500MB",
        "RMI_AGENT_TOKEN": TOKEN,
        "RMI_AGENT_RATE_LIMIT": "0",
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }


@dataclass
class Sample:
    memory: int
    files: int


async def watch(process: psutil.Process, samples: list[Sample]) -> None:
    while True:
        samples.append(Sample(process.memory_info().rss, process.num_fds()))
        await asyncio.sleep(2)


async def soak(folder: Path, minutes: float, clients: int, seed: int) -> int:
    (folder / "run").mkdir(mode=0o700)
    chance, record = random.Random(seed), Record()
    samples: list[Sample] = []
    url, process = await http_server(environment(folder, "http"))
    server = psutil.Process(process.pid)
    assert process.stderr is not None
    errors: list[str] = []
    side = [asyncio.create_task(drain(process.stderr, errors))]
    ends = time.monotonic() + 60 * minutes
    users = []
    for number in range(clients):
        kind = number % 20
        if kind < 10:
            client: Client[Any] = Client(
                f"{url}/mcp", auth=TOKEN, mode="auto" if kind % 2 else "legacy"
            )
        elif kind < 17:
            client = Client(f"{url}/sse", auth=TOKEN, mode="legacy")
        else:
            env = {
                **environment(folder, f"stdio{number}"),
                "RMI_AGENT_KERNEL_POOL": "1",
                "RMI_AGENT_KERNEL_MAX": "3",
            }
            client = Client(StdioTransport(*STDIO, env=env, keep_alive=False))
        users.append(User(client, random.Random(chance.random()), record))
    await asyncio.sleep(3)
    files_before = descriptors(server)
    side.append(asyncio.create_task(watch(server, samples)))
    results = await asyncio.gather(*(user.live(ends) for user in users), return_exceptions=True)
    problems = [f"a client failed: {result!r}" for result in results if result is not None]
    async with Client(f"{url}/mcp", auth=TOKEN) as last:
        rows = (await last.call_tool_mcp("list_sessions", {})).structured_content
        for row in (rows or {})["sessions"]:
            await last.call_tool_mcp("close_session", {"session_id": row["session_id"]})
    await asyncio.sleep(FORGOTTEN)
    files_after, children = descriptors(server), server.children(recursive=True)
    for task in side[1:]:
        task.cancel()
    tenths = [samples[len(samples) * tenth // 10].memory // 1_000_000 for tenth in range(10)]
    third = len(samples) // 3
    first, final = (
        statistics.median(sample.memory for sample in part)
        for part in (samples[:third], samples[-third:])
    )
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.wait(), 20)
    await asyncio.sleep(5)
    marked = [p for p in psutil.process_iter() if str(folder) in environ(p)]
    sockets = [path for path in (folder / "run").rglob("*") if not path.is_dir()]
    problems += check_notebooks(record.runs)
    if final / first > MOST_GROWTH:
        problems.append(f"memory grew by {final / first:.2f}")
    if files_after.total() > files_before.total() + 5:
        problems.append(f"file descriptors more than at the start: {files_after - files_before}")
    if len(children) > 6:  # two warm kernels, their template in bubblewrap (2), the reaper
        problems.append(f"processes under an idle server: {children}")
    problems += [f"left behind: {left}" for left in (*marked, *sockets)]
    problems += [f"logged: {line}" for line in errors]
    print(f"{minutes:g} minutes, {clients} clients, {sum(record.calls.values()):,} calls")
    print("  by tool:", dict(record.calls))
    print("  by status:", dict(record.statuses))
    print("  errors told:", dict(record.errors))
    print(f"  runs checked in notebooks: {len(record.runs):,}")
    print(f"  server: {first / 1e6:.0f} MB in the first third, {final / 1e6:.0f} MB in the last:")
    print(f"    ratio {final / first:.3f}, most {max(s.memory for s in samples) / 1e6:.0f} MB")
    print(f"    MB by tenths of the time: {tenths}")
    totals = files_before.total(), files_after.total()
    print(f"  file descriptors: {totals[0]} before, {totals[1]} after")
    print(f"  processes under the idle server: {len(children)}, after its end: {len(marked)}")
    for problem in problems:
        print("PROBLEM", problem)
    print("failed" if problems else "nothing leaked, nothing lost")
    return 1 if problems else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmi") as folder:
        sys.exit(asyncio.run(soak(Path(folder), given.minutes, given.clients, given.seed)))


if __name__ == "__main__":
    main()
