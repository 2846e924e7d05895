"""RMI_AGENT_MEMORY_LIMIT counts whatever kind of memory a cell takes, and nothing twice."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from rmi_agent.kernels import Config, Sessions
from rmi_agent.kernels.process_tree import Family, MemoryWatch, memory_watch, remove
from rmi_agent.kernels.process_tree.family import tree
from rmi_agent.kernels.process_tree.memory import Account, exact
from rmi_agent.kernels.process_tree.shared_memory import Segment, segments

from tests.conftest import SANDBOX, cell, launch, policy, value

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc"),
]
LIMIT = 300_000_000
# Each takes 600 MB, and waits to be seen.
TOO_MUCH = {
    "its own": "x = bytearray(b'1' * 600_000_000)",
    "a memfd": (
        "import os; fd = os.memfd_create('x')\nfor _ in range(6): os.write(fd, bytes(100_000_000))"
    ),
    "a memfd that is mapped, written to and closed": (
        "import mmap, os; fd = os.memfd_create('x'); os.ftruncate(fd, 600_000_000)\n"
        "m = mmap.mmap(fd, 600_000_000)\n"
        "for _ in range(6): os.write(fd, bytes(100_000_000))\nos.close(fd)"
    ),
    "a daemon's": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        x = bytearray(b'1' * 600_000_000); time.sleep(600)\n    os._exit(0)"
    ),
    "shared, written to and let go of": (
        "import mmap; size = 1_000_000 // mmap.PAGESIZE * mmap.PAGESIZE\n"
        "m = mmap.mmap(-1, 600 * size)\n"
        "for at in range(0, 600 * size, size):\n"
        "    m[at:at + size] = b'1' * size; m.madvise(mmap.MADV_DONTNEED, at, size)"
    ),
    "a daemon's without the mark": (
        "import subprocess, sys\n"
        "code = \"x = bytearray(b'1' * 600_000_000); import time; time.sleep(600)\"\n"
        "subprocess.run(['setsid', '-f', sys.executable, '-c', code], env={})"
    ),
    "shared with a child": (
        "import mmap, os; m = mmap.mmap(-1, 600_000_000); m[:] = b'1' * 600_000_000\n"
        "if os.fork() == 0: time.sleep(600)"
    ),
}
MAPPED_ALONE = ("a memfd that is mapped, written to and closed", "shared, written to and let go of")
SYSTEM_V = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, ctypes.c_size_t({size}), 0o1600)
at = libc.shmat(segment, None, 0)
ctypes.memset(at, 1, {size})
libc.shmdt(ctypes.c_void_p(at))
"""
# Each would be too much if what is shared were counted for each that has it. None takes twice
# as much for a moment, as a copy of bytes would.
FINE = {
    "children that share": (
        "import os; x = bytearray(150_000_000); x[::4096] = b'1' * len(x[::4096]); pids = []\n"
        "for _ in range(4):\n    pid = os.fork()\n    if pid == 0: time.sleep(2.5); os._exit(0)\n"
        "    pids.append(pid)\nfor pid in pids: os.waitpid(pid, 0)"
    ),
    "children that share what has no name": (
        "import mmap, os; m = mmap.mmap(-1, 150_000_000); pids = []\n"
        "m[::4096] = b'1' * len(m[::4096])\n"
        "for _ in range(4):\n    pid = os.fork()\n"
        "    if pid == 0: sum(m[::4096]); time.sleep(2.5); os._exit(0)\n"
        "    pids.append(pid)\nfor pid in pids: os.waitpid(pid, 0)"
    ),
    "a large file that is mapped": (
        "import mmap\nwith open('large', 'wb') as f: f.truncate(600_000_000)\n"
        "with open('large', 'r+b') as f: m = mmap.mmap(f.fileno(), 0)\n"
        "sum(m[i] for i in range(0, 600_000_000, 4096)); time.sleep(2.5)"
    ),
    "one memory mapped twice": (
        "from multiprocessing import shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=150_000_000)\n"
        "for i in range(0, 150_000_000, 1_000_000): m.buf[i:i + 1_000_000] = b'1' * 1_000_000\n"
        "n = s.SharedMemory(m.name); sum(n.buf[::4096]); time.sleep(2.5); n.close(); m.unlink()"
    ),
}


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Sessions]:
    folder = tmp_path / "projects"
    folder.mkdir()
    config = Config(folder / "n", memory_limit=LIMIT, timeout=20)
    async with Sessions(config, launch(folder), warm=0, policy=policy(folder)) as opened:
        yield opened


@pytest.mark.parametrize("kind", TOO_MUCH)
async def test_memory_of_any_kind_counts(limited: Sessions, kind: str) -> None:
    if kind in MAPPED_ALONE and os.geteuid() != 0:
        pytest.skip("Linux shows it to root only")
    session = await limited.open()
    run = await cell(session, f"import time\n{TOO_MUCH[kind]}\ntime.sleep(15)")
    assert run.status == "dead"
    assert "used more than RMI_AGENT_MEMORY_LIMIT (300 MB)" in " ".join(run.notices)
    assert value(await cell(session, "1 + 1")) == "2"


@pytest.mark.parametrize("code", FINE.values(), ids=FINE)
async def test_what_is_shared_counts_once(limited: Sessions, code: str) -> None:
    run = await cell(await limited.open(), f"import time\n{code}")
    assert (run.status, run.notices) == ("ok", ())


@pytest.mark.skipif(SANDBOX != "bwrap", reason="only bubblewrap gives a /tmp of one's own")
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_a_sandboxs_own_memory_counts_for_the_session_that_fills_it(
    limited: Sessions, folder: str
) -> None:
    filling, other = await limited.open(), await limited.open()
    await cell(other, "kept = 1")
    await asyncio.sleep(1.5)  # until it no longer counts as busy
    code = f"f = open('{folder}/x', 'wb')\nfor _ in range(6): f.write(bytes(100_000_000))"
    run = await cell(filling, f"import time\n{code}\ntime.sleep(15)")
    assert "in its /tmp and /dev/shm" in " ".join(run.notices)
    # What lies there still is not held against anybody: cells that take nothing run.
    for session in (filling, other):
        assert (await cell(session, "import time; time.sleep(1.5); 5")).status == "ok"
    assert value(await cell(other, "kept")) == "1"


@pytest.mark.skipif(SANDBOX != "bwrap", reason="only bubblewrap gives a /tmp of one's own")
async def test_what_ended_sessions_left_in_a_sandbox_counts_for_no_new_session(
    limited: Sessions,
) -> None:
    for name in "xy":  # neither takes too much
        filling = await limited.open()
        code = f"f = open('/tmp/{name}', 'wb')\nfor _ in range(2): f.write(bytes(100_000_000))"
        assert (await cell(filling, f"import time\n{code}\ntime.sleep(1)")).notices == ()
        await limited.close(filling)
        await asyncio.sleep(1.5)  # so that nobody has that /tmp for a while
    session = await limited.open()
    run = await cell(session, "import os, time; time.sleep(2.5); os.path.getsize('/tmp/x')")
    assert (run.status, run.notices, value(run)) == ("ok", (), "200000000")
    await cell(session, "f = open('/tmp/z', 'wb')\nfor _ in range(3): f.write(bytes(100_000_000))")
    run = await cell(session, "import time; time.sleep(15)")
    assert "RMI_AGENT_MEMORY_LIMIT" in " ".join(run.notices)  # what it adds does count


@pytest.mark.skipif(SANDBOX != "bwrap", reason="only bubblewrap gives a /tmp of one's own")
async def test_empty_files_in_a_sandboxs_own_memory_count(tmp_path: Path) -> None:
    folder = tmp_path / "projects"
    folder.mkdir()
    config = Config(folder / "n", memory_limit=150_000_000, timeout=60)
    async with Sessions(config, launch(folder), warm=0, policy=policy(folder)) as opened:
        code = "for n in range(150_000): os.mknod(f'/dev/shm/{n}')"
        run = await cell(await opened.open(), f"import os, time\n{code}\ntime.sleep(15)")
    assert "in its /tmp and /dev/shm" in " ".join(run.notices)


@pytest.mark.skipif(SANDBOX != "off", reason="a sandbox has none")
async def test_system_v_memory_counts_and_does_not_survive_its_session(limited: Sessions) -> None:
    session = await limited.open()
    before = {segment.number for segment in segments()}
    run = await cell(session, SYSTEM_V.format(size=600_000_000) + "import time; time.sleep(15)")
    assert "RMI_AGENT_MEMORY_LIMIT" in " ".join(run.notices)
    assert (await cell(session, SYSTEM_V.format(size=1_000_000))).status == "ok"
    assert {segment.number for segment in segments()} - before
    await limited.close(session)
    async with asyncio.timeout(10):
        while {segment.number for segment in segments()} - before:
            await asyncio.sleep(0.05)


# A child makes a segment, is there for a look, and ends; what comes then is about what it left.
BY_A_CHILD = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, str(libc.shmget(0, ctypes.c_size_t({size}), 0o1600)).encode())
    time.sleep(2.5)
    os._exit(0)
segment = int(os.read(reading, 20))
os.wait()
state = ctypes.create_string_buffer(256)
libc.shmctl(segment, 2, state)
libc.shmctl(segment, 1, state)  # which changes its time
"""
FILL = """
at = libc.shmat(segment, None, 0)
ctypes.memset(at, 1, {size})
libc.shmdt(ctypes.c_void_p(at))
"""


@pytest.mark.skipif(SANDBOX != "off", reason="a sandbox has none")
async def test_system_v_memory_counts_when_its_creator_has_ended(limited: Sessions) -> None:
    session = await limited.open()
    before = {segment.number for segment in segments()}
    code = (BY_A_CHILD + FILL).format(size=600_000_000)
    run = await cell(session, code + "time.sleep(15)")
    assert "RMI_AGENT_MEMORY_LIMIT" in " ".join(run.notices)
    assert not {segment.number for segment in segments()} - before


@pytest.mark.skipif(SANDBOX != "off", reason="a sandbox has none")
async def test_system_v_memory_of_a_creator_that_has_ended_goes_unless_somebody_has_it(
    limited: Sessions,
) -> None:
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    session = await limited.open()
    left, kept = [
        int(value(await cell(session, BY_A_CHILD.format(size=1_000_000) + "segment")))
        for _ in range(2)
    ]
    ours = libc.shmget(0, ctypes.c_size_t(1_000_000), 0o1600)
    at = libc.shmat(kept, None, 0)
    try:
        await limited.close(session)
        async with asyncio.timeout(10):
            while left in (there := {segment.number for segment in segments()}):
                await asyncio.sleep(0.05)
        assert {kept, ours} <= there
    finally:
        libc.shmdt(ctypes.c_void_p(at))
        for number in (kept, ours):
            libc.shmctl(number, 0, None)


def of_this_process() -> Segment:
    """A new segment that this process has made."""
    number = ctypes.CDLL(None).shmget(0, ctypes.c_size_t(4096), 0o1600)
    (made,) = [segment for segment in segments() if segment.number == number]
    return made


def test_a_segment_that_has_the_number_of_one_that_was_seen_is_not_removed() -> None:
    now = of_this_process()
    then = [replace(now, made=now.made + 100), replace(now, creator=now.creator + 1)]
    for other in then:
        remove([other])
        assert now in segments()
    remove([now])
    assert now.number not in {segment.number for segment in segments()}


def test_a_segment_of_an_earlier_process_with_a_members_number_is_not_the_familys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = of_this_process()
    try:
        theirs = replace(ours, number=ours.number + 1, made=1)
        monkeypatch.setattr(
            "rmi_agent.kernels.process_tree.family.segments", lambda: [ours, theirs]
        )
        family = Family(os.getpid())
        family.update(tree())
        assert family.segments == {ours.number: ours}
    finally:
        remove([ours])


def test_who_gets_the_number_of_a_familys_first_process_is_not_taken_for_it() -> None:
    family, now = Family(os.getpid()), tree()
    family.update(now)
    assert os.getpid() in family.pids
    reused = replace(now, began={os.getpid(): now.began[os.getpid()] + 1}, children={})
    for _ in range(2):
        family.update(reused)
        assert family.pids == []


@pytest.mark.skipif(SANDBOX != "off" or os.getuid() != 0, reason="needs another user's process")
async def test_a_process_that_cannot_be_ended_is_named_and_stops_no_watch(
    limited: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await limited.open()
    start = "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True)"
    theirs = int(value(await cell(session, f"{start}\np.pid")))
    kill = psutil.Process.kill

    def refused(process: psutil.Process) -> None:
        if process.pid == theirs:
            raise psutil.AccessDenied(theirs)
        kill(process)

    monkeypatch.setattr(psutil.Process, "kill", refused)
    for killed in (session, await limited.open()):  # the watch goes on
        run = await cell(killed, f"import time\n{TOO_MUCH['its own']}\ntime.sleep(15)")
        assert "RMI_AGENT_MEMORY_LIMIT" in " ".join(run.notices)
        named = f"Process {theirs} (sleep)" in " ".join(run.notices)
        assert named == (killed is session)
    assert psutil.pid_exists(theirs)
    kill(psutil.Process(theirs))


@dataclass(frozen=True)
class Idle:
    """A kernel as the watch sees it."""

    family: Family
    mark: str = "none"
    is_walled: bool = False


def test_processes_are_looked_at_rarely_while_nobody_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, now = [], 1000.0
    monkeypatch.setattr(memory_watch, "tree", lambda: looks.append(now) or tree())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch: MemoryWatch[Idle] = MemoryWatch(10**12)
    kernel = Idle(Family(os.getpid()))

    def run(seconds: int, kernels: list[Idle], busy: list[Idle]) -> int:
        nonlocal now
        before = len(looks)
        for _ in range(seconds * 10):
            now += 0.1
            assert watch.tick(kernels, busy, {}) == []
        return len(looks) - before

    assert run(30, [], []) == 0
    assert run(30, [kernel], []) <= 4
    assert 25 <= run(30, [kernel], [kernel]) <= 31
    assert run(30, [], []) == 0
    assert not watch.kernels


HOLDS = "import sys; x = bytearray(b'1' * int(sys.argv[1])); print('held', flush=True); input()"


@pytest.fixture
def holding() -> Iterator[Callable[[int], int]]:
    """Starts processes that hold so many bytes; returns the pid of each."""
    started: list[subprocess.Popen[bytes]] = []

    def start(size: int) -> int:
        one = [sys.executable, "-c", HOLDS, str(size)]
        started.append(subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stdout = started[-1].stdout
        assert stdout is not None and stdout.readline() == b"held\n"
        return started[-1].pid

    yield start
    for process in started:
        process.communicate(b"\n")


def test_a_kernel_that_takes_too_much_is_not_spared_for_a_small_copy(
    holding: Callable[[int], int],
) -> None:
    kernel, small, big = Idle(Family(holding(90_000_000))), holding(1_000), holding(50_000_000)
    own = exact(kernel.family.pids, {}, Account())
    of_small, of_big = (exact([pid], {}, Account()) for pid in (small, big))
    assert of_small < own / 10 < of_big / 4

    def why(limit: float, *copies: int) -> bool | None:
        """Whether its copies are why it exceeds a limit; None if it does not."""
        found = MemoryWatch[Idle](round(limit)).tick([kernel], [kernel], {kernel: copies})
        return found[0].by_copies if found else None

    assert why(own - 2e6) is why(own - 2e6, small) is False
    assert why(own - 2e6, small, big) is True  # it is known of the last copy only
    assert why(own + of_small / 2, small) is None
    assert why(own + of_big / 2, big) is why(own + of_big / 2, small, big) is True
    assert why(own + of_big + 2e6, big) is None
