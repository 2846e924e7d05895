"""`rmi-agent check`: tests the communication with a server, step by step.

Seven steps tell whether a server does its job, locally or through a tunnel. They bring their own
code, so they pass whatever files the server has, and leave none there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import uuid4

from ..client import RmiMcpClient
from ..errors import tool_errors
from ..plurals import counted

Step = tuple[str, Callable[[], Awaitable[str]]]


class Failed(Exception):
    """A step gave an unexpected result; the text says which."""


async def run_steps(client: RmiMcpClient, report: Callable[[bool, str, str], None]) -> bool:
    """Run all steps, calling `report(passed, title, detail)` for each; whether all passed."""
    missing = f"rmi_agent_check_{uuid4().hex[:8]}.py"
    steps: list[Step] = [
        ("list the tools", lambda: tools(client)),
        ("run a cell, and another in its session", lambda: cells(client)),
        ("run a cell that fails", lambda: failure(client)),
        ("run a module with arguments and input", lambda: module(client)),
        ("list the Python files", lambda: files(client)),
        ("ask for a missing file", lambda: refusal(client, missing, "File not found")),
        (
            "ask for a file outside the folder",
            lambda: refusal(client, f"../{missing}", "Access denied"),
        ),
    ]
    passed = True
    for title, step in steps:
        try:
            detail, good = await step(), True
        except Failed as error:
            detail, good = str(error), False
        except tool_errors() as error:
            detail, good = f"the server refused: {error}", False
        report(good, title, detail)
        passed &= good
    return passed


async def tools(client: RmiMcpClient) -> str:
    """Check that the server lists the main tools."""
    names = [tool.name for tool in await client.list_tools()]
    if missing := {"run_python", "run_cell", "read_output"} - set(names):
        raise Failed(f"missing: {', '.join(sorted(missing))}")
    return counted(len(names), "tool")


async def cells(client: RmiMcpClient) -> str:
    """Check that a cell runs, and that its variables are there for the next one."""
    first = await client.run_cell("answer = 6 * 7\nprint('Hello')")
    if first.status != "ok" or first.stdout != "Hello\n":
        raise Failed(f"expected 'Hello', got: {first.text}")
    second = await client.run_cell("answer", first.session_id)
    await client.close_session(first.session_id)
    if second.value.strip() != "42":
        raise Failed(f"expected 42, got: {second.text}")
    return f"'Hello' in {first.elapsed:.2f} s, then 42"


async def failure(client: RmiMcpClient) -> str:
    """Check that the traceback of code that fails comes back as a result."""
    result = await client.run_cell("1 / 0")
    await client.close_session(result.session_id)
    if result.status != "error" or result.error_name != "ZeroDivisionError":
        raise Failed(f"expected a ZeroDivisionError, got: {result.text}")
    return repr(result.value.strip().splitlines()[-1])


async def module(client: RmiMcpClient) -> str:
    """Check that a program runs with what it is given, and exits with 0."""
    result = await client.run_python(module="json.tool", args=["--compact"], stdin='{"answer": 42}')
    await client.close_session(result.session_id)
    if result.exit_code != 0 or result.stdout != '{"answer":42}\n':
        raise Failed(f"expected json.tool's output and exit code 0, got: {result.text}")
    return f"{result.stdout.strip()!r}, exit code 0"


async def files(client: RmiMcpClient) -> str:
    """Check that the server lists its files, however many there are."""
    return counted(len(await client.list_python_files()), "file")


async def refusal(client: RmiMcpClient, file_name: str, expected: str) -> str:
    """Check that a bad path is refused with the expected message."""
    try:
        result = await client.run_python(file_name)
    except tool_errors() as error:
        if expected not in str(error):
            raise Failed(f"expected {expected!r}, got: {error}") from None
        return "refused, as expected"
    raise Failed(f"it ran: {result.text}")
