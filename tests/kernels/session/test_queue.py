"""A session's queue, and what it says when something of the server's own fails."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.kernels import Config, KernelError, Reply, Sessions
from rmi_agent.kernels.session.runs import QUEUE_MOST

from tests.conftest import launch

pytestmark = pytest.mark.anyio


class Scripted:
    """A kernel without a process: a cell is `wait`, which goes on until it is stopped, or ends."""

    is_python = True
    outdated: bool | None = None
    killed_since = ""
    listened = ()

    class Process:
        forked = is_here = True
        remote = pid = None
        left_running: tuple[str, ...] = ()
        why_ended = ""

        def spec_metadata(self) -> dict[str, str]:
            return {"name": "python3", "display_name": "Python", "language": "python"}

    def __init__(self, *_: object) -> None:
        self.info: dict[str, Any] = {}
        self.process = self.Process()
        self.stopped: asyncio.Future[str] | None = None
        self.ran: list[str] = []

    async def start(self) -> None:
        pass

    async def close(self, *, graceful: bool = True) -> None:
        pass

    async def alive(self) -> bool:
        return True

    def interrupt(self, why: str, *, patient: bool = False) -> bool:
        if self.stopped is None or self.stopped.done():
            return False
        self.stopped.set_result(why)
        return True

    async def run_cell(self, code: str, *_: object) -> Reply:
        self.ran.append(code)
        if code == "wait":
            self.stopped = asyncio.get_running_loop().create_future()
            await self.stopped
            return Reply("interrupted")
        if code == "break":
            raise OSError(28, "No space left on device")
        return Reply("ok")


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sessions]:
    monkeypatch.setattr("rmi_agent.kernels.session.place.Kernel", Scripted)
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=2, room_timeout=2, most_each=1
    ) as sessions:
        yield sessions


async def test_a_run_is_interrupted_however_many_wait_behind_it(opened: Sessions) -> None:
    session = await opened.open()
    first = session.submit_cell("wait")
    behind = [session.submit_cell("1") for _ in range(QUEUE_MOST)]
    await asyncio.sleep(0.01)
    assert session.busy
    assert session.interrupt()
    assert (await first.task).status == "interrupted"
    assert [(await each.task).number for each in behind] == [*range(2, QUEUE_MOST + 2)]
    assert not session.running
    assert not session.interrupt()


async def test_a_queue_has_an_end_and_says_what_to_do(opened: Sessions) -> None:
    session = await opened.open()
    session.submit_cell("wait")
    for _ in range(QUEUE_MOST):
        session.submit_cell("1")
    with pytest.raises(KernelError, match=r"Nothing was run: 100 runs wait.*restart_session"):
        session.submit_cell("1")
    assert session.count == QUEUE_MOST + 1
    await session.restart()
    assert (await session.submit_cell("1").task).status == "ok"


async def test_a_run_that_fails_inside_the_server_has_words_and_holds_up_nobody(
    opened: Sessions,
) -> None:
    session = await opened.open()
    before = session.kernel
    broken, behind = session.submit_cell("break"), session.submit_cell("1")
    with pytest.raises(KernelError, match=r"Cell 1 failed inside the server \(No space left"):
        await broken.task
    run = await behind.task
    assert "fresh kernel" in " ".join(run.notices)  # the cell may still have run in the other
    assert session.kernel is not before
    assert opened.pool.count == 1


async def test_a_run_in_memory_keeps_nothing_of_the_request_that_it_came_with(
    opened: Sessions,
) -> None:
    class Request:
        pass

    session = await opened.open()
    current: ContextVar[Request | None] = ContextVar("current")
    requests = []
    executions = []
    for code in ("1", "1", "break"):
        current.set(request := Request())
        requests.append(weakref.ref(request))
        executions.append(session.submit_cell(code))
    executions[1].interrupt()
    current.set(None)
    del request
    results = await asyncio.gather(*(each.task for each in executions), return_exceptions=True)
    await asyncio.sleep(0)
    assert [type(each).__name__ for each in results] == ["Run", "CancelledError", "KernelError"]
    again = await asyncio.gather(*(each.task for each in executions), return_exceptions=True)
    assert list(map(type, again)) == list(map(type, results))
    del results, again
    gc.collect()
    # An error keeps the frames that it came through.
    assert [request() for request in requests[:2]] == [None] * 2


async def test_a_result_that_cannot_be_taken_in_costs_no_variables(
    opened: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened.open()
    before = session.kernel

    def finish(*_: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(session.recorder, "finish", finish)
        with pytest.raises(KernelError, match=r"ran to its end.*\(broken\).*variables are kept"):
            await session.submit_cell("1").task
    assert (await session.submit_cell("1").task).state == "kept"
    assert session.kernel is before


async def test_what_is_submitted_during_a_restart_runs_in_the_fresh_kernel(
    opened: Sessions,
) -> None:
    session = await opened.open()
    before = session.kernel
    session.submit_cell("wait")
    await asyncio.sleep(0.01)
    restarting = asyncio.create_task(session.restart())
    await asyncio.sleep(0)
    late = session.submit_cell("late")
    await restarting
    await late.task
    assert isinstance(before, Scripted) and isinstance(session.kernel, Scripted)
    assert before.ran == ["wait"]
    assert session.kernel.ran == ["late"]


async def test_a_restart_whose_caller_is_cancelled_is_done_all_the_same(opened: Sessions) -> None:
    session = await opened.open()
    before = session.kernel
    restarting = asyncio.create_task(session.restart())
    await asyncio.sleep(0)
    restarting.cancel()
    await asyncio.wait({restarting})
    await session.submit_cell("1").task
    assert session.kernel is not before


async def test_a_session_whose_closing_fails_gives_its_kernel_and_its_place_back(
    opened: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):  # there are two kernels, and one session for each
        session = await opened.open("alice")

        def sign(_: object) -> None:
            raise OSError("the disk is gone")

        monkeypatch.setattr(session.recorder, "sign", sign)
        with pytest.raises(OSError, match="disk is gone"):
            await opened.close(session)
        assert sum("closing a session failed" in m for m in caplog.messages) == number + 1
    async with asyncio.timeout(5):
        while opened.pool.count:
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_nothing_is_kept_of_principals_without_sessions(opened: Sessions) -> None:
    for number in range(5):
        await opened.close(await opened.open(f"p{number}"))
    held = await opened.open("held")
    busy = held.submit_cell("wait")
    await asyncio.sleep(0.01)
    with pytest.raises(KernelError, match="RMI_AGENT_SESSIONS_PER_USER"):
        await opened.open("held")
    assert set(opened.quotas.held) == {"held"}
    busy.interrupt()
    await opened.close(held)
    assert not opened.quotas.held


async def test_a_round_of_a_watch_that_fails_is_not_its_last(
    opened: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0
    again = asyncio.Event()

    def tick(*_: object) -> list[Any]:
        nonlocal rounds
        rounds += 1
        if rounds > 1:
            again.set()
        raise RuntimeError("broken")

    monkeypatch.setattr("rmi_agent.kernels.process_tree.memory_watch.MemoryWatch.tick", tick)
    config = Config(tmp_path / "m", memory_limit=1)
    async with Sessions(config, launch(tmp_path), warm=0) as watched, asyncio.timeout(10):
        session = await watched.open()  # a server without kernels looks at nothing
        assert session.kernel is not None
        monkeypatch.setattr(session.kernel.process, "pid", os.getpid())
        await again.wait()
