"""Sessions that are forked: what both have, what is apart, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import zmq.asyncio
from rmi_agent.kernels import (
    TIERS,
    CannotBranch,
    Config,
    KernelError,
    Policy,
    Script,
    Session,
    Sessions,
    Tier,
    why_not,
)
from rmi_agent.kernels.kernel.branching import origin_of
from rmi_agent.kernels.process import LocalProcess
from rmi_agent.kernels.process_tree import mark_below, mark_number, marked, new_mark

from tests.conftest import cell, launch, policy, stream, value
from tests.processes import still_running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]


def pid_of(session: Session) -> int:
    assert session.kernel is not None
    assert session.kernel.process.pid is not None
    return session.kernel.process.pid


async def shown(session: Session, code: str) -> str:
    """What a cell printed; it must not fail."""
    run = await cell(session, code)
    assert run.status == "ok", run.cell.outputs
    return stream(run) or value(run)


async def fork(sessions: Sessions, origin: Session) -> Session:
    return await sessions.fork(origin)


BEFORE = """
import asyncio, random, os, tempfile, threading, io
class Thing:
    def __init__(self): self.items = [1]
thing, numbers = Thing(), (n for n in range(100))
next(numbers)
random.seed(7)
ticks = []
async def tick():
    while True:
        ticks.append(os.getpid())
        await asyncio.sleep(0.01)
task = asyncio.get_running_loop().create_task(tick())
class Closed:
    def __del__(self): open(folder.name + '/deleted', 'w')
folder = tempfile.TemporaryDirectory()
lines = open(folder.name + '/lines', 'w+')
lines.write('one\\ntwo\\n'); lines.flush(); lines.seek(0); _ = lines.readline()
read, write = os.pipe()
"""


async def test_both_have_the_same_and_are_apart_afterwards(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, BEFORE)
    other = await fork(sessions, session)
    assert other.kernel is not None
    assert any(one.startswith("pipe ") for one in other.kernel.lost), other.kernel.lost
    assert any(one.endswith("/lines") for one in other.kernel.shared)
    both = (session, other)
    same = "(thing.items, next(numbers), random.random(), lines.readline(), len(In))"
    first, second = [await shown(each, same) for each in both]
    assert first == second and "'two" in first
    for number, each in enumerate(both):
        await cell(each, f"thing.items.append({number}); mine = {number}; print('x' * 10)")
    assert [await shown(each, "(thing.items, mine)") for each in both] == [
        "([1, 0], 0)",
        "([1, 1], 1)",
    ]
    # Tasks of asyncio go on in both, each in its own process.
    ticking = "ticks.clear(); await asyncio.sleep(0.1); set(ticks) == {os.getpid()}, len(ticks) > 3"
    for each in both:
        assert await shown(each, ticking) == "(True, True)"
    assert await shown(other, "os.read(read, 1)") == "b''"  # as if its peer had closed it
    assert pid_of(session) != pid_of(other)
    await sessions.close(other)
    # Nothing was cleaned up that is the origin's.
    assert await shown(session, "os.path.exists(folder.name)") == "True"
    assert await shown(session, "os.write(write, b'7'); os.read(read, 1)") == "b'7'"


async def test_its_notebook_begins_with_the_cells_so_far(
    session: Session, sessions: Sessions
) -> None:
    unused = await fork(sessions, session)
    assert unused.notebook is None
    assert unused.kernel is not None and (unused.kernel.lost, unused.kernel.shared) == ((), ())
    await cell(session, "x = 1; print('a' * 50)")
    await cell(session, "x + 1")
    other = await fork(sessions, session)
    await cell(other, "x + 2")
    await cell(session, "x + 3")
    assert other.notebook is not None
    assert session.notebook is not None
    notebook = json.loads(other.notebook.read_text())
    assert [each["source"] for each in notebook["cells"]] == [
        "x = 1; print('a' * 50)",
        "x + 1",
        "x + 2",
    ]
    record = notebook["metadata"]["rmi_agent"]
    assert record["forked_from"]["cell"] == 2 and session.id.startswith(
        record["forked_from"]["session"].rstrip("…")
    )
    run = await sessions.on_record(other.id, 2)
    assert run is not None and value(run) == "2"
    assert [c["source"] for c in json.loads(session.notebook.read_text())["cells"]][2:] == ["x + 3"]
    for each in (unused, other):
        await sessions.close(each)


async def test_interrupts_and_deaths_stay_apart(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    other = await fork(sessions, session)
    running = other.submit_cell("import time; time.sleep(60)")
    while running.status != "running":
        await asyncio.sleep(0.01)
    assert await shown(session, "x") == "1"
    other.interrupt()
    assert (await running.task).status == "interrupted"
    assert await shown(other, "x") == "1"
    died = await cell(other, "import os; os._exit(3)")
    assert (died.status, died.exit_code, died.state) == ("dead", 3, "lost")
    assert await shown(session, "x") == "1"
    again = await fork(sessions, session)
    await cell(session, "import os; os.kill(os.getpid(), 9)")
    assert await shown(again, "x") == "1"
    for each in (other, again):
        await sessions.close(each)


async def test_forks_of_forks_end_without_a_trace(sessions: Sessions, session: Session) -> None:
    await cell(session, "x = [0]")
    family = [session]
    for number in range(1, 6):
        origin = family[-1] if number % 2 else family[0]
        family.append(await fork(sessions, origin))
        await cell(family[-1], f"x.append({number})")
    seen = [await shown(each, "x") for each in family]
    assert seen[0] == "[0]" and seen[1] == "[0, 1]" and len(set(seen)) == 6
    processes = [psutil.Process(pid_of(each)) for each in family[1:]]
    assert len({each.pid for each in processes}) == 5
    for each in family[1:]:
        await sessions.close(each)
    assert not await asyncio.to_thread(still_running, processes, 5)
    assert await shown(session, "x") == "[0]"


async def test_files_questions_and_threads_work_in_a_fork(
    session: Session, sessions: Sessions, tmp_path: Path
) -> None:
    path = tmp_path / "file.py"
    path.write_text("import threading, sys, os\nprint(threading.active_count(), left, sys.argv)")
    await cell(session, "left = 5")
    other = await fork(sessions, session)
    for each in (session, other):
        script = Script(path, path.read_bytes(), args=("a",), fresh=False)
        run = await each.submit_program(script).task
        assert stream(run) == "1 5 ['file.py', 'a']\n", run.cell
        asked = each.submit_cell("input('name? ')")
        while asked.question is None and asked.status != "over":
            await asyncio.sleep(0.01)
        assert asked.question is not None
        asked.question.answer("Ada")
        assert value(await asked.task) == "'Ada'"
        assert await shown(each, "!echo from a shell") == "from a shell\n"
    await sessions.close(other)


LIBRARIES = """
import concurrent.futures, multiprocessing, threading, time, subprocess, weakref, atexit, os
made = {made!r}
pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='mine')
first, waiting = pool.submit(time.sleep, 0.3), pool.submit(time.time)
processes = multiprocessing.get_context('fork').Pool(1)
processes.map(abs, [-1])
executor = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('fork'))
executor.submit(abs, -1).result()
lock = threading.Lock()
def hold():
    with lock: time.sleep(600)
threading.Thread(target=hold, daemon=True, name='holder').start()
sleeping = subprocess.Popen(['sleep', '600'])
class Kept: pass
kept = Kept()
finalizer = weakref.finalize(kept, open, made + '/finalized', 'w')
atexit.register(open, made + '/at-exit', 'w')
while not lock.locked(): time.sleep(0.01)
"""


async def test_what_libraries_have_started_belongs_to_the_origin(
    session: Session, sessions: Sessions, tmp_path: Path
) -> None:
    run = await cell(session, LIBRARIES.format(made=str(tmp_path)))
    assert run.status == "ok", run.cell
    other = await fork(sessions, session)
    assert other.kernel is not None
    lost = "; ".join(other.kernel.lost)
    for words in ("thread mine_0", "thread holder", "lock lock", "(sleep)", "child process"):
        assert words in lost
    assert await shown(other, "pool.submit(abs, -2).result(5), waiting.cancelled()") == "(2, True)"
    for pool, kind in (
        ("processes.map(abs, [-1])", "ValueError"),
        ("executor.submit(abs, -1)", "BrokenProcessPool"),
    ):
        assert (await cell(other, pool)).error_name == kind
    assert await shown(other, "multiprocessing.get_context('fork').Pool(1).map(abs, [-3])") == "[3]"
    assert await shown(other, "lock.locked(), threading.active_count() < 9") == "(True, True)"
    await sessions.close(other)
    assert sorted(os.listdir(tmp_path)) == []
    assert (
        await shown(session, "processes.map(abs, [-4]), executor.submit(abs, -5).result()")
        == "([4], 5)"
    )
    assert await shown(session, "sleeping.poll() is None") == "True"


async def test_what_can_not_be_forked_is_refused_and_goes_on(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "x = 1")
    running = session.submit_cell("import time; time.sleep(0.5)")
    with pytest.raises(CannotBranch, match="can't be forked. A cell is running"):
        await fork(sessions, session)
    await running.task
    code = (
        "import mmap, os, tempfile; folder = tempfile.TemporaryDirectory()\n"
        "file = open(folder.name + '/libcuda.so.1', 'wb+'); file.truncate(4096)\n"
        "loaded = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"
    )
    assert (await cell(session, code)).status == "ok"
    with pytest.raises(CannotBranch, match="It uses a graphics processor"):
        await fork(sessions, session)
    await cell(session, "loaded.close()")
    # A fork that does not work.
    await cell(session, "os.register_at_fork(after_in_child=lambda: os.getpid() and os._exit(1))")
    with pytest.raises(CannotBranch, match="could not be forked: no process"):
        await fork(sessions, session)
    assert await shown(session, "x") == "1"
    await cell(session, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(CannotBranch, match="no variables to fork"):
        await fork(sessions, session)


async def test_a_cancelled_fork_leaves_nothing(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    before = set(sessions.by_id)
    for _ in range(3):
        forking = asyncio.create_task(fork(sessions, session))
        await asyncio.sleep(0)
        forking.cancel()
        await asyncio.wait({forking})
        assert await shown(session, "x") == "1"
    async with asyncio.timeout(10):
        while set(sessions.by_id) != before or sessions.pool.leased != len(before):
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["off", *TIERS])
async def test_forks_in_each_sandbox_are_marked_and_measured(tier: Tier, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    folder = tmp_path / "p"
    if tier != "off" and (why := why_not(Policy(tier, folder, tmp_path / "homes"))):
        pytest.skip(why)
    config = Config(tmp_path / "notebooks")
    async with Sessions(config, launch(folder), policy=policy(folder, tier)) as sessions:
        session = await sessions.open()
        await cell(session, "held = bytearray(b'x' * 200_000_000); file = open('a.txt', 'w+')")
        forks = [await fork(sessions, session) for _ in range(3)]
        for each in (session, *forks):
            assert each.kernel is not None
            process = each.kernel.process
            assert process.family is not None
            assert marked(process.mark) == [process.pid] == process.family.pids
            assert await shown(each, "(len(held), file.write('a'))") == "(200000000, 1)"
        # Shared memory is counted once.
        counts = [each.kernel.process.memory() for each in forks if each.kernel is not None]
        assert max(counts) < 130_000_000
        await cell(forks[0], "for n in range(0, len(held), 4096): held[n] = 1")
        first = forks[0].kernel
        assert first is not None and first.process.memory() > 200_000_000
        for each in forks:
            running = each.submit_cell("import time; time.sleep(60)")
            while running.status != "running":
                await asyncio.sleep(0.01)
            each.interrupt()
            assert (await running.task).status == "interrupted"
        await sessions.close(session)  # the others go on without it
        for each in forks:
            assert await shown(each, "len(held)") == "200000000"
        again = await fork(sessions, forks[2])
        assert await shown(again, "len(held)") == "200000000"


@pytest.mark.slow
async def test_libraries_whose_threads_would_hang_are_told_apart(
    session: Session, sessions: Sessions
) -> None:
    pytest.importorskip("polars")
    pytest.importorskip("numpy")
    blas = "import numpy; one = numpy.ones((500, 500)); float((one @ one).sum())"
    for _ in range(2):  # its threads end before a fork, and are started again
        assert await shown(session, blas) == "125000000.0"
        other = await fork(sessions, session)
        assert await shown(other, blas) == "125000000.0"
        await sessions.close(other)
    await cell(session, "import polars; polars.DataFrame({'a': range(1000)}).group_by('a').len()")
    with pytest.raises(CannotBranch, match="polars has started threads"):
        await fork(sessions, session)
    assert await shown(session, blas) == "125000000.0"


@pytest.mark.slow
async def test_a_session_is_not_closed_to_make_room_for_its_own_fork(tmp_path: Path) -> None:
    config = Config(tmp_path / "notebooks")
    async with Sessions(config, launch(tmp_path), warm=0, most=1, room_timeout=0.2) as sessions:
        session = await sessions.open()
        await cell(session, "x = 1")
        with pytest.raises(KernelError, match="The only kernel is busy"):
            await fork(sessions, session)
        assert await shown(session, "x") == "1"
        assert [*sessions.by_id] == [session.id]


async def test_kernels_that_were_not_forked_from_a_template_are_refused(tmp_path: Path) -> None:
    elsewhere: Any = SimpleNamespace(is_here=False)
    exchange: Any = None
    with pytest.raises(CannotBranch, match=r"not on the server's machine\. Open a new session"):
        origin_of(elsewhere, exchange)
    process = LocalProcess(launch(tmp_path), zmq.asyncio.Context.instance())
    with pytest.raises(CannotBranch, match="was started, not forked"):
        origin_of(process, exchange)


async def test_numbers_of_marks_fall_slowly_from_fork_to_fork() -> None:
    mark = new_mark("server")
    for _ in range(3_000):
        lower = mark_below(mark)
        assert lower.partition(".")[0] == "server"
        assert mark_number(lower) < mark_number(mark)
        mark = lower
