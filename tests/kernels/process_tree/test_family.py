"""Daemons of forked kernels, which become their template's children."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from rmi_agent.kernels import Config, Session, Sessions
from rmi_agent.kernels.process_tree import Family

from tests.conftest import cell, launch, policy, stream
from tests.processes import has_ended

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux's subreapers"),
]

DAEMON = """
import os, time
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.005)
        os.write(writing, b"orphaned")
        os.closerange(0, 100)
        time.sleep(600)
    os._exit(0)
os.wait()
print(os.read(reading, 20).decode())
"""


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    folder = tmp_path / "p"
    folder.mkdir()
    async with Sessions(
        Config(folder / "n"), launch(folder), warm=0, policy=policy(folder)
    ) as sessions:
        yield await sessions.open()


def template_of(session: Session) -> psutil.Process:
    assert session.kernel is not None
    assert session.kernel.process.forked
    assert session.kernel.process.pid is not None
    return psutil.Process(session.kernel.process.pid).parent()


async def daemon_of(session: Session) -> psutil.Process:
    """A daemon of the session's kernel."""
    known = set(psutil.process_iter())
    run = await cell(session, DAEMON)
    assert stream(run).strip() == "orphaned", stream(run, "stderr")
    (daemon,) = set(template_of(session).children()) - known
    return daemon


async def until_ended(session: Session) -> None:
    """End the session's kernel and wait until its sweep is over."""
    kernel = session.kernel
    assert kernel is not None
    await kernel.process.close()


@pytest.mark.slow
async def test_a_daemon_is_found_among_the_children_of_its_template(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await daemon_of(session)
    monkeypatch.setattr("rmi_agent.kernels.process_tree.reaper.psutil.pids", lambda: 1 / 0)
    await until_ended(session)
    assert has_ended(daemon)


@pytest.mark.slow
async def test_a_daemon_of_another_kernel_stays(session: Session, tmp_path: Path) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, policy=policy(tmp_path)
    ) as sessions:
        first, second = await sessions.open(), await sessions.open()
        assert template_of(first) == template_of(second)
        mine, other = await daemon_of(first), await daemon_of(second)
        await until_ended(first)
        assert has_ended(mine)
        assert not has_ended(other)
    assert has_ended(other)


@pytest.mark.slow
async def test_a_daemon_whose_template_has_ended_is_found_elsewhere(session: Session) -> None:
    daemon = await daemon_of(session)
    if policy(Path()):
        pytest.skip("a sandbox ends with its template")
    template = template_of(session)
    template.kill()
    async with asyncio.timeout(10):
        while daemon.ppid() == template.pid:
            await asyncio.sleep(0.01)
    await until_ended(session)
    assert has_ended(daemon)


@pytest.mark.slow
async def test_a_daemon_that_exits_leaves_no_zombie(session: Session) -> None:
    daemon = await daemon_of(session)
    daemon.kill()
    async with asyncio.timeout(10):
        while daemon.is_running():  # a zombie is
            await asyncio.sleep(0.01)


def test_the_group_of_another_process_with_the_same_pid_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        family = Family(other.pid)
        family._root_began = 1.0  # the one that had this pid before
        family._began.clear()
        assert family.end("no-such-mark") == []
        assert other.poll() is None
        Family(other.pid).end("no-such-mark")
        assert other.wait(10) == -signal.SIGKILL
