"""`rmi-agent repl`: a prompt whose cells run in one session on a server.

The prompt runs in the main thread and the client in another, so that Ctrl-C interrupts the cell
and not the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import PurePath
from typing import Literal

from anyio.from_thread import BlockingPortal

from ..client import RmiMcpClient
from ..errors import failures, tool_errors
from ..results import RunResult
from ..terminal import (
    Incomplete,
    Questions,
    can_edit,
    help_request,
    is_terminal,
    show,
    write,
)
from . import repl_commands

Read = Callable[[], str | None]  # returns the next cell, or None at the end of input

OPENING = ""  # the cell that opens the session: one that says nothing about what will run
EXIT_COMMANDS = ("exit", "quit", "exit()", "quit()", ":q", ":quit", ":exit")
# Code that shows help in the kernel itself: for `??`, since the server only supports `?`.
INSPECT = (
    "print(get_ipython().object_inspect_mime({name!r}, detail_level={level})['text/plain']"
    " if get_ipython()._object_find({name!r}).found else {missing!r})"
)


class Repl:
    """Reads cells from the terminal or a pipe, and runs them one by one in one session.

    Args:
        portal: the thread that the client runs in.
        client: a client connected to the server.
        timeout: seconds until a cell is interrupted; None for the server's default.
        questions: passes cells' questions to the prompt's thread.
        quiet: whether to print only what cells print.
    """

    def __init__(
        self,
        portal: BlockingPortal,
        client: RmiMcpClient,
        timeout: float | None,
        questions: Questions,
        *,
        quiet: bool = False,
    ) -> None:
        self._portal = portal
        self._client = client
        self._timeout = timeout
        self._questions = questions
        self._session: str | None = None
        self._quiet = quiet
        self._last: RunResult | None = None
        self._typed: list[int] = []  # numbers of the cells that can be undone, the last one last
        self._own: set[int] = set()  # numbers of the session's cells that nobody typed

    def run(self) -> int:
        """Read cells and run them until the end of input; returns the exit code."""
        typed = is_terminal(sys.stdin)
        read = self._editor() if can_edit() else read_cell
        succeeded = self._greet()
        if self._session is None:
            return 1
        while (source := read()) is not None and source.strip() not in EXIT_COMMANDS:
            if source.strip():
                try:
                    succeeded = self._obey_or_run(source)
                except KeyboardInterrupt:  # during the lookup or while showing the result
                    succeeded = False
        if self._session is not None:
            with contextlib.suppress(*tool_errors()):  # the server has closed it, as nobody used it
                self._portal.call(self._client.close_session, self._session)
        if self._last is not None and self._last.notebook and not self._quiet:
            write("stderr", f"Recorded in {self._last.notebook}\n")
        return 0 if typed or succeeded else 1

    def _obey_or_run(self, source: str) -> bool:
        """Do what was typed; whether it succeeded."""
        if (obeyed := self._obey(source)) is not None:
            return obeyed
        return self._show_help(source) or self._run_cell(source)

    def _greet(self) -> bool:
        """Open a session, and print which; whether that succeeded."""
        result = self._result_of(OPENING, {"stdout": "", "stderr": ""}, own=True)
        if result is None:
            return False
        if not self._quiet:
            line = f"{self._language(result.session_id)}session {result.session_id}"
            write("stderr", f"{line[0].upper()}{line[1:]}. :help lists commands.\n")
        return result.status == "ok"

    def _language(self, session_id: str) -> str:
        """What the session runs, as `Python 3.13.0, `; empty if the server does not say."""
        try:
            text = self._portal.call(self._client.read_notebook, session_id)
            language = json.loads(text)["metadata"]["language_info"]
            return f"{language['name'].capitalize()} {language['version']}, "
        except failures():
            return ""
        except (KeyError, TypeError, AttributeError):
            return ""

    def _toolbar(self) -> str:
        """The line below the prompt: the session, and where it is recorded."""
        notebook = self._last.notebook if self._last is not None else None
        recorded = "" if notebook is None else f"  {PurePath(notebook).name}"
        return f" session {self._session or 'has ended'}{recorded}  :help"

    def _obey(self, source: str) -> bool | None:
        """Carry out a command of the prompt; whether it succeeded, or None if there is none."""
        found = repl_commands.COMMAND.fullmatch(source.replace("%undo", ":undo", 1))
        if found is None:
            return None
        try:
            said = self._carry_out(found["name"], found["argument"] or "", bool(found["force"]))
        except failures() as error:
            write("stderr", f"{error}\n")
            return False
        write("stderr", said.rstrip("\n") + "\n")
        return True

    def _carry_out(self, name: str, argument: str, force: bool) -> str:
        """Carry out the command with a name; returns what to print.

        Raises:
            ValueError: there is none, or it can't be carried out; others of `failures()`.
        """
        if name == "help":
            return repl_commands.HELP
        if name not in ("save", "restart", "undo"):
            raise ValueError(f"There is no command :{name}; :help lists them.")
        if self._session is None:
            raise ValueError("The session has ended; the next cell opens a new one.")
        if name == "undo":
            return self._undo(self._session)
        if name == "restart":
            self._typed.clear()
            return self._portal.call(self._client.restart_session, self._session)
        text = self._portal.call(self._client.read_notebook, self._session)
        return repl_commands.save_notebook(text, argument.strip(), self._own, replace=force)

    def _undo(self, session_id: str) -> str:
        """Take the session back to before the last cell that was typed; returns what to print."""
        if not self._typed:
            raise ValueError("There is nothing to undo: no cell has run since the start.")
        said = self._portal.call(self._client.restore_session, session_id, self._typed[-1])
        self._typed.pop()
        return said

    def _editor(self) -> Read:
        """A reader of cells with line editing, history and completion."""
        from ..line_editor import code_prompt  # lazy: pipes don't need prompt_toolkit

        prompt = code_prompt(self._complete, self._toolbar)

        def read() -> str | None:
            while True:
                try:
                    return prompt.prompt()
                except KeyboardInterrupt:
                    continue  # discard what was typed
                except EOFError:
                    return None

        return read

    async def _complete(self, code: str) -> list[str]:
        """Completions of `code`; empty if the server fails."""
        if self._session is None:
            return []
        asked = self._portal.start_task_soon(self._client.complete, self._session, code)
        try:
            return await asyncio.wrap_future(asked)
        except failures():
            return []

    def _show_help(self, source: str) -> bool:
        """Show the help for `?name`; False if the source is something else or the server fails."""
        asked = help_request(source)
        if asked is None or asked[1] or self._session is None:
            return False
        try:
            text = self._portal.call(self._client.inspect, self._session, asked[0])
        except failures():
            return False
        write("stdout", text.rstrip("\n") + "\n")
        return True

    def _run_cell(self, source: str) -> bool:
        """Run one cell and show its result; Ctrl-C interrupts it. Returns whether it succeeded."""
        asked = help_request(source)
        if asked:
            name, level = asked[0], int(asked[1])
            source = INSPECT.format(name=name, level=level, missing=f"There is no {name}.")
        shown = {"stdout": "", "stderr": ""}
        result = self._result_of(source, shown, own=asked is not None)
        if result is None:
            return False
        if result.stdout.startswith(shown["stdout"]):
            rest = result.stdout[len(shown["stdout"]) :]
            write("stdout", self._questions.echoes.removed_from(rest))
            shown["stdout"] = result.stdout
        show(result, shown)
        return result.status == "ok"

    def _result_of(self, source: str, shown: dict[str, str], *, own: bool) -> RunResult | None:
        """Run one cell and return its result; None if the server refused, which is printed.

        Args:
            source: the cell.
            shown: gets the output of `stdout` and `stderr` that was printed meanwhile.
            own: whether the prompt runs it itself: its output is not printed.
        """

        def live(name: str, text: str) -> None:
            shown[name] += text
            echoes = self._questions.echoes
            write(name, echoes.removed_from(text) if name == "stdout" else text)

        async def call() -> RunResult:
            heard = None if own else live
            wish: Literal[False, "if possible"] = False if own else "if possible"
            return await self._client.run_cell(
                source, self._session, self._timeout, heard, checkpoint=wish
            )

        future, stop = self._portal.start_task_soon(call), False
        while True:
            try:
                if stop and self._session is not None:
                    # If nothing is running, the cell has not started yet: try again.
                    said = self._portal.call(self._client.interrupt_session, self._session)
                    stop = said.startswith("Nothing is running") and not future.done()
                self._questions.answer()
                result = future.result(timeout=0.1)
            except FutureTimeout:
                continue
            except KeyboardInterrupt:
                if self._session is None:
                    raise
                stop = True
            except tool_errors() as error:
                write("stderr", f"{error}\n")
                self._forget_closed_session()
                return None
            else:
                if result.session_id != self._session:
                    self._own.clear()
                    self._typed.clear()
                self._session, self._last = result.session_id, result
                if own:
                    self._own.add(result.cell)
                else:
                    self._typed.append(result.cell)
                return result

    def _forget_closed_session(self) -> None:
        """After a refusal, forget the session if it no longer exists; the next cell opens one."""
        try:
            rows = self._portal.call(self._client.list_sessions)
        except failures():
            return
        if self._session is not None and self._session not in [row["session_id"] for row in rows]:
            self._session = None
            write(
                "stderr",
                "[the session has ended; the next cell opens a new one]\n",
            )


def read_cell() -> str | None:
    """Read one complete cell from a pipe or a basic terminal; None at the end of input."""
    if sys.stdin is None:  # closed at startup
        return None
    prompts = is_terminal(sys.stdin)
    incomplete = Incomplete()
    lines: list[str] = []
    while True:
        try:
            lines.append(input((">>> " if not lines else "... ") if prompts else ""))
        except EOFError:
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
            lines = []
            continue
        source = "\n".join(lines)
        if not incomplete(source) and (len(lines) == 1 or lines[-1] == "" or not prompts):
            return source
