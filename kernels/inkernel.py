"""What is set up inside a Python kernel when it starts: the script runner and some guards.

This text and `inscript.py` are sent to the kernel (`kernel.py`) and executed there one
after the other in a namespace of their own; the kernel never imports them, so they may use
only the standard library and what ipykernel has loaded already. They know nothing of
servers, sessions or notebooks.
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
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from .inscript import Script  # it is there already when this text is executed

PIECE = 250_000  # characters of one stream message
SENT = 500_000  # characters of each end of a text that is cut
REFUSED = "\x04"  # begins an answer to `input()` that is none; the reason follows


def install(shell: Any, raw_output: bool, environment: dict[str, str], output_limit: int) -> None:
    """Prepare a fresh kernel: hook up the script runner, make iopub lossless and bounded.

    Args:
        shell: the kernel's `InteractiveShell`.
        raw_output: whether the process was started with pipes on 1 and 2 that somebody
            reads. ipykernel keeps copies of those; scripts write there directly, so that
            nothing they wrote is lost when the process dies.
        output_limit: characters of one message's text; longer ones are cut. 0 is no limit.
        environment: the variables among `IPYKERNELS` that the process was started with.
    """
    # Kernels have threads, so Python 3.12 warns at every fork, which scripts may well do.
    warnings.filterwarnings("ignore", ".* use of fork\\(\\) may lead to deadlocks")
    thread = shell.kernel.iopub_thread
    # Without it iopub drops messages, `idle` included, when its reader stalls.
    thread.schedule(lambda: thread.socket.setsockopt(zmq.XPUB_NODROP, 1))
    claimed = [claim(sys.stdout, 1), claim(sys.stderr, 2)] if raw_output else []
    raw = [fd for fd in claimed if fd is not None]
    if raw:
        faulthandler.enable(raw[1])
    shell._rmi_agent_script = Script(shell, raw, environment).run
    if output_limit:
        limit_messages(shell.kernel.session, output_limit)
    interrupt_only_cells(shell.kernel)
    look_for_children_only_if_there_are(shell.kernel)
    tell_why_nobody_answers(shell.kernel)
    end_when_unable_to_answer(shell.kernel, raw[1] if raw else 2)
    shell.events.register("post_execute", after_each_cell(shell))
    # Jedi takes two seconds for its first answer, and reads code where the live objects tell more.
    shell.Completer.use_jedi = False


def interrupt_only_cells(kernel: Any) -> None:
    """Let SIGINT reach the code of cells alone, and what completes their text.

    ipykernel lets it through for as long as a request is handled, and in between it would end
    the kernel's event loop, and so the kernel.
    """

    def interrupt(number: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_code.co_filename.endswith(("interactiveshell.py", "completer.py")):
                signal.default_int_handler(number, frame)
            frame = frame.f_back

    def before_request() -> None:
        kernel.saved_sigint_handler = signal.signal(signal.SIGINT, interrupt)

    kernel.pre_handler_hook = before_request


def look_for_children_only_if_there_are(kernel: Any) -> None:
    """Spare a shutdown the import of psutil and its look at every process, 25 ms of each."""
    look = kernel._process_children

    def children() -> Any:
        folder = "/proc/self/task"
        with contextlib.suppress(OSError):
            for task in os.listdir(folder):
                with open(f"{folder}/{task}/children") as of_this_thread:
                    if of_this_thread.read():
                        return look()
            return []
        return look()

    kernel._process_children = children


def limit_messages(session: Any, limit: int) -> None:
    """Cut texts that would be too much for whoever reads them, just before they are sent.

    One print of a gigabyte is one message, and so is a huge repr or traceback.
    """
    send = session.send

    def send_limited(
        stream: Any, msg_or_type: Any, content: Any = None, *rest: Any, **more: Any
    ) -> Any:
        message = msg_or_type if isinstance(msg_or_type, dict) else None
        carried = message["content"] if message else content
        if isinstance(carried, dict) and (omitted := cut_content(carried, limit)):
            carried["rmi_agent_omitted"] = omitted
        if message and message["msg_type"] == "stream" and len(carried["text"]) > PIECE:
            text, name, parent = carried["text"], carried["name"], message["parent_header"]
            for start in range(0, len(text), PIECE):
                part = {**carried, "name": name, "text": text[start : start + PIECE]}
                carried.pop("rmi_agent_omitted", None)
                send(stream, session.msg("stream", part, parent=parent), None, *rest, **more)
            return message
        return send(stream, msg_or_type, content, *rest, **more)

    session.send = send_limited


def cut_content(content: dict[str, Any], limit: int) -> int:
    """Cut the texts of a message's content in place; returns the characters left out."""
    before = after = 0
    for holder in (content, content.get("data")):
        if not isinstance(holder, dict):
            continue
        for name, value in holder.items():
            if name == "traceback" and isinstance(value, list):
                value = "\n".join(map(str, value))
            if isinstance(value, str) and len(value) > limit:
                shortened = cut(value) if is_text(name) else f"[{len(value):,} characters not sent]"
                holder[name] = [shortened] if name == "traceback" else shortened
                before, after = before + len(value), after + len(shortened)
    return before - after


def is_text(name: str) -> bool:
    """Whether a message's field, or a mimebundle's type, can be cut in the middle."""
    return "/" not in name or name in ("text/plain", "text/markdown")


def cut(text: str) -> str:
    """Head and tail of a text."""
    left_out = len(text) - 2 * SENT
    return f"{text[:SENT]}\n[… {left_out:,} characters were not sent …]\n{text[-SENT:]}"


def tell_why_nobody_answers(kernel: Any) -> None:
    """Let `input()` and `getpass()` raise an EOFError that says why there is no answer."""

    def telling(request: Callable[..., str]) -> Callable[..., str]:
        def ask(*question: Any, **more: Any) -> str:
            answer = request(*question, **more)
            if answer.startswith(REFUSED):
                raise EOFError(answer[1:])
            return answer

        return ask

    kernel.raw_input, kernel.getpass = telling(kernel.raw_input), telling(kernel.getpass)


def after_each_cell(shell: Any) -> Callable[[], None]:
    """What is to be done behind a cell, whatever it did.

    A cell may have taken away what the kernel needs to answer; nothing here relies on that.
    """
    pid, leave, streams = os.getpid(), os._exit, {"stdout": sys.stdout, "stderr": sys.stderr}
    kernel = shell.kernel
    session, key = kernel.session, kernel.session.key
    kept = [(namespace, dict(namespace)) for namespace in (vars(builtins), kernel.shell_handlers)]
    for thing in (kernel, session, shell):
        kept += [(vars(thing), dict(vars(thing))), (thing._trait_values, dict(thing._trait_values))]
    current = os.getpid

    def after_cell() -> None:
        if current() != pid:  # `os.fork()` in a cell: its child must not go on as a kernel
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
            leave(0)
        for namespace, before in kept:
            for name, value in before.items():
                if namespace.get(name) is None:
                    namespace[name] = value
        for name, stream in streams.items():
            if vars(sys).get(name) is None:
                setattr(sys, name, stream)
        if session.key != key:
            session.key = key

    return after_cell


def end_when_unable_to_answer(kernel: Any, stderr: int) -> None:
    """End the process when a cell's reply can't be sent: whoever waits for it is told so."""
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

    ipykernel repeats there what it captured, which would tell everything twice, so its
    own copy is pointed at the null device; and `subprocess.run(..., stdout=sys.stdout)`
    is sent to the captured descriptor instead of past it.
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
