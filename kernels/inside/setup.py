"""Sets up a Python kernel when it starts: installs the script runner and some guards.

The modules of this folder are sent to the kernel (`programs.py`) and executed there, one after the
other, in one namespace of their own. The kernel never imports them, so they may use only the
standard library and what ipykernel has loaded already. They know nothing about servers, sessions
or notebooks.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import zmq
from ipykernel.iostream import OutStream

from .any_json import is_a, text_of
from .cells import prepare_cells
from .failed_commands import watch_commands
from .figures import Figures
from .messages import send_anything
from .script_environment import put_modules_back
from .script_exit import HERE, name_of
from .script_runner import Script
from .tracebacks import hide_own_frames

UNFLUSHED = 20_000_000  # max characters of a stream that a kernel keeps in memory
# What a kernel gets when it is forked, so that what its template had is not put back.
OWN_TO_PROCESS = {"auth", "bsession", "ident", "key", "pid", "session"}
REFUSED = "\x04"  # prefix that marks an answer to `input()` as a refusal; the reason follows


def install(
    shell: Any, raw_output: bool, environment: dict[str, str | None], output_limit: int
) -> None:
    """Prepare a fresh kernel: hook up the script runner, make iopub lossless and bounded.

    Args:
        shell: the kernel's `InteractiveShell`.
        raw_output: whether the process was started with pipes on 1 and 2 that someone
            reads. ipykernel keeps copies of those; scripts write there directly, so their
            output is not lost when the process dies.
        output_limit: max characters of one message's text; longer ones are truncated. 0 is no
            limit.
        environment: variables that ipykernel has changed, as they were before; None is unset.
    """
    thread = shell.kernel.iopub_thread
    # Otherwise iopub drops messages, including `idle`, when its reader stalls.
    thread.schedule(lambda: thread.socket.setsockopt(zmq.XPUB_NODROP, 1))
    claimed = [claim(sys.stdout, 1), claim(sys.stderr, 2)] if raw_output else []
    raw = [fd for fd in claimed if fd is not None]
    prepare(shell, raw, environment, output_limit)()


def prepare(
    shell: Any, raw: list[int], environment: dict[str, str | None], output_limit: int
) -> Callable[[], None]:
    """Prepare a kernel that may yet be forked; returns what to call in its own process.

    Args are those of `install`, but `raw` are the descriptors that someone reads as the output of
    scripts, none or two.
    """
    # Kernels have threads, so Python 3.12 warns at every fork, but scripts may well fork.
    warnings.filterwarnings("ignore", ".* use of fork\\(\\) may lead to deadlocks")
    if raw:
        faulthandler.enable(raw[1], all_threads=False)  # the others are the kernel's
    figures = Figures(shell)
    shell._rmi_agent_script = Script(shell, raw, environment, figures).run
    prepare_cells(shell, figures)
    send_anything(shell.kernel.session, output_limit)
    put_streams_back = streams_back()
    hide_own_frames(shell)
    report_any_error(shell, put_streams_back)
    interrupt_only_cells(shell.kernel)
    skip_needless_child_scan(shell.kernel)
    explain_missing_answers(shell.kernel)
    end_when_unable_to_answer(shell.kernel, raw[1] if raw else 2)
    shell.events.register("pre_execute", bound_streams(shell.history_manager))
    repair, attach = after_each_cell(shell, put_streams_back)
    shell.events.register("post_execute", repair)
    watch_commands(shell)
    # Jedi needs 2 s for its first answer, and analyses code although live objects tell more.
    shell.Completer.use_jedi = False
    return attach


def bound_streams(history: Any) -> Callable[[], None]:
    """Return a hook for a cell's start that bounds what the kernel keeps of its output.

    ipykernel keeps the output of 0.2 s, and IPython all of it, for `%notebook`: a printing loop
    took a gigabyte in a second. With the bound, a fast writer has to wait, and `%notebook` lacks
    its output. When the hook runs, IPython has already replaced the streams' `write` for the cell,
    and restores it afterwards.
    """

    def begin_cell() -> None:
        for stream in (sys.stdout, sys.stderr):
            if is_a(stream, OutStream):
                stream.write = bounded(stream, stream.write)  # type: ignore[method-assign]

    def bounded(stream: Any, write: Callable[[str], Any]) -> Callable[[str], Any]:
        held = 0

        def write_bounded(text: str) -> Any:
            nonlocal held
            written = write(text)
            held += len(text)
            if held > UNFLUSHED:
                held = 0
                getattr(history, "outputs", {}).clear()  # IPython 8 keeps none
                stream.flush()
            return written

        return write_bounded

    return begin_cell


def interrupt_only_cells(kernel: Any) -> None:
    """Let SIGINT interrupt only cells' code and the completer.

    ipykernel allows it the whole time a request is handled; outside a cell's code it would end the
    kernel's event loop, and with it the kernel.
    """

    def interrupt(number: int, frame: Any) -> None:
        prints = False
        while frame is not None:
            file = frame.f_code.co_filename
            if prints and file.endswith("completer.py"):
                return  # still printing an earlier interrupt; half of it would end up elsewhere
            if file.endswith(("interactiveshell.py", "completer.py")):
                signal.default_int_handler(number, frame)
            prints = prints or file.endswith("iostream.py") or file == HERE
            frame = frame.f_back

    def before_request() -> None:
        kernel.saved_sigint_handler = signal.signal(signal.SIGINT, interrupt)

    kernel.pre_handler_hook = before_request


def skip_needless_child_scan(kernel: Any) -> None:
    """Save 25 ms per shutdown: import psutil and scan processes only if there are children."""
    scan = kernel._process_children

    def children() -> Any:
        folder = "/proc/self/task"
        with contextlib.suppress(OSError):
            for task in os.listdir(folder):
                with open(f"{folder}/{task}/children") as of_this_thread:
                    if of_this_thread.read():
                        return scan()
            return []
        return scan()

    kernel._process_children = children


def explain_missing_answers(kernel: Any) -> None:
    """Make `input()` and `getpass()` raise an EOFError that says why there is no answer."""

    def explaining(request: Callable[..., str]) -> Callable[..., str]:
        def ask(*question: Any, **more: Any) -> str:
            answer = request(*question, **more)
            if answer.startswith(REFUSED):
                raise EOFError(answer[1:])
            return answer

        return ask

    kernel.raw_input, kernel.getpass = explaining(kernel.raw_input), explaining(kernel.getpass)


def after_each_cell(
    shell: Any, put_streams_back: Callable[[], None]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a hook for a cell's end that repairs the kernel, whatever the cell did.

    A cell may have removed what the kernel needs to answer; the hook does not rely on any of it.
    Also return what to call in the kernel's process, once it has its key and whenever it has
    changed.
    """
    kernel = shell.kernel
    session, current, leave = kernel.session, os.getpid, os._exit
    namespaces = [vars(builtins), kernel.shell_handlers]
    for thing in (kernel, session, shell):
        namespaces += [vars(thing), thing._trait_values]
    saved = [(namespace, dict(namespace)) for namespace in namespaces]
    pid, key = 0, b""

    def attach() -> None:
        nonlocal pid, key
        pid, key = os.getpid(), session.key
        for namespace, before in saved:
            own = namespace if namespace is vars(kernel) else OWN_TO_PROCESS & namespace.keys()
            before.update({name: namespace[name] for name in own})

    def after_cell() -> None:
        if current() != pid:  # `os.fork()` in a cell: its child must not go on as a kernel
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
            leave(0)
        for namespace, before in saved:
            for name, value in before.items():
                if namespace.get(name) is None:
                    namespace[name] = value
        put_streams_back()
        if session.key != key:
            session.key = key

    return after_cell, attach


def streams_back() -> Callable[[], None]:
    """Return a function that restores standard streams which ipykernel could not flush."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}

    def put_back() -> None:
        for name, stream in streams.items():
            try:
                vars(sys)[name].flush()
                usable = not getattr(vars(sys)[name], "closed", False)
            except BaseException:
                usable = False
            if not usable:
                setattr(sys, name, stream)

    return put_back


def report_any_error(shell: Any, put_streams_back: Callable[[], None]) -> None:
    """Report even errors whose class raises when asked for its name or text."""
    show, send, run = shell.showtraceback, shell._showtraceback, shell.run_code
    latest = SimpleNamespace(error=None, shown=None)

    def show_any(exc_tuple: Any = None, *options: Any, **more: Any) -> None:
        error = exc_tuple[1] if isinstance(exc_tuple, tuple) else sys.exc_info()[1]
        latest.error = latest.shown = error
        if error is None:
            show(exc_tuple, *options, **more)
            return
        if is_printable(error):
            with contextlib.suppress(BaseException):
                show(exc_tuple, *options, **more)
                return
        latest.shown = like = printable(error)
        try:
            show((type(like), like, like.__traceback__), *options, **more)
        except BaseException as failure:
            why = f"[No traceback: formatting it raised {name_of(failure)}: {text_of(failure)}]"
            send_any(type(like), like, [why, f"{name_of(like)}: {like}"])

    def send_any(kind: Any, error: Any, lines: Any) -> None:
        put_streams_back()
        lines = lines if isinstance(lines, (list, tuple)) else [lines]
        named = SimpleNamespace(__name__=name_of_class(kind) or name_of(error))
        send(named, text_of(error), [text_of(line) for line in lines])

    async def run_code(code: Any, result: Any = None, **more: Any) -> Any:
        try:
            return await run(code, result, **more)
        finally:
            put_modules_back()
            if result is not None:
                error = result.error_in_exec
                if error is None and getattr(shell, "_last_traceback_during_displayhook", False):
                    error = latest.error  # otherwise ipykernel would report a NoneType
                result.error_in_exec = latest.shown if error is latest.error else error

    shell.showtraceback, shell._showtraceback = show_any, send_any
    shell.run_code = run_code


def is_printable(error: BaseException) -> bool:
    """Return whether all that IPython and ipykernel ask of an error works without raising."""
    with contextlib.suppress(BaseException):
        bool(error), str(error), error.__traceback__, error.__context__
        return bool(name_of_class(type(error)))
    return False


def name_of_class(kind: Any) -> str:
    """Return a class's `__name__`; empty if that fails or is not plain text."""
    with contextlib.suppress(BaseException):
        if type(name := kind.__name__) is str and name.encode():
            return name
    return ""


def printable(error: BaseException) -> BaseException:
    """Make an error of an ordinary class with the same name, text and traceback."""
    like: BaseException = type(name_of(error), (Exception,), {})(text_of(error))
    return like.with_traceback(vars(BaseException)["__traceback__"].__get__(error))


def end_when_unable_to_answer(kernel: Any, stderr: int) -> None:
    """Exit the process if a cell's reply can't be sent, so that the server reports it."""
    handle = kernel.shell_handlers["execute_request"]

    async def execute(*request: Any) -> None:
        try:
            await handle(*request)
        except Exception:
            os.write(stderr, traceback.format_exc().encode("utf-8", "replace"))
            os._exit(70)  # EX_SOFTWARE

    kernel.shell_handlers["execute_request"] = execute


def claim(stream: Any, number: int) -> int | None:
    """Take over the descriptor that the process was started with as 1 or 2.

    ipykernel echoes captured output there, which would duplicate everything, so its own
    copy is pointed at the null device; and `subprocess.run(..., stdout=sys.stdout)` is sent
    to the captured descriptor instead of bypassing it.
    """
    copy = getattr(stream, "_original_stdstream_copy", None)
    if copy is None:
        return None
    raw = os.dup(copy)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, copy, inheritable=False)
    os.close(null)
    stream.fileno = lambda: number
    return raw
