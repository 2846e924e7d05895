"""A chaos run: `python -m benchmarks.chaos [--minutes 5] [--sandbox off] [--seed N]`.

Six clients with two tokens call tools at random while templates, kernels, bubblewrap, reaper
and the server itself are killed, stopped and continued. In the end it says which promise was
broken, and exits with 1 if any was. The last line is the summary as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastmcp import Client

from ..harness import check_notebooks, environ
from .clients import ACTIONS, Record, User
from .health import Health
from .monkey import Monkey, Target, describe, gone_within

TOKENS = {name: secrets.token_urlsafe(32) for name in ("alice", "bob")}
RULES = {
    "hang": "no call takes over 60 s while the server is up",
    "no answer": "every call has an answer while the server is up",
    "no words": "every error says what failed",
    "notebook": "every acknowledged run is in a valid notebook",
    "state": "a session's variables are what its results say",
    "output": "a run's output is its own",
    "healthz": "/healthz answers in time",
    "recovery": "afterwards each user has fresh sessions up to RMI_AGENT_KERNEL_MAX",
    "log": "the server logs no exception that it did not expect",
    "left behind": "nothing is left at the end",
}
UNEXPECTED = re.compile(r" ERROR (asyncio|fastmcp\.\S+|rmi_agent\.\S*error_reporting): ")
SHOWN = 5  # violations of a rule that are printed
KERNELS = 16  # RMI_AGENT_KERNEL_MAX
LAST = 90.0  # seconds that the clients' last actions may take
FRESH = 40.0  # seconds until each user has its share of kernels again
ENDS_WITHIN = 30.0  # seconds from SIGTERM


class Violations:
    """What was wrong, by rule."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {rule: [] for rule in RULES}
        self._began = time.monotonic()

    def add(self, rule: str, text: str) -> None:
        self.found[rule].append(f"{time.monotonic() - self._began:.1f} s: {text}")

    def print(self) -> None:
        for rule, texts in self.found.items():
            print(f"{'BROKEN' if texts else 'kept'}: {RULES[rule]}: {len(texts)} violations")
            for text in texts[:SHOWN]:
                print("   ", text[:2000])


def environment(folder: Path, sandbox: str) -> dict[str, str]:
    """The server's: all that it writes is in the folder."""
    env = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    for name in ("run", "cache", "state", "data", "tmp", "jupyter", "ipython"):
        (folder / name).mkdir(mode=0o700)
    (folder / "python_projects").mkdir()
    return {
        **env,
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_DATA_HOME": str(folder / "data"),
        "TMPDIR": str(folder / "tmp"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHON_PROJECTS_DIR": str(folder / "python_projects"),
        "RMI_AGENT_NOTEBOOKS_DIR": str(folder / "notebooks"),
        "RMI_AGENT_TOKENS": ",".join(f"{name}:{token}" for name, token in TOKENS.items()),
        "RMI_AGENT_SANDBOX": sandbox,
        "RMI_AGENT_RATE_LIMIT": "0",
        "RMI_AGENT_RESPONSE_DEADLINE": "5",
        "RMI_AGENT_KERNEL_MAX": str(KERNELS),
        "RMI_AGENT_KERNEL_PRELOAD": "",
        "RMI_AGENT_OUTPUT_LIMIT": "5000000",
        "RMI_AGENT_MEMORY_LIMIT": "400MB",
    }


def left_behind(folder: Path, known: list[psutil.Process]) -> list[str]:
    """What a server that has ended has left: processes, sockets, journals, temporary files."""
    left = [f"process {describe(process)}" for process in gone_within(known, 10)]
    marked = [process for process in psutil.process_iter() if str(folder) in environ(process)]
    left += [f"process {describe(process)}" for process in marked if process not in known]
    zombies = [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]
    left += [f"zombie {describe(process)}" for process in zombies]
    for place in ("run/rmi-agent", "tmp"):
        left += [f"file {path}" for path in (folder / place).glob("*")]
    left += [f"file {path}" for path in (folder / "notebooks").glob(".*")]
    return left


async def all_kernels(target: Target, violations: Violations) -> None:
    """Close every session; then each user gets its share of fresh ones at the same time."""

    async def fresh(client: Client[Any], name: str) -> None:
        began = time.monotonic()
        call: tuple[str, dict[str, Any]] = ("run_cell", {"code": "6 * 7"})
        while True:
            result = await client.call_tool_mcp(*call)
            text = result.content[0].text  # type: ignore[union-attr]
            facts = result.structured_content or {}
            if text.startswith("42"):
                return
            seconds = time.monotonic() - began
            if seconds > FRESH or not (result.is_error or facts["status"] == "running"):
                violations.add("recovery", f"{name}, after {seconds:.1f} s: {text[:300]}")
                return
            if facts:
                key = {"session_id": facts["session_id"], "cell": facts["cell"]}
                call = ("read_output", {**key, "wait": 5})
            else:
                await asyncio.sleep(1)

    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(Client(f"{target.url}/mcp", auth=token))
            for name, token in TOKENS.items()
        }
        for client in clients.values():
            rows = (await client.call_tool_mcp("list_sessions", {})).structured_content or {}
            for row in rows["sessions"]:
                await client.call_tool_mcp("close_session", {"session_id": row["session_id"]})
        share = KERNELS // len(TOKENS)
        await asyncio.gather(
            *(fresh(client, name) for name, client in clients.items() for _ in range(share))
        )


async def watch_memory(target: Target) -> None:
    while True:
        target.memory()
        await asyncio.sleep(0.5)


@dataclass
class Chaos:
    """One run, from the server's start to what is left after its end.

    Attributes:
        given: the command line.
        folder: everything that the server writes is in it.
    """

    given: argparse.Namespace
    folder: Path
    record: Record = field(default_factory=Record)
    violations: Violations = field(default_factory=Violations)

    async def run(self) -> dict[str, Any]:
        """Everything; returns the summary."""
        self.target = Target(environment(self.folder, self.given.sandbox))
        self.health = Health(self.target, self.violations.add, self.given.healthz)
        try:
            await self.target.start()
            memory = [self.target.memory()]
            watching = asyncio.create_task(watch_memory(self.target))
            self.health.start()
            await self._clients_and_monkey()
            await self._recover()
            self.health.over.set()
            memory.append(self.target.memory())
            watching.cancel()
            seconds = await self._end()
        finally:
            self.health.over.set()
            await self.target.close()
        for line in self.target.log:
            if UNEXPECTED.search(line):
                self.violations.add("log", line)
        for text in check_notebooks(self.record.runs):
            self.violations.add("notebook", text)
        return self._summary(memory, seconds)

    async def _clients_and_monkey(self) -> None:
        given, chance = self.given, random.Random(self.given.seed)
        ends = time.monotonic() + 60 * given.minutes
        endings = max(1, round(given.minutes)) if given.endings is None else given.endings
        report = self.violations.add
        own = random.Random(chance.random())
        self.monkey = Monkey(self.target, own, ends, endings, report)
        without = given.without.split(",")
        actions = [name for name, n in ACTIONS.items() for _ in range(n) if name not in without]
        users = []
        for number in range(given.clients):
            name = list(TOKENS)[number % len(TOKENS)]
            own = random.Random(chance.random())
            users.append(
                User(number, name, TOKENS[name], self.target, own, self.record, report, actions)
            )
        tasks = [asyncio.create_task(user.live(ends)) for user in users]
        tasks.append(asyncio.create_task(self.monkey.rage()))
        limit = 60 * given.minutes + LAST
        await asyncio.wait(tasks, timeout=limit, return_when="FIRST_EXCEPTION")
        for user, task in zip(users, tasks, strict=False):
            if not task.done():
                report("hang", f"client {user.number} does not end: {user.doing}")
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _recover(self) -> None:
        try:
            async with asyncio.timeout(LAST):
                await all_kernels(self.target, self.violations)
        except Exception as error:
            self.violations.add("recovery", repr(error))

    async def _end(self) -> float:
        """End the server in order and see what is left; the seconds that it took."""
        await asyncio.to_thread(self.monkey.census.look, self.target.process)
        seconds = ENDS_WITHIN
        try:
            seconds = await self.target.end(signal.SIGTERM, ENDS_WITHIN)
        except TimeoutError:
            self.violations.add("left behind", f"no end by SIGTERM within {ENDS_WITHIN:g} s")
        known = self.monkey.census.living()
        for text in await asyncio.to_thread(left_behind, self.folder, known):
            self.violations.add("left behind", text)
        return seconds

    def _summary(self, memory: list[int], seconds: float) -> dict[str, Any]:
        health, record = self.health, self.record
        return {
            "minutes": self.given.minutes,
            "sandbox": self.given.sandbox,
            "seed": self.given.seed,
            "calls": record.calls.total(),
            "acknowledged": len(record.runs),
            "counters": record.counted,
            "acts": self.monkey.acts.total(),
            "server_starts": self.target.starts,
            "slowest_call": round(max(record.seconds)[0], 1) if record.seconds else None,
            "healthz": {
                "polls": len(health.seconds),
                "p50": health.percentile(0.5),
                "p99": health.percentile(0.99),
                "worst": health.percentile(1),
                "starved": health.starved,
            },
            "memory_mb": {
                "start": memory[0] // 10**6,
                "end": memory[1] // 10**6,
                "peak": self.target.peak // 10**6,
            },
            "end_seconds": round(seconds, 1),
            "violations": {
                rule: len(texts) for rule, texts in self.violations.found.items() if texts
            },
        }


def print_report(record: Record, monkey: Monkey, target: Target) -> None:
    print("calls:", dict(record.calls.most_common()))
    print("statuses:", dict(record.statuses))
    print("errors with words:")
    for text, count in record.errors.most_common(30):
        print(f"  {count:4d} {text}")
    print("calls without an answer:")
    for text, count in record.broken.most_common(20):
        print(f"  {count:4d} {text}")
    print("slowest calls:")
    for seconds, what in sorted(record.seconds, reverse=True)[:5]:
        print(f"  {seconds:6.1f} s {what[:200]}")
    print("acts of the monkey:", dict(monkey.acts.most_common()))
    counts = Counter(line.partition(" ERROR ")[2] for line in target.log if " ERROR " in line)
    print("errors logged by the server:", sum(counts.values()))
    for text, count in counts.most_common(10):
        print(f"  {count:4d} {text[:200]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sandbox", choices=["off", "bwrap", "landlock", "auto"], default="off")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--endings", type=int, default=None, help="of the server; one a minute")
    parser.add_argument("--healthz", type=float, default=1, help="seconds that it may take")
    parser.add_argument("--without", default="", help="actions to leave out, with commas")
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder, with the logged errors"
    )
    given = parser.parse_args()
    given.seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {given.seed}", flush=True)
    logging.disable()  # the clients' libraries log each server that goes away
    folder = Path(tempfile.mkdtemp(prefix="rmi"))
    try:
        chaos = Chaos(given, folder)
        summary = asyncio.run(chaos.run())
        (folder / "errors.log").write_text("\n".join(chaos.target.log))
        print_report(chaos.record, chaos.monkey, chaos.target)
        chaos.violations.print()
        print(json.dumps(summary))
        sys.exit(1 if summary["violations"] else 0)
    finally:
        if given.keep:
            print("kept:", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
