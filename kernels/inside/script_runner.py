"""Runs `python FILE` or `python -m MODULE` inside a kernel, which lives on afterwards.

A script gets real files on descriptors 0, 1 and 2 as its streams, a clean `__main__`, and an
exit like an interpreter's: threads joined, exit handlers run. Then the kernel's own state is
restored, and the script's globals remain for the next cell.

Sent to the kernel as text, like `setup.py`; knows nothing about servers or notebooks.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from .asked_input import AskedInput
from .error_facts import write_facts
from .figures import Figures
from .hidden_frames import execute_alone, uncounted
from .module_search import find_module
from .pytest_report import PytestReport
from .script_environment import (
    enter_environment,
    enter_folder,
    enter_main,
    enter_streams,
    outside_event_loop,
    put_modules_back,
    restore_later,
)
from .script_exit import ScriptExit, call_excepthook, name_of, without_ours
from .script_hooks import enter_hooks
from .tracebacks import all_behind

PAYLOAD = "rmi_agent.script"
FOR_HANDLERS = {"input", "open", "print"}
UNFLUSHED_CODE = 120  # the interpreter's exit code if its streams can't be flushed
# Counts the stack frames that are available to a module, itself included.
DIVE = compile(
    "def dive():\n    reached.append(None)\n    dive()\nreached.append(None)\ndive()",
    "<dive>",
    "exec",
)


class Script:
    """Runs one script at a time in this kernel's `__main__`."""

    def __init__(
        self,
        shell: Any,
        raw: list[int],
        environment: dict[str, str | None],
        figures: Figures,
    ) -> None:
        self.shell = shell
        self.figures = figures
        self.raw = raw
        self.environment = environment  # variables that ipykernel changes, as they were
        self.in_cell = True
        self.kernels_names = set(shell.user_ns)
        # Stack frames below a script's first, once counted: in an event loop there are more.
        self.depths: dict[bool, int] = {}

    def run(self) -> None:
        """Run the script in the current execute request's metadata.

        The request's `rmi_agent` entry has `path` and `source` (base64), or the name of a
        `module`; `argv` (the arguments), `stdin` (base64) or where it comes from (`asks`), `cwd`
        (None for a file's own folder), and `fresh`: whether the kernel should stay in that folder.
        The outcome is returned as a
        payload of the reply: `exit_code` as `subprocess` reports it (negative for a signal) and
        `error_name`.
        """
        request = self.shell.get_parent()["metadata"]["rmi_agent"]
        pid = os.getpid()
        outcome: dict[str, Any] = {"source": PAYLOAD, "exit_code": 1, "error_name": None}
        path, module, cwd = request.get("path"), request.get("module"), request.get("cwd")
        if path and not os.path.isdir(os.path.dirname(path)):  # on another machine, which lacks it
            path = os.path.join(os.getcwd(), os.path.basename(path))
        if cwd and not os.path.isdir(cwd):
            cwd = os.getcwd()
        folders = list(dict.fromkeys(filter(None, (path and os.path.dirname(path), cwd))))
        if request["fresh"]:
            os.chdir(folders[-1])
        self.in_cell = asyncio._get_running_loop() is not None
        with contextlib.ExitStack() as undo:
            undo.enter_context(outside_event_loop())
            asks = request.get("asks")
            asked = AskedInput(self.shell.kernel, asks) if asks else None
            enter_streams(undo, self.raw, base64.b64decode(request["stdin"]), asked)
            enter_environment(undo, self.environment)
            report = PytestReport(undo, module)
            enter_main(undo, self.shell, self.kernels_names, path, asked)
            enter_folder(undo, folders, path, module, request["argv"])
            ending = ScriptExit(undo, folders)
            enter_hooks(undo)
            builtins_before = dict(vars(builtins))
            restore_later(undo, vars(builtins), *builtins_before)
            # Undone first: a late SIGINT must not interrupt the restoring.
            undo.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            try:
                if module is None:
                    outcome.update(self.execute_file(path, base64.b64decode(request["source"])))
                else:
                    outcome.update(self.execute(lambda: find_module(module, self.shell.user_ns)))
            finally:
                put_modules_back()
                # The standard library needs its builtins; exit handlers print to the script's.
                vars(builtins).update(
                    {n: v for n, v in builtins_before.items() if n not in FOR_HANDLERS}
                )
                if not ending.run():
                    outcome["exit_code"] = UNFLUSHED_CODE
                if os.getpid() != pid:  # the script forked, and this child is done
                    os._exit(outcome["exit_code"])
        if self.raw:  # pytest turns it off, or has it write elsewhere
            faulthandler.enable(self.raw[1], all_threads=False)
        self.figures.after_script()
        report.write(self.shell)
        self.shell.payload_manager.write_payload(outcome)

    # -- the script itself

    def execute_file(self, path: str, source: bytes) -> dict[str, Any]:
        """Compile and run a file."""
        try:
            code = compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            return self.fail(undecodable(path, source, error) or error)
        return self.execute(lambda: code)

    def execute(self, find: Callable[[], CodeType]) -> dict[str, Any]:
        """Run code; determine the exit code as the interpreter's main does."""
        in_cell = self.in_cell
        if in_cell not in self.depths:
            reached: list[int] = []
            with contextlib.suppress(RecursionError):
                execute_alone(DIVE, {"reached": reached})
            self.depths[in_cell] = sys.getrecursionlimit() - len(reached)
        try:
            # The script may start 40 frames deep; it gets as many as at the top level.
            with uncounted(self.depths[in_cell]):
                execute_alone(find(), self.shell.user_ns)
        except SystemExit as stop:
            write_facts(self.shell, list(all_behind(stop)))  # it may be for a missing module
            return self.exit_code(stop)
        except BaseException as error:
            return self.fail(error)
        return {"exit_code": 0, "error_name": None}

    def exit_code(self, stop: SystemExit) -> dict[str, Any]:
        """Handle `sys.exit(x)`: None is 0, integers are kept, anything else is printed and is 1."""
        code = stop.code
        if code is None:
            return {"exit_code": 0, "error_name": None}
        if not isinstance(code, int):
            with contextlib.suppress(BaseException):  # if `__str__` raises, the code is still 1
                sys.stderr.write(str(code))
            with contextlib.suppress(Exception):
                sys.stderr.write("\n")
            code = 1
        code = int.__index__(code)  # bypasses the script's subclasses of int
        if not -(2**63) <= code < 2**63:
            code = -1
        status = code & 0xFFFFFFFF if sys.platform == "win32" else code & 0xFF
        return {"exit_code": status, "error_name": "SystemExit" if status else None}

    def fail(self, error: BaseException) -> dict[str, Any]:
        """Report an uncaught exception through `sys.excepthook`; return exit code 1 or SIGINT's."""
        write_facts(self.shell, list(all_behind(error)))
        error.__traceback__ = frames = without_ours(error)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
        sys.last_exc = error  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        call_excepthook(error, frames)
        if isinstance(error, KeyboardInterrupt):
            code = 0xC000013A if sys.platform == "win32" else -signal.SIGINT
        else:
            code = 1
        return {"exit_code": int(code), "error_name": name_of(error)}


def undecodable(path: str, source: bytes, error: BaseException) -> SyntaxError | None:
    """Return the error CPython has for a *file* with an unknown encoding or invalid bytes."""
    if isinstance(error, SyntaxError) and (error.msg or "").startswith("unknown encoding: "):
        return SyntaxError(error.msg.replace("unknown encoding", "encoding problem"))
    first_two = source.split(b"\n", 2)[:2]
    if any(b"coding" in line and line.lstrip().startswith(b"#") for line in first_two):
        return None
    for number, line in enumerate(source.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return SyntaxError(
                f"Non-UTF-8 code starting with '\\x{line[error.start]:02x}' in file {path} on line"
                f" {number}, but no encoding declared; see https://peps.python.org/pep-0263/"
                " for details"
            )
    return None
