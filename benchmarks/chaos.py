"""A chaos run: `python benchmarks/chaos.py [--minutes 5] [--sandbox off] [--seed N]`.

Six clients with two tokens call tools at random while templates, kernels, bubblewrap, watchdog
and the server itself are killed, stopped and continued. In the end it says which promise was
broken, and exits with 1 if any was. The last line is the summary as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from chaos_clients import ACTIONS, Record, User
from chaos_monkey import Monkey, Target, gone_within, told
from harness import check_notebooks, environ

TOKENS = {name: secrets.token_urlsafe(32) for name in ("alice", "bob")}
RULES = {
    "hang": "no call takes over 60 s while the server is up",
    "no answer": "every call has an answer while the server is up",
    "no words": "every error says what failed",
    "notebook": "every acknowledged run is in a valid notebook",
    "state": "a session's variables are what its results say",
    "output": "a run's output is its own",
    "healthz": "/healthz answers within 1 s",
    "left behind": "nothing is left at the end",
}
SHOWN = 5  # violations of a rule that are printed
SLOW = 1.0  # seconds that /healthz may take
LAST = 90.0  # seconds that the clients' last actions may take
POLL = 0.1


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


class Health(threading.Thread):
    """Asks /healthz ten times a second, from a thread that the clients' work does not hold up.

    With two busy cores a process may wait long until it runs at all. Linux counts that time,
    and it is not the server's.

    Attributes:
        seconds: of each answer that came while the server was up.
        starved: answers that took too long, for want of a CPU alone.
    """

    def __init__(self, target: Target, violations: Violations) -> None:
        super().__init__(daemon=True)
        self.target, self.violations = target, violations
        self.seconds: list[float] = []
        self.starved = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(POLL):
            began, (used, waited) = time.monotonic(), self._scheduled()
            try:
                problem = self._ask()
            except OSError as error:
                problem = repr(error)
            now, (used_now, waited_now) = time.monotonic(), self._scheduled()
            if self.target.outages.within(began, now) > 0:
                continue
            seconds, used, waited = now - began, used_now - used, waited_now - waited
            self.seconds.append(seconds)
            if problem or seconds - waited > SLOW:
                told = f"{seconds:.2f} s: {used:.2f} on a CPU, {waited:.2f} waiting for one"
                self.violations.add("healthz", f"{told} {problem}")
            elif seconds > SLOW:
                self.starved += 1

    def _ask(self) -> str:
        where = urlsplit(self.target.url)
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.recv(1000)
        return "" if b" 200 " in answer else f"answer: {answer[:100]!r}"

    def _scheduled(self) -> tuple[float, float]:
        """Seconds that the server's main thread ran, and that it and this one waited for a CPU."""
        ours, theirs = (
            scheduled(f"/proc/self/task/{self.native_id}/schedstat"),
            scheduled(f"/proc/{self.target.process.pid}/schedstat"),
        )
        return theirs[0], theirs[1] + ours[1]


def scheduled(path: str) -> tuple[float, float]:
    """Seconds that a thread ran, and that it waited to run."""
    try:
        ran, waited, _ = Path(path).read_text().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(ran) / 1e9, int(waited) / 1e9


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
        "NOTEBOOKS_DIR": str(folder / "notebooks"),
        "RMI_AGENT_TOKENS": ",".join(f"{name}:{token}" for name, token in TOKENS.items()),
        "SANDBOX": sandbox,
        "RATE_LIMIT": "0",
        "RESPONSE_DEADLINE": "5",
        "KERNEL_WAIT": "20",
        "KERNEL_PRELOAD": "",
        "OUTPUT_LIMIT": "5000000",
        "MEMORY_LIMIT": "400MB",
    }


def left_behind(folder: Path, known: list[psutil.Process]) -> list[str]:
    """What a server that has ended has left: processes, sockets, journals, temporary files."""
    left = [f"process {told(process)}" for process in gone_within(known, 10)]
    marked = [process for process in psutil.process_iter() if str(folder) in environ(process)]
    left += [f"process {told(process)}" for process in marked if process not in known]
    zombies = [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]
    left += [f"zombie {told(process)}" for process in zombies]
    for place in ("run/rmi-agent", "tmp"):
        left += [f"file {path}" for path in (folder / place).glob("*")]
    left += [f"file {path}" for path in (folder / "notebooks").glob(".*")]
    return left


async def watch_memory(target: Target) -> None:
    while True:
        target.memory()
        await asyncio.sleep(0.5)


async def chaos(folder: Path, given: argparse.Namespace) -> int:
    chance, record, violations = random.Random(given.seed), Record(), Violations()
    weights = {name: n for name, n in ACTIONS.items() if name not in given.without.split(",")}
    actions = [name for name, weight in weights.items() for _ in range(weight)]
    target = Target(environment(folder, given.sandbox))
    health = Health(target, violations)
    try:
        await target.start()
        first = target.memory()
        memory = asyncio.create_task(watch_memory(target))
        health.start()
        ends = time.monotonic() + 60 * given.minutes
        endings = max(1, round(given.minutes)) if given.endings is None else given.endings
        monkey = Monkey(target, random.Random(chance.random()), ends, endings, violations.add)
        users = [
            User(
                number,
                name := list(TOKENS)[number % 2],
                TOKENS[name],
                target,
                random.Random(chance.random()),
                record,
                violations.add,
                actions,
            )
            for number in range(given.clients)
        ]
        living = [asyncio.create_task(user.live(ends)) for user in users]
        raging = asyncio.create_task(monkey.rage())
        await asyncio.wait(
            [*living, raging], timeout=60 * given.minutes + LAST, return_when="FIRST_EXCEPTION"
        )
        for user, task in zip(users, living, strict=True):
            if not task.done():
                violations.add("hang", f"client {user.number} does not end: {user.doing}")
                task.cancel()
        raging.cancel()
        await asyncio.gather(*living, raging, return_exceptions=True)
        for task in (*living, raging):
            if not task.cancelled() and (error := task.exception()):
                raise error
        await asyncio.to_thread(monkey.census.look, target.process)
        last = target.memory()
        health.over.set()
        memory.cancel()
        seconds = await target.end(signal.SIGTERM)
        known = monkey.census.living()
        for text in await asyncio.to_thread(left_behind, folder, known):
            violations.add("left behind", text)
    finally:
        health.over.set()
        await target.close()
    for text in check_notebooks(record.runs):
        violations.add("notebook", text)
    summary = {
        "minutes": given.minutes,
        "sandbox": given.sandbox,
        "seed": given.seed,
        "calls": sum(record.calls.values()),
        "acknowledged": len(record.runs),
        "counters": record.counted,
        "acts": monkey.acts.total(),
        "server_starts": target.starts,
        "slowest_call": round(max(record.seconds)[0], 1) if record.seconds else None,
        "healthz": {
            "polls": len(health.seconds),
            "p50": percentile(health.seconds, 0.5),
            "p99": percentile(health.seconds, 0.99),
            "worst": percentile(health.seconds, 1),
            "starved": health.starved,
        },
        "memory_mb": {"start": first // 10**6, "end": last // 10**6, "peak": target.peak // 10**6},
        "end_seconds": round(seconds, 1),
        "violations": {rule: len(texts) for rule, texts in violations.found.items() if texts},
    }
    (folder / "errors.log").write_text("\n".join(target.log))
    print_report(record, monkey, target)
    violations.print()
    print(json.dumps(summary))
    return 1 if summary["violations"] else 0


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


def percentile(values: list[float], part: float) -> float | None:
    """In seconds."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) if ordered else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sandbox", choices=["off", "bwrap", "landlock", "auto"], default="off")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--endings", type=int, default=None, help="of the server; one a minute")
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
        sys.exit(asyncio.run(chaos(folder, given)))
    finally:
        if given.keep:
            print("kept:", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
