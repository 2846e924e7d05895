"""The reaper process is watched itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rmi_agent.kernels.process_tree import MARK, Reaper

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runtime"
    made.mkdir()
    return made


def marked_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "watched.1"})


def reapers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "watched" in child.cmdline():
                found.append(child)
    return found


async def only_reaper() -> psutil.Process:
    """The one that was just started, whose command line is empty for a moment."""
    async with asyncio.timeout(10):
        while not (found := reapers()):
            await asyncio.sleep(0.01)
    (process,) = found
    return process


async def test_a_reaper_that_is_killed_has_a_successor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.process_tree.reaper.CHECK_INTERVAL", 0.05)
    reaper = Reaper("watched", folder)
    staying = asyncio.create_task(reaper.stay())
    first = await only_reaper()
    first.kill()
    async with asyncio.timeout(10):
        while reapers() in ([], [first]):
            await asyncio.sleep(0.02)
    staying.cancel()
    with marked_process() as marked:
        await reaper.release()
        assert marked.wait(5) == -signal.SIGKILL
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_what_a_reaper_cannot_do_any_more_is_done_in_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.process_tree.reaper.KILL_TIMEOUT", 0.5)
    reaper = Reaper("watched", folder)
    process = await only_reaper()
    process.send_signal(number)
    with marked_process() as marked:
        await reaper.release()
        assert marked.wait(5) == -signal.SIGKILL
    assert not folder.exists()
