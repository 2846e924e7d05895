"""Stepping back while something else happens: to the session, its copies, or its notebook."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nbformat
import pytest
from rmi_agent.kernels import (
    CannotBranch,
    Config,
    KernelError,
    Module,
    Run,
    Session,
    Sessions,
)
from rmi_agent.kernels.errors import KernelStartError
from rmi_agent.kernels.process import BranchProcess

from tests.conftest import cell, launch, policy, value

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.branches,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]
MOST = 3


@pytest.fixture(scope="module")
async def sessions(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sessions]:
    """Sessions that survive crashes, with room for few kernels."""
    folder = tmp_path_factory.mktemp("s")
    async with Sessions(
        Config(folder / "notebooks", crash_recovery=True),
        launch(folder),
        warm=1,
        most=MOST,
        room_timeout=0.1,
        policy=policy(folder, write=(tmp_path_factory.getbasetemp(),)),
    ) as opened:
        yield opened


async def kept(session: Session, code: str) -> Run:
    """Run a cell with a checkpoint from before it."""
    return await session.submit_cell(code, 30, checkpoint="needed").task


async def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_no_copy_from_what_is_undone_takes_over(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    await until(lambda: session.recovery.copy)
    await sessions.restore(session, 2)
    died = await cell(session, "import os; os._exit(1)")
    assert (died.status, died.state) == ("dead", "lost")  # and not 2, which is undone
    await sessions.restore(session, 2)
    await until(lambda: session.recovery.copy)
    died = await cell(session, "import os; os._exit(1)")
    assert (died.status, died.state) == ("dead", "kept")
    assert value(await cell(session, "x")) == "1"


@pytest.mark.slow
async def test_a_kernel_that_hangs_when_copied_is_copied_once(
    session: Session, tmp_path: Path
) -> None:
    library = tmp_path / "site-packages"  # a user's own function would be refused at once
    library.mkdir()
    hang = "import os, time\ndef hang(): time.sleep(60)\nos.register_at_fork(after_in_child=hang)"
    (library / "hanging.py").write_text(hang)
    await cell(session, f"import sys; sys.path.insert(0, {str(library)!r}); import hanging")
    await until(lambda: "could not be forked" in session.recovery.why_not, 20)
    await cell(session, "x = 1")
    await until(lambda: "too long" in session.recovery.why_not, 2)


@pytest.mark.slow
async def test_a_fresh_kernel_had_run_nothing_that_could_be_kept(session: Session) -> None:
    await cell(session, "import threading; threading.Thread(target=print)")
    await session.restart()
    for _ in range(2):
        died = await cell(session, "import os; os._exit(1)")
        assert any("Nothing had run" in notice for notice in died.notices), died.notices


async def test_a_run_that_waits_for_it_is_not_undone(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    restoring = asyncio.create_task(sessions.restore(session, 2))
    await until(session.runs.turn.locked)
    waiting = session.submit_program(Module("this", sessions.launch.cwd))
    assert (await restoring).undone == (2,)
    assert "undone" not in (await waiting.task).cell.metadata.rmi_agent


async def test_a_session_that_closes_meanwhile_leaves_no_copy(sessions: Sessions) -> None:
    session = await sessions.open()
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    before = session.kernel
    restoring = asyncio.create_task(sessions.restore(session, 2))
    await until(lambda: session.kernel is not before)
    await sessions.close(session)
    await restoring
    assert not session.copies


async def test_a_full_server_does_not_cost_the_checkpoint(sessions: Sessions) -> None:
    session = await sessions.open()
    await cell(session, "x = 1")
    await kept(session, "import os; os._exit(1)")
    assert session.kernel is None
    others = [await sessions.open() for _ in range(MOST)]
    for other in others:
        other.submit_cell("import time; time.sleep(60)")
    with pytest.raises(KernelError, match="kernels are busy"):
        await sessions.restore(session, 2)
    for other in others:
        await sessions.close(other)
    assert (await sessions.restore(session, 2)).undone == (2,)
    assert value(await cell(session, "x")) == "1"
    await sessions.close(session)


async def test_a_checkpoint_that_has_ended_is_not_offered(session: Session) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    (copy,) = session.copies
    assert copy.process.pid is not None
    os.kill(copy.process.pid, signal.SIGKILL)
    await until(lambda: not session.checkpoints.cells)


async def test_what_is_undone_is_told_though_the_notebook_cannot_be_marked(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")
    assert session.notebook is not None
    session.notebook.write_bytes(session.notebook.read_bytes() + b"\n")
    restored = await sessions.restore(session, 2)
    assert restored.undone == (2,)
    assert "changed by another program" in restored.problem


async def test_the_record_says_of_each_undone_cell_what_happened(
    session: Session, sessions: Sessions
) -> None:
    await cell(session, "x = 1")
    in_memory = await kept(session, "x = 2")
    await cell(session, "x = 3")
    await sessions.restore(session, 2)
    note = "Undone: the session went back to before cell 2."
    assert in_memory.notices == (note,)
    assert session.notebook is not None
    cells = nbformat.read(session.notebook, as_version=4).cells
    assert [one.metadata.rmi_agent.get("notes") for one in cells] == [None, [note], [note]]
    nbformat.validate(nbformat.read(session.notebook, as_version=4))


async def test_a_copy_that_does_not_start_leaves_the_session_where_it_went(
    session: Session, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cell(session, "x = 1")
    await kept(session, "x = 2")

    async def start(_: BranchProcess) -> None:
        raise KernelStartError("The kernel ended before it answered.")

    monkeypatch.setattr(BranchProcess, "start", start)
    restored = await sessions.restore(session, 2)
    assert restored.undone == (2,) and "ended before it answered" in restored.gone
    assert value(await cell(session, "x")) == "1"


async def test_a_kernel_that_cannot_be_looked_at_is_refused_at_once(session: Session) -> None:
    await cell(session, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))")
    async with asyncio.timeout(5):
        with pytest.raises(CannotBranch, match="can't be looked at"):
            await kept(session, "x = 2")


@pytest.mark.slow
async def test_the_end_of_the_server_waits_for_the_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int | None] = []
    close = BranchProcess.close

    async def slow(self: BranchProcess, *, graceful: bool = True) -> None:
        await asyncio.sleep(0.5)
        await close(self, graceful=graceful)
        ended.append(self.pid)

    monkeypatch.setattr(BranchProcess, "close", slow)
    async with Sessions(Config(tmp_path / "notebooks"), launch(tmp_path), warm=0) as own:
        session = await own.open()
        await kept(session, "x = 1")
        pids = [copy.process.pid for copy in session.copies]
    assert ended == pids
