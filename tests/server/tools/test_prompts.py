"""Prompts, and what arguments may be: offered to those who may see it, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastmcp import Client
from mcp import MCPError
from mcp_types import PromptReference, ResourceTemplateReference
from rmi_agent.server import App, load

from tests.server.conftest import fill

pytestmark = pytest.mark.anyio

VARIABLE = ResourceTemplateReference(uri="variable://{session_id}/{name}")


async def complete(client: Client[Any], of: Any, name: str, typed: str, **given: str) -> list[str]:
    found = await client.complete(of, {"name": name, "value": typed}, given or None)
    return found.values


async def ran(client: Client[Any], code: str, **more: str) -> str:
    result = await client.call_tool("run_cell", {"code": code, **more})
    return str(result.structured_content["session_id"])


async def inspected(client: Client[Any], session: str, name: str) -> str:
    (read,) = await client.read_resource(f"variable://{session}/{quote(name, safe='')}")
    return str(read.text)


async def test_fix_script_names_the_file_and_the_tools_in_their_order(client: Client[Any]) -> None:
    got = await client.get_prompt("fix_script", {"file_name": "error_test.py"})
    text = got.messages[0].content.text  # type: ignore[union-attr]
    assert "run_python(file_name='error_test.py')" in text
    assert text.index("read_python_file") < text.index("write_python_file")


async def test_explore_data_takes_a_file_of_the_folder_and_one_elsewhere(
    client: Client[Any], projects: Path
) -> None:
    (projects / "numbers.csv").write_text("a,b\n1,2\n")
    for path, named in (("numbers.csv", "numbers.csv"), ("/data/x.csv", "/data/x.csv")):
        got = await client.get_prompt("explore_data", {"path": path})
        assert f"the data in {named!r}" in got.messages[0].content.text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("prompt", "given", "told"),
    [
        ("fix_script", {"file_name": "nowhere.py"}, "list_files"),
        ("fix_script", {"file_name": "../secret.py"}, "must be within"),
        ("explore_data", {"path": "nowhere.csv"}, "File not found"),
        ("explore_data", {"path": "../../etc/passwd"}, "must be within"),
        ("explore_data", {"path": "a\0b"}, "Access denied"),
    ],
)
async def test_a_prompt_for_what_is_not_there_says_what_to_do(
    client: Client[Any], prompt: str, given: dict[str, str], told: str
) -> None:
    with pytest.raises(MCPError, match=told):
        await client.get_prompt(prompt, given)


async def test_file_names_are_completed_and_those_that_begin_so_come_first(
    client: Client[Any], projects: Path
) -> None:
    (projects / "about_hello.py").write_text("")
    (projects / "table.csv").write_text("")
    of = PromptReference(name="fix_script")
    assert await complete(client, of, "file_name", "hel") == ["hello_world.py", "about_hello.py"]
    assert "table.csv" not in await complete(client, of, "file_name", "")
    data = PromptReference(name="explore_data")
    assert "table.csv" in await complete(client, data, "path", "TAB")
    file = ResourceTemplateReference(uri="python-file://{path*}")
    assert await complete(client, file, "path", "calc") == ["calculator.py"]


async def test_what_nobody_knows_is_completed_with_nothing(client: Client[Any]) -> None:
    assert await complete(client, PromptReference(name="other"), "file_name", "") == []
    assert await complete(client, VARIABLE, "name", "x") == []
    assert await complete(client, VARIABLE, "name", "x", session_id="unknown") == []


async def test_names_are_completed_by_the_sessions_own_kernel(client: Client[Any]) -> None:
    session = await ran(client, "import math\nlong_name_of_mine = 3")
    for typed, expected in (
        ("long_na", "long_name_of_mine"),
        ("y = 1\nmath.sq", "y = 1\nmath.sqrt"),
    ):
        found = await complete(client, VARIABLE, "name", typed, session_id=session)
        assert expected in found, found
    notebook = ResourceTemplateReference(uri="notebook://{session_id}")
    assert session in await complete(client, notebook, "session_id", session[:4])


async def test_a_name_is_inspected_and_an_unknown_one_says_so(client: Client[Any]) -> None:
    session = await ran(
        client, "def double(x):\n    'Twice x.'\n    return 2 * x\nd = {'a/b': [1]}"
    )
    told = await inspected(client, session, "double")
    assert "double(x)" in told and "Twice x." in told and "\x1b" not in told
    assert "list" in await inspected(client, session, "d['a/b']")
    with pytest.raises(MCPError, match="has no name nowhere"):
        await inspected(client, session, "nowhere")
    with pytest.raises(MCPError, match="There is no session 'other'"):
        await inspected(client, "other", "double")


async def test_looking_is_not_running(client: Client[Any]) -> None:
    session = await ran(client, "x = 1")
    await complete(client, VARIABLE, "name", "x", session_id=session)
    await inspected(client, session, "x")
    result = await client.call_tool("run_cell", {"code": "x", "session_id": session})
    assert result.structured_content["cell"] == 2
    assert result.structured_content["execution_count"] == 2


@pytest.mark.slow
async def test_a_completion_that_never_ends_is_given_up_and_the_session_goes_on(
    client: Client[Any],
) -> None:
    code = "class Bad:\n    def __dir__(self):\n        while True: pass\nbad = Bad()"
    session = await ran(client, code)
    await complete(client, VARIABLE, "name", "bad.", session_id=session)
    result = await client.call_tool("run_cell", {"code": "6 * 7", "session_id": session})
    assert result.content[0].text.startswith("42\n")


@pytest.mark.slow
async def test_what_a_completion_prints_that_was_given_up_is_in_no_cell(
    client: Client[Any],
) -> None:
    code = """
import time
class Late:
    def __dir__(self):
        ends = time.time() + 3
        while time.time() < ends:
            try:
                time.sleep(0.1)
            except KeyboardInterrupt:
                pass
        print("late", flush=True)
        return []
late = Late()"""
    session = await ran(client, code)
    await complete(client, VARIABLE, "name", "late.", session_id=session)
    result = await client.call_tool("run_cell", {"code": "6 * 7", "session_id": session})
    assert result.content[0].text.startswith("42\n")


@pytest.mark.slow
async def test_a_busy_session_offers_nothing_and_says_why(tmp_path: Path) -> None:
    app = App(load(python_projects_dir=fill(tmp_path), response_deadline=0.2, kernel_pool=0))
    async with Client(app.mcp) as client:
        session = await ran(client, "import time; time.sleep(60)")
        assert await complete(client, VARIABLE, "name", "ti", session_id=session) == []
        with pytest.raises(MCPError, match="while a run is in progress"):
            await inspected(client, session, "time")
        await client.call_tool("close_session", {"session_id": session})
