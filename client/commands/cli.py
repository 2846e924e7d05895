"""`rmi-agent`: runs files and cells on a server from the command line.

Without `--server` it starts its own server. A script's stdout and stderr stay as they are, its
exit code becomes ours, and everything about the run itself goes to stderr.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import cyclopts
from anyio.from_thread import start_blocking_portal
from cyclopts import Parameter
from fastmcp.exceptions import ToolError

from ..client import RmiMcpClient
from ..connection import OnQuestion
from ..errors import FAILURES, NoModelError
from ..terminal import Questions, Screen, exit_code, is_terminal, show_notebook, write
from .check import check as run_check
from .repl import Repl

Server = Annotated[
    str | None,
    Parameter(
        help="Server to use: a URL (…/mcp or …/sse), a script or a command. By default, starts one."
    ),
]
Timeout = Annotated[
    float | None,
    Parameter(help="Seconds until the run is interrupted. By default, the server's setting."),
]
Session = Annotated[
    str | None, Parameter(help="ID of an open session to run in. By default, opens a new one.")
]

app = cyclopts.App(
    name="rmi-agent",
    help="Run Python files and cells on an RmiAgentMcpServer.",
    help_format="plaintext",
)


def call(
    server: str | None,
    work: Callable[[RmiMcpClient], Awaitable[int]],
    on_question: OnQuestion | None = None,
) -> None:
    """Connect, do the work, and exit with its code; a failure prints a short message."""

    async def connected() -> int:
        async with RmiMcpClient(server, on_question=on_question) as client:
            return await work(client)

    try:
        code = asyncio.run(connected())
    except KeyboardInterrupt:
        code = 130
    except ToolError as error:
        code = fail(str(error))
    except FAILURES as error:
        code = unreachable(server, error)
    sys.exit(code)


def unreachable(server: str | None, error: Exception) -> int:
    """Print why a server can't be used; returns exit code 1."""
    hint = "\nIs it running? `rmi-agent check` tests it step by step."
    return fail(
        f"Can't talk to {server or 'the embedded server'}: {error}"
        f"{'' if isinstance(error, PermissionError) else hint}"
    )


def fail(text: str) -> int:
    """Print an error on stderr; returns exit code 1."""
    write("stderr", f"{text}\n")
    return 1


@app.command
def run(
    file: Annotated[str, Parameter(help="The file, relative to the projects folder.")],
    *args: Annotated[str, Parameter(help="The file's arguments.", allow_leading_hyphen=True)],
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
    stdin: Annotated[
        str,
        Parameter(
            help="Text for the file's stdin; - passes on this command's.",
            allow_leading_hyphen=True,
        ),
    ] = "",
) -> None:
    """Run a Python file of the projects folder and exit with its exit code.

    Whatever follows FILE is passed to the file; this command's options come before FILE.
    """
    given = sys.stdin.read() if stdin == "-" else stdin

    async def work(client: RmiMcpClient) -> int:
        async with Screen() as screen:
            result = await client.run_python(file, list(args), given, session, timeout, screen.live)
            screen.finish(result)
        show_notebook(result)
        return exit_code(result)

    call(server, work)


@app.command
def cell(
    code: Annotated[
        str, Parameter(help="The snippet; - reads it from stdin.", allow_leading_hyphen=True)
    ],
    *,
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
) -> None:
    """Run a snippet of Python; its input() asks at this terminal."""
    source = sys.stdin.read() if code == "-" else code
    screen = Screen()

    async def work(client: RmiMcpClient) -> int:
        async with screen:
            result = await client.run_cell(source, session, timeout, screen.live)
            screen.finish(result)
        show_notebook(result)
        if server:
            write("stderr", f"Session {result.session_id}\n")
        return exit_code(result)

    call(server, work, screen.ask)


@app.command
def repl(*, server: Server = None, timeout: Timeout = None) -> None:
    """Open a prompt whose cells run in one session.

    Tab completes, Ctrl-C interrupts the cell, Ctrl-D exits.
    """
    with start_blocking_portal() as portal:
        try:
            questions = Questions()
            client = RmiMcpClient(server, on_question=questions.ask)
            with portal.wrap_async_context_manager(client):
                code = Repl(portal, client, timeout, questions).run()
        except FAILURES as error:
            code = unreachable(server, error)
        except KeyboardInterrupt:
            code = 130
    sys.exit(code)


@app.command
def chat(
    question: Annotated[
        str | None, Parameter(help="The first question. By default, asks for it.")
    ] = None,
    *,
    model: Annotated[
        str | None,
        Parameter(
            help="openai:NAME, google:NAME, anthropic:NAME or ollama:NAME. By default,"
            " RMI_AGENT_MODEL or the first provider that has an API key."
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        Parameter(
            help="URL of a server that speaks the provider's protocol (…/v1). By default, the"
            " provider's own."
        ),
    ] = None,
    server: Server = None,
    once: Annotated[bool, Parameter(help="Answer the question and exit.", negative="")] = False,
    pictures: Annotated[bool, Parameter(help="Show the model the code's pictures.")] = True,
) -> None:
    """Chat with a language model that runs Python here; with a pipe as stdin, answer once."""
    try:
        from ..chat import Chat, Keys, choose, converse, hide_api_keys
    except ImportError as error:
        if not (error.name or "").startswith("pydantic_ai"):
            raise
        sys.exit(fail('chat needs an extra: run pip install -e ".[chat]" in the checkout.'))
    piped = "" if sys.stdin is None or is_terminal(sys.stdin) else sys.stdin.read().strip()
    asked = "\n\n".join(part for part in (question, piped) if part)
    if (once or not is_terminal(sys.stdin)) and not asked:
        sys.exit(fail("There is no question: give one, or pipe one in."))
    hide_api_keys()
    keys = Keys()
    try:
        chosen = choose(model, base_url, pictures, keys)
    except NoModelError as error:
        sys.exit(fail(str(error)))
    conversation = Chat(chosen, keys)

    async def work(client: RmiMcpClient) -> int:
        conversation.use(client)
        if once or not is_terminal(sys.stdin):
            return 0 if await conversation.answer(asked) else 1
        return await converse(conversation, question)

    call(server, work, conversation.ask)


@app.command
def sessions(*, server: Server = None) -> None:
    """List the open sessions of a server: of the resident one, unless --server names another."""

    async def work(client: RmiMcpClient) -> int:
        rows = await client.list_sessions()
        for row in rows:
            taken = row["memory_bytes"]  # None if the kernel is on another machine
            memory = "memory unknown" if taken is None else f"{taken / 1e6:.0f} MB"
            write(
                "stdout",
                f"{row['session_id']}  {row['state']}, {row['cells']} cells, idle"
                f" {row['idle_seconds']:g} s, {memory},"
                f" {row['notebook'] or 'nothing recorded yet'}\n",
            )
        if not rows and server is None:
            print("No session is open on a resident server. For another server, use --server URL.")
        elif not rows:
            print("No session is open.")
        return 0

    call(server, work)


@app.command
def replay(
    notebook: Annotated[
        str, Parameter(help="A notebook file here, or the name of one that the server has.")
    ],
    *,
    server: Server = None,
    until: Annotated[
        int | None, Parameter(help="Number of the last cell to run. By default, runs all.")
    ] = None,
    skip_failed: Annotated[
        bool, Parameter(help="Skip cells that failed when they were recorded.", negative=())
    ] = False,
    timeout: Annotated[float, Parameter(help="Seconds for all cells together.")] = 600.0,
) -> None:
    """Rerun a recorded notebook; exits with 1 if a result differs from the record."""
    path = Path(notebook)
    try:
        content = path.read_text("utf-8") if path.is_file() else ""
    except (OSError, UnicodeError) as error:
        sys.exit(fail(f"{notebook} can't be read: {error}"))

    async def work(client: RmiMcpClient) -> int:
        result = await client.resume_session(notebook, until, skip_failed, timeout, content)
        write("stdout", f"{result}\n")
        await client.close_session(result.session_id)
        return 0 if result.same else 1

    call(server, work)


@app.command
def check(*, server: Server = None) -> None:
    """Test the communication with a server in seven steps and report each."""

    def report(passed: bool, title: str, detail: str) -> None:
        write("stdout", f"{'ok    ' if passed else 'FAILED'} {title}: {detail}\n")

    async def work(client: RmiMcpClient) -> int:
        return 0 if await run_check(client, report) else 1

    call(server, work)


def main() -> None:
    """The entry point of the console script."""
    app()
