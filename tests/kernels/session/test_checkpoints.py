"""Stepping back to before a cell: what is as it was, what is not, and what is refused."""

from __future__ import annotations

import asyncio
import os
import sys

import nbformat
import psutil
import pytest
from rmi_agent.kernels import CannotRestore, Run, Session, Sessions

from tests.conftest import cell, stream, value
from tests.processes import still_running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]


async def kept(session: Session, code: str) -> Run:
    """Run a cell with a checkpoint from before it."""
    return await session.submit_cell(code, 30, checkpoint="needed").task


async def shown(session: Session, code: str) -> str:
    """What a cell printed or returned; it must not fail."""
    run = await cell(session, code)
    assert run.status == "ok", run.cell.outputs
    return stream(run) or value(run)


def processes(session: Session) -> list[psutil.Process]:
    """Those of a session's kernel and of its copies."""
    kernels = [session.kernel, *session.copies]
    return [psutil.Process(each.process.pid) for each in kernels if each is not None]


async def test_variables_are_as_they_were_and_one_can_go_back_again(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "import random; items = [1]; random.seed(5)")
    drawn = await kept(session, "items.append(2); first = random.random(); first")
    for _ in range(2):
        before, copy = processes(session)
        restored = await sessions.restore(session, 2)
        assert (restored.gone, restored.lost, restored.shared) == ("", (), ())
        assert processes(session)[0] == copy
        assert not await asyncio.to_thread(still_running, [before], 5)
        assert await shown(session, "items, 'first' in globals(), len(In)") == "([1], False, 3)"
        again = await shown(session, "items.append(3); first = random.random(); first")
        assert again == value(drawn)
    assert session.checkpoints.cells == [2]


@pytest.mark.slow
async def test_later_cells_are_marked_and_run_by_nothing_again(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    await cell(session, "x = 3")
    restored = await sessions.restore(session, 2)
    assert restored.undone == (2, 3) and not restored.problem
    await cell(session, "x += 10")
    assert session.notebook is not None
    cells = nbformat.read(session.notebook, as_version=4).cells
    facts = [(one.source, bool(one.metadata.rmi_agent.get("undone"))) for one in cells]
    assert facts == [("x = 1", False), ("x = 2", True), ("x = 3", True), ("x += 10", False)]
    assert [one.metadata.get("tags", []) for one in cells] == [
        [],
        ["skip-execution"],
        ["skip-execution"],
        [],
    ]
    # Undone once, it is not undone again; a cell in between may be.
    assert (await sessions.restore(session, 2)).undone == (4,)
    await cell(session, "x")
    assert nbformat.read(session.notebook, as_version=4).cells[-1].metadata.rmi_agent.cell == 5


@pytest.mark.slow
async def test_the_last_three_are_kept(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    for number in range(2, 7):
        await kept(session, f"x = {number}")
    assert session.checkpoints.cells == [4, 5, 6]
    with pytest.raises(CannotRestore, match="from before: 4, 5, 6"):
        await sessions.restore(session, 3)
    await sessions.restore(session, 5)
    assert session.checkpoints.cells == [4, 5]  # 6 is of what was undone
    assert await shown(session, "x") == "4"
    await sessions.restore(session, 4)
    assert await shown(session, "x") == "3"
    assert session.checkpoints.cells == [4]


async def test_one_can_go_back_after_the_kernel_has_died(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "x = [1]")
    died = await kept(session, "import os; x.append(2); os._exit(1)")
    assert (died.status, died.state) == ("dead", "lost")
    assert any("before cell 2" in notice for notice in died.notices)
    assert (await sessions.restore(session, 2)).undone == (2,)
    assert await shown(session, "x") == "[1]"


@pytest.mark.slow
async def test_files_and_processes_are_not_undone_and_the_words_say_so(
    session: Session, sessions: Sessions
) -> None:
    await cell(
        session,
        "import subprocess, tempfile, os; folder = tempfile.TemporaryDirectory()\n"
        "out = open(folder.name + '/out', 'w'); child = subprocess.Popen(['sleep', '60'])",
    )
    await kept(session, "print('after', file=out, flush=True); child.pid")
    child = psutil.Process(int(await shown(session, "child.pid")))
    restored = await sessions.restore(session, 2)
    assert any(one.startswith("child process") for one in restored.lost), restored.lost
    assert [one.rpartition("/")[2] for one in restored.shared] == ["out"]
    assert not await asyncio.to_thread(still_running, [child], 5)
    assert await shown(session, "open(folder.name + '/out').read()") == "'after\\n'"
    # It is the session's only kernel now, so what ends with it is cleaned up.
    name = (await shown(session, "folder.name")).strip("'")
    last = processes(session)
    await sessions.close(session)
    assert not await asyncio.to_thread(still_running, last, 5)
    assert not os.path.exists(name)


@pytest.mark.slow
async def test_what_runs_waits_and_what_cannot_be_copied_does_not_run(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "import ctypes, time; x = 1")
    await kept(session, "x = 2")
    running = session.submit_cell("time.sleep(0.3); x = 3")
    with pytest.raises(CannotRestore, match="running or queued"):
        await sessions.restore(session, 2)
    await running.task
    with pytest.raises(CannotRestore, match="No checkpoint"):
        await sessions.restore(session, 3)
    await sessions.restore(session, 2)
    assert await shown(session, "x") == "1"


@pytest.mark.slow
async def test_a_restart_or_the_end_leaves_no_copy(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    first = processes(session)
    await session.restart()
    assert session.checkpoints.cells == []
    await kept(session, "x = 3")
    second = processes(session)
    assert len(first) == len(second) == 2
    await sessions.close(session)
    assert not await asyncio.to_thread(still_running, first + second, 5)
