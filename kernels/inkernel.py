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
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from .inscript import Script  # it is there already when this text is executed

PIECE = 250_000  # characters of one stream message
SENT = 500_000  # characters of each end of a text that is cut
ENDS = 4 * SENT  # what a message may be longer than the limit, with all that was cut in it
WIDEST = 6  # bytes that a character may become in JSON
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
    """Cut what would be too much for whoever reads it, just before it is sent.

    One print of a gigabyte is one message, and so is a huge repr, traceback or JSON bundle.
    """
    send = session.send

    def send_limited(
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Any = None,
        metadata: Any = None,
    ) -> Any:
        given = msg_or_type if isinstance(msg_or_type, dict) else {}
        content = given.get("content", content)
        metadata = given.get("metadata", metadata) or {}
        buffers = buffers or given.get("buffers") or []
        omitted = 0
        if isinstance(content, dict):
            content, omitted = cut_content(content, limit)
        if size_of(metadata, limit) > limit:
            metadata, omitted = {}, omitted + limit
        if (size := sum(memoryview(each).nbytes for each in buffers)) > limit:
            buffers, omitted = [], omitted + size
        if omitted:
            content["rmi_agent_omitted"] = omitted
        if given:
            msg_or_type = {**given, "content": content, "metadata": metadata, "buffers": buffers}
        rest = (parent, ident, buffers, track, header, metadata)
        if given and given["msg_type"] == "stream" and len(content["text"]) > PIECE:
            text, parent = content["text"], given["parent_header"]
            for start in range(0, len(text), PIECE):
                part = {**content, "text": text[start : start + PIECE]}
                if start + PIECE < len(text):
                    part.pop("rmi_agent_omitted", None)
                send(stream, session.msg("stream", part, parent=parent), None, *rest)
            return msg_or_type
        return send(stream, msg_or_type, content, *rest)

    session.send = send_limited


def cut_content(content: dict[str, Any], limit: int) -> tuple[dict[str, Any], int]:
    """A message's content within `limit`, and how much was left out, in characters or so."""
    if size_of(content, limit // WIDEST) <= limit // WIDEST:
        return content, 0
    kept: dict[str, Any] = {}
    omitted = 0
    for name, value in content.items():
        if isinstance(value, dict):
            kept[name] = {}
            for key, entry in value.items():
                kept[name][key], more = shortened(key, entry, limit)
                omitted += more
        else:
            kept[name], more = shortened(name, value, limit)
            omitted += more
    for name in sorted(kept, key=lambda each: -size_of(kept[each], limit)):
        # Each may be within the limit, and all together far beyond.
        if size_of(kept, limit + ENDS) <= limit + ENDS:
            break
        omitted += limit
        kept[name] = type(kept[name])() if isinstance(kept[name], dict | list | str) else None
    return kept, omitted


def shortened(name: Any, value: Any, limit: int) -> tuple[Any, int]:
    """One entry of a message's content, and how much of it was left out."""
    if name == "traceback" and isinstance(value, list):
        joined = "\n".join(map(str, value))
        text, omitted = shortened("", joined, limit)
        return ([text] if omitted else value), omitted
    if isinstance(value, str):
        if len(value) * WIDEST <= limit or len(json.dumps(value, ensure_ascii=False)) <= limit:
            return value, 0
        end = max(1, min(SENT, limit // 2, len(value) // 4))
        text = cut(value, end) if is_text(name) else f"[{len(value):,} characters not sent]"
        return text, len(value) - len(text)
    if name == "payload" and isinstance(value, list):
        parts = [(part, size_of(part, limit)) for part in value]
        kept = [part for part, size in parts if size <= ENDS or is_ours(part)]
        return kept, sum(size for part, size in parts if size > ENDS and not is_ours(part))
    if (size := size_of(value, limit)) > limit:
        return f"[more than {limit:,} characters not sent]" if "/" in str(name) else (
            type(value)() if isinstance(value, list | dict) else None
        ), size
    return value, 0


def size_of(value: Any, most: int) -> int:
    """About how long JSON data is as text; counts no further than beyond `most`."""
    size, waiting = 0, [value]
    while waiting and size <= most:
        each = waiting.pop()
        size += 2
        if isinstance(each, str | bytes):
            size += len(each)
        elif isinstance(each, dict):
            size += len(each)
            waiting += (part for pair in islice(each.items(), most) for part in pair)
        elif isinstance(each, list | tuple):
            size += len(each)
            waiting += each[:most]
        elif isinstance(each, int):
            size += each.bit_length() // 3
    return size


def is_ours(payload: Any) -> bool:
    """Whether a part of a reply is what the server itself has asked for."""
    return isinstance(payload, dict) and str(payload.get("source")).startswith("rmi_agent.")


def is_text(name: Any) -> bool:
    """Whether a message's field, or a mimebundle's type, can be cut in the middle."""
    return "/" not in str(name) or name in ("text/plain", "text/markdown")


def cut(text: str, end: int) -> str:
    """Head and tail of a text, each `end` characters long."""
    left_out = len(text) - 2 * end
    return f"{text[:end]}\n[… {left_out:,} characters were not sent …]\n{text[-end:]}"


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
