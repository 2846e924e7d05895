"""`rmi-agent repl`: a prompt whose cells run in one session of a server.

The prompt lives in the main thread and the client in another, so that Ctrl-C stops the
cell and not the client.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import contextlib
import getpass
import queue
import sys
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from anyio.from_thread import BlockingPortal
from fastmcp.exceptions import ToolError

from .client import RmiMcpClient, RunResult

Show = Callable[[RunResult, dict[str, str]], None]
GREETING = "import sys; print('Python', sys.version.split()[0])"


class Incomplete:
    """Whether a text wants more lines, by Python's own rules; top-level `await` is allowed."""

    def __init__(self) -> None:
        self._compile = codeop.CommandCompiler()
        self._compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def __call__(self, source: str) -> bool:
        """True while the text is only the beginning of a cell."""
        if source.lstrip().startswith(("!", "%%")):
            return source.lstrip().startswith("%%") and not source.endswith("\n")
        try:
            return self._compile(source, "<input>", "single") is None
        except (SyntaxError, ValueError, OverflowError):
            return False  # the kernel knows more than Python: %magics, !shell, help?


def ask(question: str, secret: bool) -> str | None:
    """One line from the terminal or through the pipe; None at the end of input."""
    try:
        if sys.stdin.isatty():
            return getpass.getpass(question) if secret else input(question)
        return input()
    except EOFError:
        return None


class Questions:
    """What cells ask, carried from the client's thread to the prompt's."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[str, bool, Future[str | None]]] = queue.SimpleQueue()

    async def ask(self, question: str, secret: bool) -> str | None:
        """Wait for what the prompt's thread makes of it; in the client's thread."""
        answer: Future[str | None] = Future()
        self._asked.put((question, secret, answer))
        return await asyncio.wrap_future(answer)

    def answer(self) -> None:
        """Ask what is there to be asked, if anything; in the prompt's thread."""
        with contextlib.suppress(queue.Empty):
            question, secret, answer = self._asked.get_nowait()
            text: str | None = None
            try:
                text = ask(question, secret)
            finally:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(text)


def repl(
    portal: BlockingPortal,
    client: RmiMcpClient,
    timeout: float | None,
    show: Show,
    questions: Questions,
) -> int:
    """Read cells and run them until the end of input; returns the exit code."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (line editing and history, by being imported)
    session, code = run(portal, client, GREETING, None, timeout, show, questions), 0
    if session is None:
        return 1
    while True:
        source = read(interactive)
        if source is None:
            break
        if source.strip() in ("exit", "quit", "exit()", "quit()"):
            break
        if source.strip():
            code = 0 if run(portal, client, source, session, timeout, show, questions) else 1
    portal.call(client.close_session, session)
    return 0 if interactive else code


def read(interactive: bool) -> str | None:
    """One complete cell, or None at the end of input. Ctrl-C drops what was typed."""
    incomplete = Incomplete()
    lines: list[str] = []
    while True:
        try:
            lines.append(input((">>> " if not lines else "... ") if interactive else ""))
        except EOFError:
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
            lines = []
            continue
        source = "\n".join(lines)
        if not incomplete(source) and (len(lines) == 1 or lines[-1] == "" or not interactive):
            return source


def run(
    portal: BlockingPortal,
    client: RmiMcpClient,
    source: str,
    session: str | None,
    timeout: float | None,
    show: Show,
    questions: Questions,
) -> str | None:
    """Run one cell and show it; Ctrl-C interrupts it. Its session, or None if it failed to run."""
    shown = {"stdout": "", "stderr": ""}

    def live(name: str, text: str) -> None:
        shown[name] += text
        stream: Any = getattr(sys, name)
        stream.write(text)
        stream.flush()

    async def call() -> RunResult:
        return await client.run_cell(source, session, timeout, live)

    future = portal.start_task_soon(call)
    while True:
        try:
            questions.answer()
            result = future.result(timeout=0.1)
        except FutureTimeout:
            continue
        except KeyboardInterrupt:
            if session is None:
                raise
            portal.start_task_soon(client.interrupt_session, session)
        except ToolError as error:
            print(error, file=sys.stderr)
            return None
        else:
            show(result, shown)
            return result.session_id
