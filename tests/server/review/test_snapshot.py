"""A look at what an open session has not written yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from rmi_agent.kernels import Sessions
from rmi_agent.server.review import snapshot as looks
from rmi_agent.server.review.model import Cell, Output
from rmi_agent.server.review.notebook_file import parse_cell

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_a_running_cell_is_laid_out_outside_the_event_loop(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def seen(number: int, cell: Mapping[str, Any], *, live: bool) -> Cell:
        threads.append(threading.current_thread())
        return parse_cell(number, cell, live=live)

    monkeypatch.setattr(looks, "parse_cell", seen)
    session = await sessions.open()
    running = session.submit_cell("print('begun', flush=True)\nimport time; time.sleep(60)")
    waiting = session.submit_cell("print('never')")
    async with asyncio.timeout(20):
        while not running.outputs.size:
            running.outputs.changed.clear()
            await running.outputs.changed.wait()
    path = session.recorder.path
    assert path is not None
    found = await looks.pending_cells(sessions, path)
    await sessions.close(session)
    assert waiting.task.done()
    assert found is not None
    assert [cell.status for cell in found] == ["running", "waiting"]
    assert [output.text for output in found[0].outputs] == ["begun\n"]
    assert len(threads) == 2
    assert threading.main_thread() not in threads


@pytest.mark.slow
async def test_an_output_that_has_not_changed_is_read_once_for_all_snapshots(
    sessions: Sessions,
) -> None:
    session = await sessions.open()
    running = session.submit_cell(
        """
from IPython.display import display
shown = display('picture', display_id=True)
display('kept')
input()
shown.update('changed')
display('last')
input()"""
    )

    async def look(count: int) -> tuple[Output, ...]:
        """The outputs so far, once there are `count` besides streams."""
        while True:
            running.outputs.changed.clear()
            found = session.recorder.path and await looks.pending_cells(
                sessions, session.recorder.path
            )
            outputs = tuple(each for each in found[0].outputs if each.bundle) if found else ()
            if len(outputs) >= count:
                return outputs
            await running.outputs.changed.wait()

    async with asyncio.timeout(20):
        first, kept = await look(2)
        again, _ = await look(2)
        if running.question is None:
            await running.wait(None, or_question=True)
        assert running.question is not None
        running.question.answer("")
        changed, kept_again, _ = await look(3)
    await sessions.close(session)
    assert again is first and kept_again is kept
    assert changed.version != first.version
    assert (first.bundle, changed.bundle) == (
        {"text/plain": "'picture'"},
        {"text/plain": "'changed'"},
    )
