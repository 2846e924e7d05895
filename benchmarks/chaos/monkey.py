"""The side of the chaos run that breaks things: signals to a server's processes at random.

Knows processes and signals; nothing of MCP. `Target` keeps the server going and remembers when
it could not answer because of what was done to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..harness import drain, http_server

# How often each kind of process is chosen; the server's own ends are planned apart.
KINDS = {
    "kernel": 40,
    "template": 22,
    "bwrap": 12,
    "broker": 8,
    "reaper": 8,
    "server": 10,
    "kernels": 5,
}
PROGRAMS = {
    "zygote.py": "template",
    "broker.py": "broker",
    "reaper.py": "reaper",
    "ipykernel_launcher": "kernel",
}
SIGNALS = {"KILL": 45, "STOP": 35, "TERM": 10, "INT": 10}
PAUSE = 0.2, 8.0  # seconds that a process is stopped
SERVER_PAUSE = 0.1, 2.0  # and the server
EVERY = 0.3, 2.5  # seconds between two acts
REAPER_ALONE = 5.0  # seconds between the reaper's end and the server's: nobody else clears up
AFTER_STOP = 1.0  # seconds in which the server may catch up after it was stopped
CLEARED = 15.0  # seconds after a server's SIGKILL in which its processes have to be gone

Report = Callable[[str, str], None]  # takes a broken rule and what broke it


@dataclass
class Outages:
    """When the server could not answer, since it was stopped or down: our own doing."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    since: float | None = None

    def begin(self) -> None:
        self.since = self.since or time.monotonic()

    def end(self, tail: float = 0.0) -> None:
        if self.since is not None:
            self.spans.append((self.since, time.monotonic() + tail))
            self.since = None

    def within(self, start: float, end: float) -> float:
        """Seconds of a stretch of time in which there was one."""
        spans = [*self.spans, (self.since, end)] if self.since else self.spans
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in spans)


class Target:
    """The server under test: one process after the other, on one port and the same folders.

    Attributes:
        url: where it is.
        process: the one that runs now.
        ended: set when that one is about to be ended.
        log: the errors that all of them have logged.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.outages = Outages()
        self.log: list[str] = []
        self.url = ""
        self.starts = 0
        self.peak = 0  # bytes
        self._env = env
        self._drains: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()

    async def start(self) -> None:
        self.url, self._server = await http_server(
            self._env, int(self.url.rpartition(":")[2] or 0) if self.url else 0
        )
        assert self._server.stderr is not None
        self._drains.append(asyncio.create_task(drain(self._server.stderr, self.log)))
        self.process = psutil.Process(self._server.pid)
        self.ended = asyncio.Event()
        self.starts += 1
        self.outages.end(AFTER_STOP)
        self._up.set()

    async def up(self) -> asyncio.Event:
        """Wait until it runs; returns what is set at its end."""
        await self._up.wait()
        return self.ended

    async def end(self, number: signal.Signals, patience: float = 30.0) -> float:
        """End it by a signal; the seconds that it took.

        Raises:
            TimeoutError: it did not end in time; it was killed.
        """
        self._up.clear()
        self.outages.begin()
        self.ended.set()
        began = time.monotonic()
        self._server.send_signal(number)
        try:
            await asyncio.wait_for(self._server.wait(), patience)
        except TimeoutError:
            self._server.kill()
            await self._server.wait()
            raise
        return time.monotonic() - began

    async def stop_for(self, seconds: float) -> None:
        self.outages.begin()
        self._server.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._server.send_signal(signal.SIGCONT)
            self.outages.end(AFTER_STOP)

    def memory(self) -> int:
        with contextlib.suppress(psutil.Error):
            now = int(self.process.memory_info().rss)
            self.peak = max(self.peak, now)
            return now
        return 0

    async def close(self) -> None:
        if self.starts and self._server.returncode is None:
            self._server.kill()
            await self._server.wait()
        await asyncio.gather(*self._drains)


class Census:
    """Every process that a server was ever seen to have, so that none is lost sight of.

    A template that is killed leaves its kernels to init; they are known from before.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, float], psutil.Process] = {}

    def look(self, server: psutil.Process) -> None:
        """Add what a server and its known descendants have started."""
        for parent in [server, *self.living()]:
            with contextlib.suppress(psutil.Error):
                for process in parent.children(recursive=True):
                    self.known[process.pid, process.create_time()] = process

    def living(self) -> list[psutil.Process]:
        return [process for process in self.known.values() if not has_ended(process)]

    def by_kind(self) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {}
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                found.setdefault(kind_of(process), []).append(process)
        return found


def kind_of(process: psutil.Process) -> str:
    """What a process of a server is: a kernel forked from a template has its command line."""
    program = program_of(process)
    if program != "template":
        return program
    parent = process.parent()
    orphan = parent is None or parent.pid == 1
    return "kernel" if orphan or program_of(parent) == "template" else "template"


def program_of(process: psutil.Process | None) -> str:
    """What a process runs, by its command line: the first name there, for some contain others'."""
    if process is None:
        return "other"
    if process.name() == "bwrap":
        return "bwrap"
    found = (PROGRAMS[name] for word in process.cmdline() if (name := Path(word).name) in PROGRAMS)
    return next(found, "other")


def has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits for init to take note."""
    try:
        return not process.is_running() or (
            process.status() == psutil.STATUS_ZOMBIE and process.ppid() <= 1
        )
    except psutil.NoSuchProcess:
        return True


def gone_within(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there after so many seconds."""
    ends = time.monotonic() + seconds
    while (left := [p for p in processes if not has_ended(p)]) and time.monotonic() < ends:
        time.sleep(0.1)
    return left


class Monkey:
    """Signals the target's processes at random, and ends the server at planned moments.

    Args:
        target: the server.
        chance: where its choices come from.
        ends: when it stops, on the monotonic clock.
        endings: how often the server itself is ended and started again meanwhile.
        report: takes what was wrong, with the rule's name.
    """

    def __init__(
        self,
        target: Target,
        chance: random.Random,
        ends: float,
        endings: int,
        report: Report,
    ) -> None:
        self.target, self.chance, self.report = target, chance, report
        self.census = Census()
        self.acts: Counter[str] = Counter()
        self.diary: list[tuple[float, str]] = []
        self._ends = ends
        length = (ends - time.monotonic()) / (endings + 1)
        begin = ends - length * (endings + 1)
        self._endings = [begin + length * (n + chance.uniform(0.6, 1.2)) for n in range(endings)]
        self._reaper_alone = 0.0
        self._stopped: set[psutil.Process] = set()
        self._later: set[asyncio.Task[None]] = set()

    async def rage(self) -> None:
        """Until the end; then whatever is still stopped goes on."""
        try:
            while time.monotonic() < self._ends:
                await asyncio.sleep(self.chance.uniform(*EVERY))
                await asyncio.to_thread(self.census.look, self.target.process)
                if self._endings and time.monotonic() > self._endings[0]:
                    await self._end_server()
                else:
                    await self._act()
        finally:
            for process in self._stopped:
                send(process, signal.SIGCONT)
            for task in self._later:
                task.cancel()
            await asyncio.gather(*self._later, return_exceptions=True)

    async def _act(self) -> None:
        kind = pick(self.chance, KINDS)
        what = pick(self.chance, SIGNALS)
        if kind == "server":
            self._note("server", "STOP")
            await self.target.stop_for(self.chance.uniform(*SERVER_PAUSE))
            return
        found = (await asyncio.to_thread(self.census.by_kind)).get(kind.removesuffix("s"), [])
        if not found:
            return
        victims = found if kind == "kernels" else [self.chance.choice(found)]
        self._note(kind, what, *(str(victim.pid) for victim in victims))
        for victim in victims:
            send(victim, signal.Signals[f"SIG{what}"])
            if what == "STOP":
                self._stopped.add(victim)
                self._start(self._go_on(victim, self.chance.uniform(*PAUSE)))
            elif kind == "reaper" and what == "KILL":
                self._reaper_alone = time.monotonic() + REAPER_ALONE

    async def _go_on(self, process: psutil.Process, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._stopped.discard(process)
        send(process, signal.SIGCONT)

    async def _end_server(self) -> None:
        """SIGKILL mostly, else SIGTERM; the next one starts at once."""
        await asyncio.sleep(self._reaper_alone - time.monotonic())
        await asyncio.to_thread(self.census.look, self.target.process)
        self._endings.pop(0)
        number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        self._note("server", number.name.removeprefix("SIG"))
        mine, self.census = self.census, Census()
        for process in self._stopped:  # else the next server would be blamed for them
            send(process, signal.SIGCONT)
        try:
            await self.target.end(number)
        except TimeoutError:
            self.report("left behind", f"the server did not end by {number.name} within 30 s")
        self._start(self._see_the_end(mine))
        await self.target.start()

    async def _see_the_end(self, census: Census) -> None:
        left = await asyncio.to_thread(gone_within, census.living(), CLEARED)
        if left:
            self.report(
                "left behind", f"{CLEARED:g} s after a server's end: {list(map(describe, left))}"
            )

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _note(self, kind: str, what: str, *pids: str) -> None:
        self.acts[f"{what} {kind}"] += 1
        self.diary.append((time.monotonic(), " ".join([what, kind, *pids])))

    def lately(self, since: float) -> list[str]:
        """What it did from a moment on, for reports."""
        return [f"{at - since:+.1f} s {act}" for at, act in self.diary if at > since - 5]


def pick(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices([*weights], [*weights.values()])[0]


def send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        process.send_signal(number)


def describe(process: psutil.Process) -> str:
    """A process in words."""
    try:
        words = " ".join(process.cmdline())[:120]
        return f"{process.pid} ({process.status()}, child of {process.ppid()}): {words}"
    except psutil.Error:
        return f"{process.pid}"
