"""Twenty things that people ask for, and the calls by which each is served.

A reader who knew nothing but the tools' descriptions chose these calls for these words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from mcp_types import ImageContent
from rmi_agent.server import App, load

from tests.server.conftest import fill

pytestmark = pytest.mark.anyio

LAST = "the session of the call before"
BEFORE = {  # what the sessions of a conversation have run already
    "failed": ("run_python", {"file_name": "error_test.py"}),
    "table": ("run_cell", {"code": "df = list(range(150))"}),
    "messy": ("run_cell", {"code": "df = 'a mess'"}),
    "over": ("run_cell", {"code": "df = 'done with'"}),
    "cut": ("run_cell", {"code": "for i in range(6000): print('line', i)"}),
    "long": ("run_cell", {"code": "done = 1\nimport time; time.sleep(60)", "timeout": 90}),
}
CASES: list[tuple[str, list[tuple[str, dict[str, Any]]], str]] = [
    ("Run hello_world.py.", [("run_python", {"file_name": "hello_world.py"})], "Hello, World!"),
    (
        "Run calculator.py with 6 and 7.",
        [("run_python", {"file_name": "calculator.py", "args": ["6", "7"]})],
        "42",
    ),
    (
        "What is the sum of the primes below 100?",
        [
            (
                "run_cell",
                {"code": "sum(n for n in range(2, 100) if all(n % d for d in range(2, n)))"},
            )
        ],
        "1060",
    ),
    (
        "ask_name.py asks for a name; run it with the name Ada.",
        [("run_python", {"file_name": "ask_name.py", "stdin": "Ada\n"})],
        "Hello Ada",
    ),
    (
        "Plot a parabola.",
        [("run_cell", {"code": "import matplotlib.pyplot as plt\nplt.plot([4, 1, 0, 1, 4])"})],
        "a picture",
    ),
    (
        "error_test.py just failed: what was the type of the error's traceback?",
        [
            (
                "run_cell",
                {"code": "import sys; type(sys.last_traceback)", "session_id": "failed"},
            )
        ],
        "traceback",
    ),
    ("How many rows has df?", [("run_cell", {"code": "len(df)", "session_id": "table"})], "150"),
    ("Which scripts are there?", [("list_python_files", {})], "calculator.py"),
    (
        "Show me the source of tools/clean.py.",
        [("read_python_file", {"file_name": "tools/clean.py"})],
        "def clean",
    ),
    (
        "Make ask_name.py say Hi instead of Hello.",
        [("write_python_file", {"file_name": "ask_name.py", "content": "print('Hi', input())"})],
        "Replaced ask_name.py",
    ),
    (
        "train.py takes about twenty minutes: start it.",
        [("run_python", {"file_name": "train.py", "timeout": 3600})],
        "read_output",
    ),
    (
        "Is the long computation done yet?",
        [("read_output", {"session_id": "long", "cell": 1})],
        "Still running",
    ),
    (
        "Show me the rest of that long output.",
        [("read_output", {"session_id": "cut", "cell": 1, "offset": 50_000})],
        "line 5999",
    ),
    (
        "Stop the long computation, but keep what it has computed.",
        [
            ("interrupt_session", {"session_id": "long"}),
            ("run_cell", {"code": "done + 76", "session_id": "long"}),
        ],
        "77",
    ),
    (
        "df is messed up: a clean slate please, in the same session.",
        [
            ("restart_session", {"session_id": "messy"}),
            ("run_cell", {"code": "'df' in dir()", "session_id": "messy"}),
        ],
        "False",
    ),
    (
        "We're done with the df session.",
        [("close_session", {"session_id": "over"})],
        "is closed",
    ),
    ("What is still running or open?", [("list_sessions", {})], "idle"),
    (
        "Install the package pip where the code runs.",
        [("run_cell", {"code": "%pip install pip"})],
        "already satisfied",
    ),
    (
        "Save this as a script and run it: for i in range(3): print(i*i)",
        [
            (
                "write_python_file",
                {"file_name": "squares.py", "content": "for i in range(3):\n    print(i*i)\n"},
            ),
            ("run_python", {"file_name": "squares.py"}),
        ],
        "0\n1\n4",
    ),
    (
        "Run setup_data.py, and then look at the variable table that it makes.",
        [
            ("run_python", {"file_name": "setup_data.py"}),
            ("run_cell", {"code": "table", "session_id": LAST}),
        ],
        "[1, 2, 3]",
    ),
]


@pytest.fixture(scope="module")
async def asked(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Client[Any], dict[str, str]]]:
    """A client in the middle of a conversation, and its sessions."""
    projects = fill(tmp_path_factory.mktemp("q"))
    (projects / "tools").mkdir()
    for name, text in (
        ("ask_name.py", "print('Hello', input())"),
        ("tools/clean.py", "def clean(rows):\n    return [r for r in rows if r]\n"),
        ("train.py", "import time\ntime.sleep(1200)"),
        ("setup_data.py", "table = [1, 2, 3]"),
    ):
        Path(projects, name).write_text(text)
    app = App(load(python_projects_dir=projects, response_deadline=4.0))
    async with Client(app.mcp) as client:
        calls = {
            name: client.call_tool_mcp(*call) for name, call in BEFORE.items() if name != "long"
        }
        results = await asyncio.gather(*calls.values())
        yield (
            client,
            {
                name: str(result.structured_content["session_id"])
                for name, result in zip(calls, results, strict=True)
            },
        )


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "calls", "told"), CASES, ids=[case[0] for case in CASES])
async def test_a_request_is_served(
    asked: tuple[Client[Any], dict[str, str]],
    request_: str,
    calls: list[tuple[str, dict[str, Any]]],
    told: str,
) -> None:
    client, sessions = asked
    before, text = "", ""
    for tool, arguments in calls:
        given = dict(arguments)
        if wanted := given.get("session_id"):
            if wanted not in sessions and wanted != LAST:
                sessions[wanted] = await running(client, wanted)
            given["session_id"] = before if wanted == LAST else sessions[wanted]
        result = await client.call_tool_mcp(tool, given)
        before = str((result.structured_content or {}).get("session_id", ""))
        pictures = sum(isinstance(part, ImageContent) for part in result.content)
        text = "\n".join(getattr(part, "text", "") for part in result.content)
        assert not result.is_error, (request_, text)
        text += "a picture" * pictures
    assert told in text, (request_, text)


async def running(client: Client[Any], name: str) -> str:
    tool, arguments = BEFORE[name]
    result = await client.call_tool_mcp(tool, arguments)
    assert result.structured_content["status"] == "running"  # type: ignore[index]
    return str(result.structured_content["session_id"])  # type: ignore[index]


def test_there_are_twenty() -> None:
    assert len(CASES) == 20
