"""Notebooks of the projects folder that run in a session, as a client sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import nbformat
import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from jupyter_client.kernelspec import KernelSpecManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rmi_agent.server import App, load
from rmi_agent.server.tools.notebook_report import NOTEBOOK_SCHEMA

from tests.server.conftest import fill

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("n"))


@pytest.fixture(scope="module")
async def app(folder: Path) -> AsyncIterator[App]:
    yield App(load(python_projects_dir=folder, response_deadline=3.0))


@pytest.fixture(scope="module")
async def client(app: App) -> AsyncIterator[Client[Any]]:
    async with Client(app.mcp) as connected:
        yield connected


def write(folder: Path, name: str, *cells: Any, **metadata: Any) -> str:
    made = [new_code_cell(one) if isinstance(one, str) else one for one in cells]
    (folder / name).parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata=metadata), folder / name)
    return name


def tagged(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


async def run(client: Client[Any], path: str, **given: Any) -> tuple[str, dict[str, Any]]:
    result = await client.call_tool("run_notebook", {"path": path, **given})
    jsonschema.validate(result.structured_content, NOTEBOOK_SCHEMA)
    return result.content[0].text, result.structured_content


async def look(client: Client[Any], session: str, code: str) -> str:
    result = await client.call_tool("run_cell", {"code": code, "session_id": session})
    return str(result.content[0].text).splitlines()[0]


async def test_a_notebook_runs_in_its_folder_and_is_the_record(
    client: Client[Any], folder: Path
) -> None:
    picture = (
        "from IPython.display import Image, display\ndisplay(Image(data=b'\\x89PNG\\r\\n\\x1a\\n'))"
    )
    name = write(
        folder,
        "sub/analysis.ipynb",
        new_markdown_cell("# Analysis"),
        tagged("alpha = 1", "parameters"),
        "import beside; print(open('data.txt').read(), beside.x, alpha)",
        tagged("1/0", "skip-execution"),
        tagged("1/0", "raises-exception"),
        f"{picture}\n{picture}",
        "open('new.txt', 'w').write('x'); alpha * 2",
        new_markdown_cell("The end"),
    )
    (folder / "sub" / "data.txt").write_text("data")
    (folder / "sub" / "beside.py").write_text("x = 5")
    told, facts = await run(client, name, parameters={"alpha": 0.5})
    assert (facts["status"], facts["ran"], facts["total"]) == ("ok", 6, 6), told
    assert f"[rmi-agent: {name} ran to its end: 6 of 6 code cells ran in" in told
    key = facts["session_id"]
    assert "[rmi-agent: 2 pictures, in cell 5 (2).]" in told
    assert f"[rmi-agent: read_output(session_id={key!r}, cell=N) returns a cell's output" in told
    assert facts["pictures"] == {"5": 2}
    assert "[rmi-agent: Wrote sub/new.txt, 1 byte]" in told
    assert facts["written"] == {"files": [{"path": "sub/new.txt", "bytes": 1}], "more": 0}
    assert "data" not in told
    out = await client.call_tool("read_output", {"session_id": key, "cell": 3})
    assert out.content[0].text.startswith("data 5 0.5\n")
    record = nbformat.read(facts["notebook"], as_version=4)
    nbformat.validate(record)
    assert record.metadata.papermill == {"input_path": name, "parameters": {"alpha": 0.5}}
    assert [(cell.cell_type, cell.source[:12]) for cell in record.cells] == [
        ("markdown", "# Analysis"),
        ("code", "alpha = 1"),
        ("code", "# Parameters"),
        ("code", "import besid"),
        ("code", "1/0"),
        ("code", "1/0"),
        ("code", "from IPython"),
        ("code", "open('new.tx"),
        ("markdown", "The end"),
    ]
    assert record.cells[2].metadata.tags == ["injected-parameters"]
    assert [len(cell.get("outputs", ())) for cell in record.cells[3:7]] == [1, 0, 1, 2]
    original = nbformat.read(folder / name, as_version=4)
    assert [c.id for c in original.cells] == [c.id for i, c in enumerate(record.cells) if i != 2]
    assert await look(client, key, "alpha") == "0.5"
    rerun = await client.call_tool("resume_session", {"notebook": facts["notebook"]})
    assert rerun.structured_content["ran"] == 7
    assert rerun.structured_content["different"] == []


async def test_it_stops_at_the_first_error_and_says_where(
    client: Client[Any], folder: Path
) -> None:
    name = write(
        folder, "fails.ipynb", new_markdown_cell("a"), "x = 1", "print('so far')\nx / 0", "y"
    )
    told, facts = await run(client, name)
    key = facts["session_id"]
    assert told.startswith("so far\n") and "ZeroDivisionError: division by zero" in told
    assert f"{name} stopped at its cell 3, which is cell 2 here: 2 of 3 code cells ran" in told
    assert f"run_cell(session_id={key!r}) goes on with its variables.]" in told
    assert (facts["status"], facts["failed_cell"], facts["cell"]) == ("error", 3, 2)
    assert facts["error_name"] == "ZeroDivisionError"
    assert len(nbformat.read(facts["notebook"], as_version=4).cells) == 3
    again = await client.call_tool("read_output", {"session_id": key})
    assert again.structured_content == facts
    assert await look(client, key, "x") == "1"
    later = await client.call_tool("read_output", {"session_id": key})
    assert later.content[0].text.startswith("1\n")


async def test_it_can_run_in_an_open_session_and_up_to_a_cell(
    client: Client[Any], folder: Path
) -> None:
    opened = await client.call_tool("run_cell", {"code": "given = 7"})
    key = opened.structured_content["session_id"]
    name = write(folder, "part.ipynb", "a = given", new_markdown_cell("b"), "1/0")
    _, facts = await run(client, name, session_id=key, until=2, parameters='{"c": [1]}')
    assert (facts["status"], facts["session_id"], facts["first_cell"]) == ("ok", key, 2)
    _, facts = await run(client, name, session_id=key, until=1)
    assert await look(client, key, "a, c") == "(7, [1])"
    record = nbformat.read(facts["notebook"], as_version=4)
    nbformat.validate(record)
    assert len({cell.id for cell in record.cells}) == len(record.cells) == 6
    assert record.metadata.papermill.parameters == {}


@pytest.mark.slow
async def test_a_long_one_is_followed_by_read_output_and_keeps_its_session(
    client: Client[Any], folder: Path, app: App
) -> None:
    wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)"
    name = write(folder, "long.ipynb", wait, "print('after')", "z = 3")
    told, facts = await run(client, name)
    key = facts["session_id"]
    assert (facts["status"], facts["ran"], facts["total"]) == ("running", 0, 3)
    assert f"read_output(session_id={key!r}, wait=40) waits for its end" in told
    with pytest.raises(ToolError, match=r"is still running long.ipynb.*read_output"):
        await client.call_tool("run_cell", {"code": "1", "session_id": key})
    assert app.sessions.get(key).busy
    (folder / "go").touch()
    ended = await client.call_tool("read_output", {"session_id": key, "wait": 30})
    assert (ended.structured_content["status"], ended.structured_content["ran"]) == ("ok", 3)
    assert not app.sessions.get(key).busy


@pytest.mark.parametrize(
    "how",
    [
        "interrupt",
        "restart",
        pytest.param("time", marks=pytest.mark.slow),
        "cancel",
        "dies",
        "exit",
    ],
)
async def test_it_ends_early(client: Client[Any], folder: Path, app: App, how: str) -> None:
    hang = {"dies": "import os; os._exit(3)", "exit": "import sys; sys.exit()"}
    name = write(folder, "early.ipynb", "a = 1", hang.get(how, "import time; time.sleep(60)"), "b")
    before = set(app.sessions.by_id)
    given = {"timeout": 1.0} if how == "time" else {}
    work = asyncio.create_task(run(client, name, **given))
    while not any(s.count == 2 for key, s in app.sessions.by_id.items() if key not in before):
        await asyncio.sleep(0.02)
    (session,) = [s for key, s in app.sessions.by_id.items() if key not in before]
    if how in ("interrupt", "restart"):
        await client.call_tool(f"{how}_session", {"session_id": session.id})
    if how == "cancel":
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert session.series is not None
        await asyncio.wait({session.series.task}, timeout=20)
    else:
        told, facts = await work
        status = {"restart": "interrupted", "interrupt": "interrupted", "time": "timeout"}
        assert facts["status"] == status.get(how, "ok" if how == "exit" else "dead"), told
        assert facts["failed_cell"] == (None if how == "exit" else 2), told
        assert ("goes on with its variables" in told) == (how in ("interrupt", "restart", "time"))
    assert session.count == 2
    assert await look(client, session.id, "'a' in globals()") == str(how not in ("dies", "restart"))


@pytest.mark.slow
async def test_its_cells_ask_as_others_do(folder: Path) -> None:
    async def answer(message: str, *_: Any) -> dict[str, str]:
        return {"value": f"to {message.splitlines()[-1]}"}

    name = write(folder, "asks.ipynb", "name = input('who?')", "name")
    other = App(load(python_projects_dir=folder, response_deadline=20.0))
    async with Client(other.mcp, elicitation_handler=answer) as asked:
        _, facts = await run(asked, name)
        assert facts["status"] == "ok"
        assert await look(asked, facts["session_id"], "'who?' in name") == "True"
    async with Client(App(load(python_projects_dir=folder, response_deadline=20.0)).mcp) as silent:
        told, facts = await run(silent, name)
        assert (facts["status"], facts["error_name"]) == ("error", "EOFError"), told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"path": "nowhere.ipynb"}, "File not found: nowhere.ipynb"),
        ({"path": "../x.ipynb"}, "Access denied"),
        ({"path": "hello_world.py"}, "must have .ipynb extension"),
        ({"path": "fine.ipynb", "until": 9}, "2 cells, so until=9 is past its end"),
        ({"path": "fine.ipynb", "parameters": {"a b": 1}}, "no name of Python's"),
        ({"path": "fine.ipynb", "parameters": "[1]"}, "parameters must be an object such as"),
        ({"path": "fine.ipynb", "session_id": "nobody's"}, "There is no session"),
        ({"path": "text.ipynb"}, "can't be run: it is not JSON"),
        ({"path": "empty.ipynb"}, "no code cells"),
        ({"path": "words.ipynb"}, "no code cells"),
        ({"path": "julia.ipynb"}, "is a notebook in julia, and the kernels run python"),
        ({"path": "values.ipynb"}, "more than 1,000,000 JSON values"),
        ({"path": "link.ipynb"}, "Access denied"),
    ],
)
async def test_what_can_not_be_run_is_refused_in_words(
    client: Client[Any], folder: Path, app: App, given: dict[str, Any], why: str
) -> None:
    write(folder, "fine.ipynb", "1", new_markdown_cell("x"))
    write(folder, "empty.ipynb")
    write(folder, "words.ipynb", new_markdown_cell("x"), "  ")
    write(folder, "julia.ipynb", "1", language_info={"name": "julia"})
    (folder / "text.ipynb").write_text("print(1)")
    values = {"nbformat": 4, "cells": [], "metadata": {"a": [0] * 1_000_001}}
    (folder / "values.ipynb").write_text(json.dumps(values))
    if not (folder / "link.ipynb").is_symlink():
        (folder / "link.ipynb").symlink_to("/etc/passwd")
    before = len(app.sessions.by_id)
    with pytest.raises(ToolError) as refused:
        await client.call_tool("run_notebook", given)
    assert why in str(refused.value)
    assert len(app.sessions.by_id) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bash")
async def test_another_language_runs_in_an_environment_of_it(
    client: Client[Any], folder: Path, tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Bash", "language": "bash"}
    (tmp_path / "kernel.json").write_text(json.dumps(spec))
    specs = KernelSpecManager()
    specs.install_kernel_spec(str(tmp_path), "bash", user=True)
    name = write(folder, "shell.ipynb", "echo $((40 + 2))", language_info={"name": "bash"})
    try:
        with pytest.raises(ToolError, match="environment names another kernelspec"):
            await run(client, name)
        _, facts = await run(client, name, environment="bash")
        assert facts["status"] == "ok"
        assert await look(client, facts["session_id"], "echo $((1 + 2))") == "3"
        await run(client, name, session_id=facts["session_id"])
    finally:
        specs.remove_kernel_spec("bash")


@pytest.mark.slow
async def test_many_cells_and_outputs_are_no_trouble(client: Client[Any], folder: Path) -> None:
    cells = [new_markdown_cell(f"# {n}") for n in range(3_000)]
    cells[::30] = [new_code_cell("print('x' * 100_000)") for _ in cells[::30]]
    name = write(folder, "many.ipynb", *cells)
    _, facts = await run(client, name)
    while facts["status"] == "running":
        given = {"session_id": facts["session_id"], "wait": 3}
        facts = (await client.call_tool("read_output", given)).structured_content
    assert (facts["status"], facts["ran"]) == ("ok", 100)
    assert len(nbformat.read(facts["notebook"], as_version=4).cells) == 3_000
