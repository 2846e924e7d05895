"""Sessions that come back from their notebooks, and what then differs from the record."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rmi_agent.kernels.notebook import Run, differences, recorded
from rmi_agent.kernels.notebook.compare import folded
from rmi_agent.server import App, load

from tests.server.conftest import fill

pytestmark = pytest.mark.anyio

CELLS = (
    "x = 20",
    "print(object()); import time; print(time.strftime('%Y-%m-%d %H:%M:%S'), 'x is', x)",
    "import itertools, os; 1/0",
    "import matplotlib.pyplot as plt\nplt.plot([x, 1, 3]);",
    "x * 2",
)
OTHERWISE = "import random; random.SystemRandom().random()"


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client[Any]]:
    projects = fill(tmp_path_factory.mktemp("w"))
    app = App(load(python_projects_dir=projects, response_deadline=20.0))
    async with Client(app.mcp) as client:
        yield client


async def record(client: Client[Any], *cells: str, file: dict[str, Any] | None = None) -> str:
    """A session with these cells, ended; its notebook."""
    session, notebook = {}, ""
    calls = [("run_cell", {"code": code}) for code in cells]
    if file is not None:
        calls.insert(0, ("run_python", file))
    for tool, given in calls:
        result = await client.call_tool_mcp(tool, {**given, **session})
        facts = result.structured_content or {}
        session, notebook = {"session_id": facts["session_id"]}, facts["notebook"]
    await client.call_tool("close_session", session)
    return str(notebook)


async def resume(client: Client[Any], notebook: str, **given: Any) -> tuple[str, dict[str, Any]]:
    result = await client.call_tool("resume_session", {"notebook": notebook, **given})
    assert result.structured_content is not None
    return result.content[0].text, result.structured_content


async def value(client: Client[Any], session: str, code: str) -> str:
    result = await client.call_tool_mcp("run_cell", {"code": code, "session_id": session})
    return str(result.content[0].text).splitlines()[0]


async def test_a_session_comes_back_with_its_variables_and_names_its_parent(
    served: Client[Any],
) -> None:
    notebook = await record(served, *CELLS)
    told, facts = await resume(served, notebook)
    assert (facts["status"], facts["ran"], facts["different"]) == ("ended", 5, []), told
    assert "5 of 5 cells were rerun, 5 of them with the recorded outputs." in told
    assert await value(served, facts["session_id"], "x + 1") == "21"
    metadata = nbformat.read(facts["notebook"], as_version=4).metadata
    assert metadata.rmi_agent.parent == Path(notebook).name
    assert facts["notebook"] != notebook


async def test_what_differs_is_told_line_by_line(served: Client[Any]) -> None:
    notebook = await record(served, "x = 1", OTHERWISE, "print('same')")
    told, facts = await resume(served, Path(notebook).stem)
    assert facts["different"] == [{"cell": 2, "what": ["value"]}]
    assert "Cell 2 differs" in told and "    -0." in told and "    +0." in told


@pytest.mark.slow
async def test_a_file_runs_again_as_it_was_with_its_arguments_and_stdin(
    served: Client[Any], tmp_path: Path
) -> None:
    code = "import sys; name = input(); print(name, sys.argv[1:])"
    await served.call_tool("write_python_file", {"file_name": "again.py", "content": code})
    given = {"file_name": "again.py", "args": ["a b"], "stdin": "Ada\n"}
    notebook = await record(served, file=given)
    await served.call_tool("write_python_file", {"file_name": "again.py", "content": "1/0"})
    _, facts = await resume(served, notebook)
    assert facts["different"] == []
    assert await value(served, facts["session_id"], "name") == "'Ada'"


@pytest.mark.slow
async def test_up_to_a_cell_and_without_those_that_failed(served: Client[Any]) -> None:
    notebook = await record(served, *CELLS)
    told, facts = await resume(served, notebook, until=4, skip_failed=True)
    assert (facts["ran"], facts["skipped"]) == (3, [3])
    assert "Skipped because they had failed: 3." in told
    assert await value(served, facts["session_id"], "'os' in dir()") == "False"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux")
async def test_what_is_undone_is_left_out_and_named(served: Client[Any]) -> None:
    facts = (await served.call_tool("run_cell", {"code": "x = 1"})).structured_content
    assert facts is not None
    session = {"session_id": facts["session_id"]}
    for code in ("x = 2", "x += 5"):
        await served.call_tool("run_cell", {"code": code, "checkpoint": True, **session})
    await served.call_tool("restore_session", {"cell": 2, **session})
    await served.call_tool("run_cell", {"code": "x * 10", **session})
    text, again = await resume(served, facts["notebook"])
    assert (again["ran"], again["skipped"], again["different"]) == (2, [2, 3], [])
    assert "Left out because they are undone: 2, 3." in text


async def test_an_ended_session_is_found_by_its_id(served: Client[Any]) -> None:
    result = await served.call_tool("run_cell", {"code": "kept = 7"})
    session = result.structured_content["session_id"]
    await served.call_tool("close_session", {"session_id": session})
    _, facts = await resume(served, session)
    assert await value(served, facts["session_id"], "kept") == "7"


async def test_a_notebook_of_elsewhere_is_given_as_text(served: Client[Any]) -> None:
    cell = new_code_cell("print(6 * 7)", outputs=[new_output("stream", text="41\n")])
    content = nbformat.writes(new_notebook(cells=[cell]))
    told, facts = await resume(served, "theirs.ipynb", content=content)
    assert facts["parent"] == "theirs.ipynb"
    assert facts["different"] == [{"cell": 1, "what": ["stdout"]}]
    assert "    -41\n    +42" in told


@pytest.mark.slow
async def test_a_notebook_with_a_large_plot_may_come_with_the_call(served: Client[Any]) -> None:
    numbers = [0.5] * 100_000
    figure = {"data": [{"x": numbers, "y": numbers, "z": numbers}], "layout": {}}
    plot = new_output("display_data", data={"application/vnd.plotly.v1+json": figure})
    content = nbformat.writes(new_notebook(cells=[new_code_cell("x = 6 * 7", outputs=[plot])]))
    _, facts = await resume(served, "plot.ipynb", content=content)
    assert await value(served, facts["session_id"], "x") == "42"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"notebook": "nowhere"}, "No notebook 'nowhere.ipynb'"),
        ({"notebook": "../../etc/passwd"}, "No notebook 'passwd.ipynb'"),
        ({"notebook": "/etc/passwd\0"}, "No notebook"),
        ({"notebook": ""}, "No notebook ''"),
        ({"notebook": "x", "content": "not json"}, "x can't be read as a notebook"),
        ({"notebook": "x", "content": "[]"}, "x can't be read as a notebook"),
        ({"notebook": "x", "content": "[" * 100_000}, "x can't be read as a notebook"),
        ({"notebook": "x", "content": '{"nbformat": 4, "cells": [{}]}'}, "can't be read"),
        ({"notebook": "x", "content": nbformat.writes(new_notebook())}, "no code cells"),
    ],
)
async def test_what_is_no_notebook_is_refused_and_opens_no_session(
    served: Client[Any], given: dict[str, str], told: str
) -> None:
    async def count() -> int:
        result = await served.call_tool("list_sessions", {})
        return len(result.structured_content["sessions"])

    before = await count()
    with pytest.raises(ToolError, match=told):
        await served.call_tool("resume_session", given)
    assert await count() == before


@pytest.mark.slow
async def test_odd_cells_never_break_it(served: Client[Any]) -> None:
    odd = new_code_cell("1", metadata={"rmi_agent": {"path": "/a\0b.py", "args": "x"}})
    content = nbformat.writes(new_notebook(cells=[odd]))
    with pytest.raises(ToolError, match="can't be read"):
        await served.call_tool("resume_session", {"notebook": "x", "content": content})
    far = new_code_cell("print(__file__)", metadata={"rmi_agent": {"path": "/no/such/f.py"}})
    told, _ = await resume(
        served, "x", content=nbformat.writes(new_notebook(cells=[far, new_code_cell("\ud800")]))
    )
    assert "2 of 2 cells were rerun" in told


@pytest.mark.slow
async def test_a_long_way_is_handed_over_and_nothing_comes_between(tmp_path: Path) -> None:
    cells = [new_code_cell(f"import time; time.sleep(1); y = {n}") for n in range(3)]
    content = nbformat.writes(new_notebook(cells=cells))
    app = App(load(python_projects_dir=fill(tmp_path), response_deadline=0.5))
    async with Client(app.mcp) as client:
        told, facts = await resume(client, "long", content=content)
        session = facts["session_id"]
        assert facts["status"] == "running" and "Still running" in told
        with pytest.raises(ToolError, match="still being resumed"):
            await client.call_tool("run_cell", {"code": "y = -1", "session_id": session})
        while facts["status"] == "running":
            told, facts = await resume(client, session)
        assert facts["ran"] == 3, told
        assert await value(client, session, "y") == "2"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["time", "interrupt", "cancel"])
async def test_it_is_stopped_and_the_session_is_as_far_as_it_came(tmp_path: Path, how: str) -> None:
    cells = [new_code_cell(text) for text in ("y = 1", "import time; time.sleep(60)", "y = 2")]
    content = nbformat.writes(new_notebook(cells=cells))
    app = App(load(python_projects_dir=fill(tmp_path)))
    async with Client(app.mcp) as client:
        given = {"timeout": 1.0} if how == "time" else {}
        work = asyncio.create_task(resume(client, "long", content=content, **given))
        sessions = app.sessions
        while not any(session.count == 2 for session in sessions.all()):
            await asyncio.sleep(0.02)
        (session,) = sessions.all()
        if how == "interrupt":
            await client.call_tool("interrupt_session", {"session_id": session.id})
        elif how == "cancel":
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        resuming = session.series
        assert resuming is not None
        await asyncio.wait({resuming.task}, timeout=20)
        if how != "cancel":
            told, facts = await work
            assert facts["status"] == "stopped" and "It stopped early" in told
        assert await value(client, session.id, "y") == "1"
        assert session.count == 3


@pytest.mark.parametrize(
    ("record", "outputs", "status"),
    [
        ({"rmi_agent": {"cell": 1}}, [], "interrupted"),  # the server ended, or it still runs
        ({"rmi_agent": {"cell": 1, "status": None}}, [], "interrupted"),
        ({"rmi_agent": {"cell": 1, "status": "timeout"}}, [], "timeout"),
        ({"rmi_agent": {"cell": 1}}, ["error"], "error"),
        ({}, ["error"], "error"),
        ({}, [], "ok"),  # of another program
    ],
)
def test_a_recorded_cell_is_only_ok_if_it_ran_to_its_end(
    record: dict[str, Any], outputs: list[Any], status: str
) -> None:
    shown = [new_output("error", ename="E", evalue="", traceback=[]) for _ in outputs]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=shown, metadata=record)])
    (run,) = recorded(notebook)
    assert (run.number, run.status, run.elapsed, run.program) == (1, status, 0.0, None)


def test_what_is_never_the_same_twice_is_folded() -> None:
    same = (
        ("<object at 0x7f0011223344>", "<object at 0x7f9988776655>"),
        ("done at 2026-11-22 10:00:01.5", "done at 2027-01-02T03:04:05Z"),
        ("took 1.5 ms", "took 27 s"),
        ("/tmp/tmpabc/x.py:3", "/tmp/tmpxyz/y.py:3"),
        ("12 µs ± 3 ns per loop (mean)", "13 µs ± 99 ns per loop (mean)"),
        ("Cell In[3], line 1", "Cell In[30], line 1"),
        ('File "/home/a/x.py", line 1', 'File "C:\\\\b\\\\x.py", line 1'),
    )
    for one, two in same:
        assert folded(one) == folded(two)
    for one, two in (("1.5", "1.6"), ("3 items", "4 items"), ("a", "b"), ("0x1f", "0x2f")):
        assert folded(one) != folded(two)


def test_pictures_are_compared_by_their_bytes_and_errors_by_their_words() -> None:
    def run(*outputs: Any, status: str = "ok") -> Run:
        record = {"rmi_agent": {"status": status}}
        return Run(new_code_cell("", outputs=list(outputs), metadata=record), "", None)

    def picture(data: str) -> Any:
        return new_output("display_data", {"image/png": data, "text/plain": "<Figure>"})

    one, two = picture("aGVsbG8="), picture("d29ybGQ=")
    assert differences(run(one), run(picture("aGVs\nbG8="))) == []
    (found,) = differences(run(one), run(two))
    assert found.what == "picture"
    error = [new_output("error", ename="E", evalue=text, traceback=[]) for text in ("a", "b")]
    found = differences(run(error[0]), run(error[1]))[0]
    assert found.lines == ("-E: a", "+E: b")
    gone = differences(run(one), run(status="dead"))
    assert [one.what for one in gone] == ["status", "picture"]
    many = new_output("stream", text="\n".join(map(str, range(100_000))))
    (cut,) = differences(run(many), run())
    assert len(cut.lines) < 20 and json.dumps(cut.lines)
