"""Forks, checkpoints and copies for a kernel's death, in long chains and under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from rmi_agent.kernels import TIERS, Config, KernelError, Policy, Session, Sessions, why_not
from rmi_agent.kernels.process_tree import marked
from rmi_agent.kernels.process_tree.memory import Account, exact

from tests.conftest import cell, launch, policy, stream, value
from tests.processes import still_running
from tests.server.conftest import fill
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hostile,
    pytest.mark.branches,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]
SOON = 5.0  # seconds
LONG = 60.0  # max seconds of any call
MB = 1_000_000
numpy = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for temporary files that nobody else uses."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextlib.asynccontextmanager
async def opened(
    folder: Path, tier: str = "off", *, memory_limit: int = 0, most: int = 16, warm: int = 1
) -> AsyncIterator[Sessions]:
    """Sessions that survive crashes; afterwards no process, descriptor or file of them is left."""
    (folder / "p").mkdir(parents=True)
    if tier != "off" and (why := why_not(Policy(tier, folder / "p", folder / "homes"))):  # type: ignore[arg-type]
        pytest.skip(why)
    config = Config(folder / "notebooks", memory_limit=memory_limit, crash_recovery=True)
    where, walls = launch(folder / "p"), policy(folder / "p", tier)
    async with Sessions(config, where, warm=0, policy=walls) as first:  # what stays for good
        await first.open()
    before = leavings()
    async with Sessions(config, where, warm, most, 2.0, policy=walls) as sessions:
        yield sessions
    ends = time.monotonic() + SOON
    while left := leavings() - before:
        assert time.monotonic() < ends, left
        await asyncio.sleep(0.05)
    assert not list((folder / "notebooks").glob(".*"))


def leavings() -> set[str]:
    """The processes, descriptors and files of this process."""
    found = {str(each) for each in psutil.Process().children(recursive=True)}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the folder itself
            found.add(f"{number}: {os.readlink(f'/proc/self/fd/{number}')}")
    for folder in (os.environ["XDG_RUNTIME_DIR"], os.environ["TMPDIR"]):
        found |= {str(each) for each in Path(folder).rglob("*")}
    return found


async def copied(session: Session) -> None:
    """Wait for the copy that survives the kernel."""
    async with asyncio.timeout(LONG):
        while session.recovery.copy is None:
            await asyncio.sleep(0.005)


async def until_running(session: Session, code: str) -> None:
    """Run a cell and wait until it has started."""
    running = session.submit_cell(code)
    async with asyncio.timeout(LONG):
        while running.status != "running":
            await asyncio.sleep(0.005)


async def shown(session: Session, code: str) -> str:
    """What a cell printed or returned; it must not fail."""
    run = await cell(session, code)
    assert run.status == "ok", (run.status, run.notices, run.cell.outputs)
    return stream(run) or value(run)


# -- chains of deaths

HELD = """
import ctypes, numpy, os, random, signal, time, zlib
count, array = 0, numpy.zeros(100_000, dtype='int64')
random.seed(7); numpy.random.seed(7); drawn = numpy.random.default_rng(7)
"""
STEP = """
count += 1; array[count] = count
print(count, zlib.crc32(array), random.random(), numpy.random.random(), drawn.random())
"""
SPOIL = "count = -1; array[:] = 1; random.seed(1); numpy.random.seed(1); del drawn\n"
DEATHS = {
    "_exit": ("os._exit(3)", 30, "dead"),
    "segfault": ("ctypes.string_at(0)", 30, "dead"),
    "SIGKILL": ("os.kill(os.getpid(), 9)", 30, "dead"),
    "child": ("if os.fork() == 0: os.kill(os.getppid(), 9)\ntime.sleep(60)", 30, "dead"),
    "memory": ("kept = []\nwhile True: kept.append(b'x' * 10_000_000)", 30, "dead"),
    "deaf": ("signal.signal(2, signal.SIG_IGN); time.sleep(60)", 0.2, "timeout"),
}
OFTEN = ["_exit", "segfault", "SIGKILL", "child"] * 4 + ["memory"] * 2 + ["deaf"]


class Mirror:
    """What a session's variables should be, reckoned here."""

    def __init__(self) -> None:
        self.count, self.array = 0, numpy.zeros(100_000, dtype="int64")
        self.random = random.Random(7)
        self.legacy, self.drawn = numpy.random.RandomState(7), numpy.random.default_rng(7)

    def step(self) -> str:
        """What the next step prints."""
        self.count += 1
        self.array[self.count] = self.count
        sums = (self.count, zlib.crc32(self.array), self.random.random())
        return " ".join(map(str, (*sums, self.legacy.random(), self.drawn.random()))) + "\n"


async def chain(sessions: Sessions, deaths: int, first: int) -> None:
    """One session that dies again and again."""
    session, mirror = await sessions.open(), Mirror()
    await shown(session, HELD)
    for number in range(first, first + deaths):
        assert await shown(session, STEP) == mirror.step(), number
        await copied(session)
        code, timeout, status = DEATHS[OFTEN[number % len(OFTEN)]]
        died = await cell(session, SPOIL + code, timeout)
        assert (died.status, died.state) == (status, "kept"), (number, code, died.notices)
        assert any("as before this cell" in notice for notice in died.notices), died.notices
        assert died.cell.metadata.rmi_agent.undone
    assert await shown(session, STEP) == mirror.step()
    assert not session.checkpoints.cells
    await sessions.close(session)


@pytest.mark.parametrize(
    ("tier", "delay", "deaths"),
    [
        ("off", 0.01, (100, 10)),
        ("off", None, (8, 8, 8)),
        ("bwrap", 0.01, (18, 18)),
        ("landlock", None, (10, 10, 10)),
    ],
)
async def test_two_hundred_deaths_change_no_variable(
    tmp_path: Path,
    tier: str,
    delay: float | None,
    deaths: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if delay is not None:
        monkeypatch.setattr("rmi_agent.kernels.session.crash_recovery.DELAY", delay)
    async with (
        opened(tmp_path, tier, memory_limit=500 * MB) as sessions,
        asyncio.TaskGroup() as all,
    ):
        for number, each in enumerate(deaths):
            all.create_task(chain(sessions, each, 7 * number))


STREAMS = "random.random(), numpy.random.random(), drawn.random(), random.getrandbits(64)"


@pytest.mark.parametrize("tier", ["off", *TIERS])
async def test_random_numbers_are_the_same_in_both_and_again(tmp_path: Path, tier: str) -> None:
    async with opened(tmp_path, tier) as sessions:
        session = await sessions.open()
        await shown(session, HELD + "random.random(); [drawn.random() for _ in range(5)]")
        other = await sessions.fork(session)
        third = await sessions.fork(other)
        run = await session.submit_cell(STREAMS, checkpoint="needed").task
        drawn = [value(run)] + [await shown(each, STREAMS) for each in (other, third)]
        assert len(set(drawn)) == 1
        after = await shown(session, STREAMS)
        assert after not in drawn
        for _ in range(2):
            await sessions.restore(session, run.number)
            assert [await shown(session, STREAMS), await shown(session, STREAMS)] == [
                drawn[0],
                after,
            ]
        await copied(session)
        await cell(session, f"{STREAMS}; os._exit(1)")
        assert await shown(session, STREAMS) == await shown_third(third)


async def shown_third(session: Session) -> str:
    """What the third draw is."""
    await shown(session, STREAMS)
    return await shown(session, STREAMS)


# -- under load


@dataclass
class Player:
    """Somebody who uses one session after another, and knows what its variable should be.

    Attributes:
        before: what it was before the cells that have a checkpoint.
    """

    sessions: Sessions
    chance: random.Random
    counted: dict[str, int]
    session: Session | None = None
    is_now: int = 0
    before: dict[int, int] = field(default_factory=dict)

    async def play(self, seconds: float) -> None:
        """Use sessions until the time is over; every call ends, with what is true."""
        moves = [self.change] * 3 + [self.back] * 3 + [self.fork] * 2 + [self.die, self.race] * 2
        moves += [self.cancel, self.restart, self.close]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            move = self.chance.choice(moves)
            async with asyncio.timeout(LONG):
                await self.attempt(move)
        if self.session is not None:
            await self.sessions.close(self.session)

    async def attempt(self, move: Callable[[Session], Awaitable[None]]) -> None:
        """Make a move; only what is said to be full, busy or closed may fail."""
        try:
            if self.session is None:
                self.session = await self.sessions.open()
                self.is_now, self.before = 0, {}
                await self.set(self.session, self.new())
            await move(self.session)
            if self.session is not None:
                assert await self.seen(self.session) == self.is_now, move.__name__
            self.count(move.__name__)
        except KernelError as error:
            self.count(re.sub(r"[\d.]+|[\w-]{16}", "…", str(error))[:70])
            assert re.search("busy|closed|idle|No checkpoint", str(error)), error
            if self.session is not None and self.session.id not in self.sessions.by_id:
                self.session = None

    def count(self, what: str) -> None:
        self.counted[what] = self.counted.get(what, 0) + 1

    def new(self) -> int:
        return self.chance.getrandbits(40)

    async def set(self, session: Session, number: int, *, checkpoint: bool = False) -> None:
        execution = session.submit_cell(f"x = {number}", 30, checkpoint=checkpoint)
        run = await execution.task
        assert run.status == "ok", run
        if checkpoint:
            self.before[execution.number] = self.is_now
        self.is_now = number

    async def seen(self, session: Session) -> int:
        return int(await shown(session, "x"))

    async def change(self, session: Session) -> None:
        await self.set(session, self.new(), checkpoint=self.chance.random() < 0.7)

    async def back(self, session: Session) -> None:
        if session.checkpoints.cells:
            number = self.chance.choice(session.checkpoints.cells)
            await self.sessions.restore(session, number)
            self.is_now = self.before[number]

    async def fork(self, session: Session) -> None:
        other = await self.sessions.fork(session)
        assert await self.seen(other) == self.is_now
        one, self.session = self.chance.sample([session, other], 2)
        if self.session is other:
            self.before = {}
        await self.sessions.close(one)

    async def die(self, session: Session) -> None:
        if self.chance.random() < 0.7:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await copied(session)
        run = await cell(session, "x = 1; import os; os._exit(1)")
        assert run.status == "dead"
        self.count(f"died, {run.state}")
        if run.state == "lost" and session.checkpoints.cells:
            await self.back(session)
        elif run.state == "lost":
            await self.set(session, self.new())

    async def race(self, session: Session) -> None:
        """Two or three calls at once: the variable is as one of them has left it."""
        cells = session.checkpoints.cells
        number = self.chance.choice(cells) if cells else 0
        new = self.new()

        async def submit() -> None:
            await asyncio.wait({session.submit_cell(f"x = {new}").task})  # a restart cancels it

        async def fork() -> None:
            await self.sessions.close(await self.sessions.fork(session))

        async def restore() -> None:
            await self.sessions.restore(session, number)

        async def close() -> None:
            await self.sessions.close(session)

        async def kill() -> None:
            if session.kernel is not None:
                await session.kernel.kill("was killed by a test")

        ways = [submit, fork, restore, session.restart, close, kill]
        chosen = self.chance.choices(ways, [3, 2, 4, 1, 1, 1], k=self.chance.randint(2, 3))
        found = await asyncio.gather(*(each() for each in chosen), return_exceptions=True)
        for each in found:
            assert each is None or isinstance(each, KernelError), each
        if session.closed:
            self.session = None
            return
        run = await cell(session, "globals().get('x')")
        actual = int(value(run)) if value(run) else None
        allowed = {self.is_now, new} | ({self.before[number]} if number else set())
        if session.restart in chosen or kill in chosen:
            allowed.add(None)  # type: ignore[arg-type]
        assert actual in allowed, ([each.__name__ for each in chosen], found, run)
        if actual is None:
            await self.set(session, self.new())
        else:
            self.is_now = actual

    async def cancel(self, session: Session) -> None:
        """A call that is given up is made or not, and leaves no session."""
        cells = session.checkpoints.cells
        number = self.chance.choice(cells) if cells else 0
        call: Any = self.sessions.restore(session, number)
        if not number or self.chance.random() < 0.5:
            call.close()
            call = self.sessions.fork(session)
        task = asyncio.create_task(call)
        await asyncio.sleep(self.chance.random() * 0.05)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and isinstance(found := task.result(), Session):
            await self.sessions.close(found)
        actual = await self.seen(session)
        assert actual in {self.is_now, self.before.get(number)}
        self.is_now = actual

    async def restart(self, session: Session) -> None:
        await session.restart()
        await self.set(session, self.new())

    async def close(self, session: Session) -> None:
        await self.sessions.close(session)
        self.session = None


async def only_warm(sessions: Sessions, template: int) -> None:
    """Wait until no processes are there but the template's, and the kernels that are ready."""
    ends = time.monotonic() + 2 * SOON
    server = sessions.pool.owners.of("").launch.mark
    while True:
        left = await asyncio.to_thread(marked, server)
        if not sessions.pool.leased and len(left) == template + sessions.pool.count:
            return
        assert time.monotonic() < ends, (left, sessions.pool.count)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("tier", "template"), [("off", 1), ("bwrap", 3)])  # two of bwrap's
async def test_many_calls_at_once_lose_no_session_and_mix_up_nothing(
    tmp_path: Path, tier: str, template: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.crash_recovery.DELAY", 0.05)
    counted: dict[str, int] = {}
    async with opened(tmp_path, tier, most=8) as sessions:
        async with asyncio.TaskGroup() as players:
            for number in range(9):
                player = Player(sessions, random.Random(number), counted)
                players.create_task(player.play(12))
        assert not sessions.by_id
        await only_warm(sessions, template)
    assert {"back", "fork", "die", "race", "cancel", "died, kept"} <= counted.keys(), counted


# -- memory


def counted(session: Session) -> float:
    """MB that a session's kernel and its copies count with."""
    kernels = [session.kernel, *session.copies]
    pids = [each.process.pid for each in kernels if each is not None and each.process.pid]
    return exact(pids, {}, Account()) / MB


def pid_of(session: Session) -> int:
    assert session.kernel is not None
    assert session.kernel.process.pid is not None
    return session.kernel.process.pid


HOLD = "import os; held = bytearray(b'x' * 200_000_000); step = 0"
REWRITE = "step += 1\nfor n in range(0, len(held), 4096): held[n] = step"


async def test_ten_copies_count_once_until_the_kernel_changes(tmp_path: Path) -> None:
    async with opened(tmp_path, memory_limit=700 * MB) as sessions:
        three = [await sessions.open() for _ in range(3)]
        alone = []
        for session in three:
            await shown(session, HOLD)
            await copied(session)
            alone.append(counted(session))
            for number in range(3):
                assert (await session.submit_cell(f"y = {number}", checkpoint="needed").task).state
            await copied(session)
        assert sum(len(session.copies) for session in three) == 12
        for session, before in zip(three, alone, strict=True):
            assert 200 < before < 260
            assert counted(session) < before + 40, (counted(session), before)
        first = three[0]
        await shown(first, REWRITE)
        await copied(first)
        assert 400 < counted(first) < 500  # the checkpoints share theirs
        assert [len(session.copies) for session in three] == [4, 4, 4]
        for session in three:
            await sessions.close(session)


async def test_copies_go_first_and_the_kernel_lives(tmp_path: Path) -> None:
    async with opened(tmp_path, memory_limit=500 * MB) as sessions:
        session = await sessions.open()
        await shown(session, HOLD)
        kernel = pid_of(session)
        for _ in range(4):
            run = await session.submit_cell(
                f"{REWRITE}\nimport time; time.sleep(1)", 60, checkpoint="needed"
            ).task
            assert run.status == "ok", run
        assert pid_of(session) == kernel
        assert session.checkpoints.cells == [5]
        assert await shown(session, "step, held[0]") == "(4, 4)"
        await sessions.restore(session, 5)
        assert await shown(session, "step, held[0]") == "(3, 3)"
        # A kernel that takes too much itself is ended, though copies are there.
        await copied(session)
        more = await cell(
            session, "step = 0; more = []\nwhile True: more.append(b'y' * 10_000_000)"
        )
        assert (more.status, more.state) == ("dead", "kept"), more.notices
        assert any("RMI_AGENT_MEMORY_LIMIT" in each for each in more.notices)
        assert await shown(session, "step, held[0], len(held)") == "(3, 3, 200000000)"


# -- the end


@pytest.mark.parametrize("sandbox", ["off", *TIERS])
@pytest.mark.parametrize("reaper", ["lives", "killed"])
def test_a_killed_server_leaves_no_copy(tmp_path: Path, sandbox: str, reaper: str) -> None:
    settings = {"RMI_AGENT_SANDBOX": sandbox, "RMI_AGENT_CRASH_RECOVERY": "1"}
    wire = Wire(fill(tmp_path), **settings)
    server = psutil.Process(wire.process.pid)
    sessions = []
    for _ in range(2):
        result = wire.call("run_cell", code="x = 1", checkpoint=True)["structuredContent"]
        sessions.append(result["session_id"])
        for number in range(2):
            wire.call("run_cell", code=f"x = {number}", session_id=sessions[-1], checkpoint=True)
    time.sleep(1)  # copies are made
    processes = server.children(recursive=True)
    assert len(processes) >= 2 * 5
    if reaper == "killed":  # copies end since their connection ends
        server.suspend()  # or it starts another one
        for each in processes:
            if any(word.endswith("reaper.py") for word in each.cmdline()):
                each.kill()
    os.kill(server.pid, signal.SIGKILL)
    assert not still_running(processes, SOON)
    wire.close()
