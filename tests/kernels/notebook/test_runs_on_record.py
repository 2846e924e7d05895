"""Runs that are read back from notebooks."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels import Sessions
from rmi_agent.kernels.notebook import Recorder, RunsOnRecord, layout
from rmi_agent.kernels.notebook import runs_on_record as onrecord
from rmi_agent.kernels.notebook.layout import cells_in

from tests.conftest import cell, stream

pytestmark = pytest.mark.anyio

TRICKY = '\n{\n"cell": 2\n}\n,\n{ ✓ '


def over(number: int, *outputs: NotebookNode) -> NotebookNode:
    made = new_code_cell(f"# {number}{TRICKY}", outputs=list(outputs))
    made.metadata["rmi_agent"] = NotebookNode(
        cell=number, status="ok", state="kept", elapsed=0.1 * number
    )
    return made


def text(words: str) -> NotebookNode:
    return new_output("stream", text=words)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Five cells that are over, the third in one line, and one that runs."""
    made = Recorder(tmp_path, {})
    shown = new_output("display_data", data={"application/json": [{"cell": 4}] * 50_000})
    for number in range(1, 6):
        made.finish(over(number, text(TRICKY * number), *[shown] * (number == 3)), "t")
    made.start(new_code_cell("runs"), "t")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("block", [50, 1_000, 100_000_000])
async def test_each_run_is_found_however_the_file_is_cut_up(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    assert recorder.path is not None
    if block < 1_000:  # a large cell in small pieces takes long
        recorder.finish(over(3), "t")
    monkeypatch.setattr(layout, "BLOCK", block)
    for number in (1, 2, 4, 5):
        run = await RunsOnRecord().run(recorder.path, "s", number)
        assert run is not None
        assert (run.number, run.elapsed) == (number, 0.1 * number)
        assert run.cell == over(number, text(TRICKY * number)) | {"id": run.cell.id}
    assert await RunsOnRecord().run(recorder.path, "s", 9) is None


@pytest.mark.slow
async def test_a_page_reads_the_cell_alone_and_is_the_same_run_until_the_cell_changes(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorder.path is not None
    runs = RunsOnRecord()
    first = await runs.run(recorder.path, "s", 2)
    with monkeypatch.context() as patch:
        patch.setattr(onrecord, "read", None)  # nothing is looked for again
        recorder.finish(over(6), "t")
        assert await runs.run(recorder.path, "s", 2) is first
    nbformat.write(nbformat.read(recorder.path, 4), recorder.path)  # as Jupyter saves it
    again = await runs.run(recorder.path, "s", 2)
    assert again is not None
    assert first is not None
    assert again is not first
    assert again.cell == first.cell
    assert await runs.run(recorder.path, "s", 2) is again
    recorder.path.unlink()
    with pytest.raises(FileNotFoundError):
        await runs.run(recorder.path, "s", 2)


async def test_only_the_cell_in_question_is_parsed(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorder.path is not None
    parsed: list[bytes] = []
    whole = onrecord.run_of

    def counted(text: bytes, *more: object) -> object:
        parsed.append(text)
        return whole(text, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(onrecord, "run_of", counted)
    assert await RunsOnRecord().run(recorder.path, "s", 5)
    assert len(parsed) == 1
    assert len(list(cells_in(recorder.path))) == 6


@pytest.mark.slow
async def test_an_ended_session_gives_the_same_run_to_every_page(sessions: Sessions) -> None:
    session = await sessions.open()
    await cell(session, "print('kept')")
    await sessions.close(session)
    run = await sessions.on_record(session.id, 1)
    assert run is not None
    assert stream(run) == "kept\n"
    assert await sessions.on_record(session.id, -1) is run
    assert await sessions.on_record(session.id, 2) is None


@pytest.mark.slow
async def test_the_runs_that_are_kept_are_few(recorder: Recorder) -> None:
    assert recorder.path is not None
    runs = RunsOnRecord()
    first = await runs.run(recorder.path, "s", 1)
    for number in range(2, 6):
        await runs.run(recorder.path, "s", number)
    assert await runs.run(recorder.path, "s", 1) is not first
