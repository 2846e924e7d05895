"""`rmi-agent check`: tests the communication with a server, step by step.

Seven steps tell whether a server does its job, locally or through a tunnel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..client import RmiMcpClient
from ..errors import tool_errors

Step = tuple[str, Callable[[], Awaitable[str]]]


class Failed(Exception):
    """A step gave an unexpected result; the text says which."""


async def run_steps(client: RmiMcpClient, report: Callable[[bool, str, str], None]) -> bool:
    """Run all steps, calling `report(passed, title, detail)` for each; whether all passed."""
    steps: list[Step] = [
        ("list the tools", lambda: tools(client)),
        ("run hello_world.py", lambda: output(client, "hello_world.py", "Hello")),
        ("run calculator.py", lambda: output(client, "calculator.py", "15")),
        ("run error_test.py, which fails", lambda: failure(client)),
        ("list the Python files", lambda: files(client)),
        ("ask for a missing file", lambda: refusal(client, "nonexistent.py", "File not found")),
        (
            "ask for a file outside the folder",
            lambda: refusal(client, "../secret.py", "Access denied"),
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
    return ", ".join(names)


async def output(client: RmiMcpClient, file_name: str, expected: str) -> str:
    """Check that a file runs, exits with 0 and prints the expected text."""
    result = await client.run_python(file_name)
    await client.close_session(result.session_id)
    if result.exit_code != 0 or expected not in result.stdout:
        raise Failed(f"expected {expected!r} and exit code 0, got: {result.text}")
    return f"{result.stdout.strip().splitlines()[-1]!r} in {result.elapsed:.2f} s"


async def failure(client: RmiMcpClient) -> str:
    """Check that a failing file's traceback comes back as a result."""
    result = await client.run_python("error_test.py")
    await client.close_session(result.session_id)
    if result.status != "error" or "Traceback" not in result.stderr:
        raise Failed(f"expected a traceback, got: {result.text}")
    return f"{result.stderr.strip().splitlines()[-1]!r}, exit code {result.exit_code}"


async def files(client: RmiMcpClient) -> str:
    """Check that the server lists the example files."""
    names = [entry["file_name"] for entry in await client.list_python_files()]
    if "hello_world.py" not in names:
        raise Failed(f"hello_world.py is not among {names}")
    return f"{len(names)} files"


async def refusal(client: RmiMcpClient, file_name: str, expected: str) -> str:
    """Check that a bad path is refused with the expected message."""
    try:
        result = await client.run_python(file_name)
    except tool_errors() as error:
        if expected not in str(error):
            raise Failed(f"expected {expected!r}, got: {error}") from None
        return "refused, as expected"
    raise Failed(f"it ran: {result.text}")
