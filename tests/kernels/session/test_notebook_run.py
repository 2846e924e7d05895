"""A notebook in a session: its record, whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rmi_agent.kernels import Kernel, NotebookRun, Run, Session, Sessions, steps_of
from rmi_agent.kernels.notebook import Recorder, recover
from rmi_agent.kernels.notebook.recovery import pid_file

from tests.conftest import cell, stream, value

pytestmark = pytest.mark.anyio


def started(session: Session, *cells: Any, **parameters: Any) -> NotebookRun:
    made = [new_code_cell(one) if isinstance(one, str) else one for one in cells]
    steps = steps_of(json.dumps(new_notebook(cells=made)), parameters)

    async def ignore(_: NotebookRun, __: Run) -> None:
        pass

    return NotebookRun(session, "n.ipynb", Path("/"), steps, parameters, 60.0, ignore)


@pytest.mark.slow
async def test_it_waits_for_the_runs_before_it(session: Session) -> None:
    first = session.submit_cell("import time; time.sleep(0.3); x = 1")
    series = started(session, new_markdown_cell("# here"), "x + 1", "import os; os.getcwd()")
    await series.task
    assert first.task.done() and series.failed is None and series.done == 2
    assert session.notebook is not None
    notebook = nbformat.read(session.notebook, as_version=4)
    nbformat.validate(notebook)
    kinds = [one.cell_type for one in notebook.cells]
    assert kinds == ["code", "markdown", "code", "code"]
    assert value(await session.runs.executions[2].task) == "'/'"


@pytest.mark.slow
async def test_displays_of_earlier_cells_are_updated_in_the_record(session: Session) -> None:
    shows = "h = display('before', display_id=True)"
    series = started(session, shows, new_markdown_cell("between"), "h.update('after')", n=1)
    await series.task
    assert session.notebook is not None
    notebook = nbformat.read(session.notebook, as_version=4)
    nbformat.validate(notebook)
    (shown,) = (output for one in notebook.cells for output in one.get("outputs", ()))
    assert shown.data["text/plain"] == "'after'"


async def test_a_stop_that_comes_while_its_kernel_enters_the_folder_counts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cell(session, "x = 1")
    entering, entered = asyncio.Event(), asyncio.Event()
    enter = Kernel.enter

    async def enter_slowly(kernel: Kernel, folder: Path) -> None:
        entering.set()
        await entered.wait()
        await enter(kernel, folder)

    monkeypatch.setattr(Kernel, "enter", enter_slowly)
    series = started(session, "x = 2", "x = 3")
    await entering.wait()
    stopped = session.interrupt()
    assert stopped is not None
    assert session.interrupt() is None
    entered.set()
    run = await stopped.task
    assert (run.status, run.state) == ("interrupted", "kept")
    assert "None of it ran." in run.notices
    await series.task
    assert value(await cell(session, "x")) == "1"


async def test_a_session_that_is_closed_records_no_more(sessions: Sessions) -> None:
    session = await sessions.open()
    words = [new_markdown_cell(str(number)) for number in range(500)]
    series = started(session, "x = 1", *words, "import time; time.sleep(60)")
    while session.count < 1 or not session.runs.executions[0].task.done():
        await asyncio.sleep(0)
    await sessions.close(session)
    await asyncio.wait({series.task}, timeout=10)
    assert series.task.done() and series.stopped
    assert session.notebook is not None
    nbformat.validate(nbformat.read(session.notebook, as_version=4))


async def test_it_is_never_idle_between_its_cells(session: Session) -> None:
    seen: list[bool] = []
    session.on_change = lambda one: seen.append(one.busy)
    series = started(session, *["pass"] * 5)
    await series.task
    async with asyncio.timeout(5):
        while session.busy:
            await asyncio.sleep(0)
    assert len(seen) >= 10 and all(seen[:-1]) and not seen[-1]


def test_cells_that_do_not_run_survive_a_crash(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {})
    copied = new_markdown_cell("# words")
    skipped = new_code_cell("1", metadata={"tags": ["skip-execution"]})
    steps = steps_of(json.dumps(new_notebook(cells=[copied, skipped])), {}).steps
    for step in steps:
        assert step.copied is not None
        recorder.copy(step.cell.id, step.copied, "title")
    recorder.start(new_code_cell("running"), "title")
    assert recorder.path is not None
    pid_file(recorder.path).write_text('{"pid": 1, "started": 1}')
    assert recover(tmp_path) == [recorder.path]
    cells = nbformat.read(recorder.path, as_version=4).cells
    status = [one.metadata.get("rmi_agent", {}).get("status") for one in cells]
    assert status == [None, "skipped", "interrupted"]


async def test_the_metadata_of_a_record_can_change(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, {"a": 1})
    for number in range(3):
        recorder.finish(new_code_cell(str(number)), "title")
        recorder.metadata["a"] = {"longer": "x" * 10 * number}
        await recorder.amend((), head=True)
        assert recorder.path is not None
        notebook = nbformat.read(recorder.path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata == recorder.metadata
        assert [one.source for one in notebook.cells] == [str(n) for n in range(number + 1)]
    recorder.close()


async def test_a_session_goes_on_as_usual_afterwards(session: Session) -> None:
    series = started(session, "def f(): return 1 / 0", "f()", "never = 1")
    await series.task
    assert series.failed is not None and (series.failed.number, series.done) == (2, 2)
    assert stream(await cell(session, "print('never' in globals())")) == "False\n"
