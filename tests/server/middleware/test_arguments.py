"""Arguments as clients send them: understood, or refused in one sentence that says what to send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import nbformat.v4
import pytest
from fastmcp import Client
from rmi_agent.server import App, load

pytestmark = pytest.mark.anyio

OPEN = "the id of an open session"
VALID: dict[str, dict[str, Any]] = {
    "run_python": {
        "file_name": "show.py",
        "args": ["1", "2"],
        "stdin": "in",
        "session_id": OPEN,
        "timeout": 5,
        "module": "",
        "cwd": "",
        "environment": "",
        "background": False,
    },
    "run_cell": {
        "code": "1",
        "session_id": OPEN,
        "timeout": 5,
        "environment": "",
        "checkpoint": False,
    },
    "run_notebook": {
        "path": "none.ipynb",
        "session_id": OPEN,
        "parameters": {"n": 1},
        "until": 1,
        "timeout": 5,
        "environment": "",
    },
    "list_environments": {},
    "install_packages": {"packages": ["./none"], "environment": "", "session_id": OPEN},
    "read_output": {
        "session_id": OPEN,
        "cell": 1,
        "offset": 0,
        "limit": 10,
        "wait": 0,
        "picture": 1,
    },
    "interrupt_session": {"session_id": OPEN},
    "restart_session": {"session_id": OPEN},
    "fork_session": {"session_id": OPEN},
    "attach_session": {"connection_file": "none.json", "server": "", "kernel_id": ""},
    "restore_session": {"session_id": OPEN, "cell": 1},
    "close_session": {"session_id": OPEN, "title": "Sums"},
    "list_sessions": {},
    "list_files": {"folder": "", "pattern": "*", "offset": 0},
    "read_file": {"path": "show.py", "offset": 0, "limit": 10, "encoding": "utf-8"},
    "write_file": {"path": "new.txt", "content": "1", "encoding": "utf-8"},
    "list_python_files": {},
    "read_python_file": {"file_name": "show.py"},
    "write_python_file": {"file_name": "new.py", "content": "1"},
    "resume_session": {
        "notebook": "none",
        "until": 1,
        "skip_failed": False,
        "timeout": 5,
        "content": "",
    },
}
WRONG: list[Any] = [
    None, "", " ", "x", "null", True, 0, 7, -1, 1.5, 10**5000, float("nan"), "7", "true",
    [], ["x"], [6], [True], [["x"]], [None], {}, {"a": 1}, "[", "[1", '["x"]', "{}", '"x"',
    "[" * 9000, "\ud800", "\x1b[31m",
]  # fmt: skip


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client[Any]]:
    folder = tmp_path_factory.mktemp("p")
    (folder / "show.py").write_text("import sys; print(sys.argv[1:], repr(sys.stdin.read()))")
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    patch.setenv("UV_OFFLINE", "1")  # some values are names of packages
    app = App(load(python_projects_dir=folder, notebooks_dir=folder / "notebooks"))
    async with Client(app.mcp) as connected:
        yield connected


async def call(client: Client[Any], tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
    """Whether the call failed, and its text."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    return result.is_error, result.content[0].text


async def in_session(client: Client[Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with a session that is open."""
    if arguments.get("session_id") != OPEN:
        return arguments
    open_ones = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
    if open_ones:
        return {**arguments, "session_id": open_ones[0]["session_id"]}
    opened = await client.call_tool("run_cell", {"code": "1"})
    return {**arguments, "session_id": opened.structured_content["session_id"]}


def is_one_sentence(text: str) -> bool:
    """Whether a refusal is short, on one line, and in our own words."""
    theirs = ("validation", "pydantic", "Input should", "type=", "The server failed", "Traceback")
    ours, _, _ = text.partition("uv says:\n")  # what follows is another program's
    return len(text) < 400 and "\n" not in ours and not any(word in text for word in theirs)


async def test_every_tool_is_tried_with_all_its_arguments(client: Client[Any]) -> None:
    known = {tool.name: set(tool.input_schema["properties"]) for tool in await client.list_tools()}
    assert {tool: set(arguments) for tool, arguments in VALID.items()} == known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "name"), [(tool, name) for tool, arguments in VALID.items() for name in arguments]
)
async def test_any_value_is_understood_or_refused_in_a_sentence(
    client: Client[Any], tool: str, name: str
) -> None:
    for value in [*WRONG, json.dumps(VALID[tool][name])]:
        arguments = {**await in_session(client, VALID[tool]), name: value}
        failed, text = await call(client, tool, arguments)
        assert not failed or is_one_sentence(text), (value, text)
        for one in (await client.call_tool("list_sessions", {})).structured_content["sessions"][1:]:
            await client.call_tool("close_session", {"session_id": one["session_id"]})


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ({"args": '["1", "2"]'}, "['1', '2'] ''"),
        ({"args": "[6, 7]"}, "['6', '7'] ''"),
        ({"args": [6, 7.5, "x"]}, "['6', '7.5', 'x'] ''"),
        ({"args": None, "stdin": None, "session_id": None, "timeout": None}, "[] ''"),
        ({"args": "", "session_id": "", "timeout": ""}, "[] ''"),
        ({"session_id": " "}, "[] ''"),
        ({"timeout": "5", "stdin": 42}, "[] '42'"),
        ({"args": [""], "stdin": " "}, "[''] ' '"),
        ({"args": ["null", "true", "[1]"]}, "['null', 'true', '[1]'] ''"),
    ],
)
async def test_what_is_meant_is_clear(
    client: Client[Any], arguments: dict[str, Any], printed: str
) -> None:
    failed, text = await call(client, "run_python", {"file_name": "show.py", **arguments})
    assert (failed, text.split("\n")[0]) == (False, printed)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        (
            "run_python",
            {"file_name": "show.py", "args": "1 2"},
            'run_python: args must be a list of strings such as ["a", "2"], not "1 2".',
        ),
        (
            "run_python",
            {"file_name": "show.py", "args": [True]},
            'run_python: args must be a list of strings such as ["a", "2"], not [true].',
        ),
        (
            "run_cell",
            {"code": "1", "timeout": True},
            "run_cell: timeout must be a number greater than 0 and at most 604,800, not true.",
        ),
        (
            "read_output",
            {"session_id": "x", "limit": 300_000},
            "read_output: limit must be a whole number greater than 0 and at most 200,000,"
            " not 300000.",
        ),
        (
            "resume_session",
            {"notebook": "x", "skip_failed": "maybe"},
            'resume_session: skip_failed must be true or false, not "maybe".',
        ),
        ("run_cell", {"code": ["a"]}, 'run_cell: code must be a string, not ["a"].'),
        ("run_cell", {"Code": "1"}, 'run_cell has no argument "Code"; did you mean code?'),
        (
            "run_cell",
            {"code": "1", "language": "python"},
            'run_cell has no argument "language"; it takes code, session_id, timeout, environment and checkpoint.',
        ),
        ("list_sessions", {"all": 1}, 'list_sessions has no argument "all"; it takes none.'),
        (
            "write_python_file",
            {"file_name": "a.py", "content": None},
            "write_python_file needs content, a string: The complete new text of the file.",
        ),
        (
            "close_session",
            {},
            "close_session needs session_id, a string: The session's id, from a result or"
            " list_sessions.",
        ),
    ],
)
async def test_a_refusal_says_what_to_send(
    client: Client[Any], tool: str, arguments: dict[str, Any], said: str
) -> None:
    assert await call(client, tool, arguments) == (True, f"Error: {said}")


async def test_a_notebook_may_be_sent_as_an_object(client: Client[Any]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7")])
    given = {"notebook": "x.ipynb", "content": json.loads(nbformat.writes(notebook))}
    failed, text = await call(client, "resume_session", given)
    assert not failed
    assert "1 of 1 cells were rerun" in text
