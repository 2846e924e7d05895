"""A few cells that a kernel runs in its template, so that its children find everything in memory.

What they leave behind is removed. Executed in a template, like `setup.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import zmq
from jupyter_client.session import Session
from tornado.ioloop import IOLoop

from .frames import SHELL
from .run_at_once import run_at_once
from .wire import Nowhere

ROUNDS = 8  # CPython adapts code that has run as often
CELLS = ("1 + 1", "print(1)", "x = 1", "await __import__('asyncio').sleep(0)", "1 / 0")


class Counted(Nowhere):
    """A wire that goes nowhere, but counts the messages of each channel."""

    def __init__(self) -> None:
        self.sent: Counter[bytes] = Counter()

    def send(self, channel: bytes, parts: Any, *, with_next: bool = False) -> None:
        """Count a message."""
        self.sent[channel] += 1


@contextlib.contextmanager
def unheard(kernel: Any) -> Iterator[Counted]:
    """Let nobody hear what a kernel sends.

    Yields:
        What counts the messages.
    """
    channels = (kernel.iopub_socket, kernel.shell_stream)
    before, wire = [channel.wire for channel in channels], Counted()
    for channel in channels:
        channel.wire = wire
    try:
        yield wire
    finally:
        for channel, old in zip(channels, before, strict=True):
            channel.wire = old


def rehearse_cells(kernel: Any) -> None:
    """Run some cells without a server, then forget them.

    Raises:
        RuntimeError: there were not as many answers as requests.
    """
    session, handler = Session(key=kernel.session.key), signal.getsignal(signal.SIGINT)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    kernel._loop, kernel.io_loop = loop, IOLoop.current()

    def request(kind: str, **content: Any) -> None:
        parts = session.serialize(session.msg(kind, content), ident=b"rehearsal")
        loop.run_until_complete(kernel.shell_main(None, [zmq.Frame(part) for part in parts]))

    try:
        with unheard(kernel) as wire:
            for _ in range(ROUNDS):
                request("kernel_info_request")
                for code in CELLS:
                    request(
                        "execute_request",
                        code=code,
                        silent=False,
                        store_history=True,
                        user_expressions={},
                        allow_stdin=False,
                        stop_on_error=False,
                    )
    finally:
        forget_cells(kernel, kernel.shell)
        loop.close()
        asyncio.set_event_loop(None)
        signal.signal(signal.SIGINT, handler)
    if wire.sent[SHELL] != ROUNDS * (1 + len(CELLS)):
        raise RuntimeError(f"a rehearsal had {wire.sent[SHELL]} answers")


def rehearse_file(kernel: Any, rounds: int = ROUNDS) -> None:
    """Run an empty file without a server, as the first request of a kernel, then forget it.

    Only in a kernel that has run nothing else.

    Raises:
        RuntimeError: something of ours has failed.
    """
    namespaces = (kernel.shell.user_ns, kernel.shell.user_ns_hidden)
    saved = [(namespace, dict(namespace)) for namespace in namespaces]
    path = os.path.join(os.getcwd(), "rehearsal.py")  # which changes to its folder for good
    file = {"path": path, "argv": [], "source": "", "stdin": "", "fresh": True}
    request = kernel.session.msg("execute_request", {"code": "1"}, metadata={"rmi_agent": file})
    with unheard(kernel):
        for _ in range(rounds):
            kernel.set_parent([], request)
            reply = run_at_once(kernel, request)
            if reply["status"] != "ok":
                raise RuntimeError(f"no file can run: {reply['traceback'][-1].strip()}")
            forget_file(kernel, saved)
    kernel.shell._rmi_agent_script.__self__.depths.clear()  # elsewhere there are other frames


def forget_file(kernel: Any, saved: list[tuple[Any, dict[str, Any]]]) -> None:
    """Reset what a file has changed, and touch no other memory, which is shared with a template.

    `saved` are namespaces with what they had before.
    """
    for namespace, before in saved:
        for name in namespace.keys() - before.keys():
            del namespace[name]
        for name, value in before.items():
            if namespace.get(name) is not value:
                namespace[name] = value
    forget_inputs(kernel.shell.history_manager)
    kernel.shell.execution_count = 1
    kernel.session.digest_history.clear()
    kernel.set_parent([], {})


def forget_inputs(history: Any) -> None:
    """Reset the history of cells that were not stored yet."""
    history.input_hist_parsed[:], history.input_hist_raw[:] = [""], [""]
    history._i00 = history._i = history._ii = history._iii = ""
    history.db_input_cache.clear()


def forget_cells(kernel: Any, shell: Any) -> None:
    """Reset everything that cells have changed in a shell."""
    shell.reset(new_session=False)
    for name, value in vars(ModuleType("__main__")).items():  # `multiprocessing` needs `__spec__`
        shell.user_ns.setdefault(name, value)
    history = shell.history_manager
    history.reset(new_session=False)
    history.writeout_cache()
    forget_inputs(history)
    if history.db is not None:
        with history.db:
            for table in ("history", "output_history"):
                history.db.execute(f"DELETE FROM {table}")
    cells = getattr(shell.compile, "_filename_map", {})
    for name in cells:
        linecache.cache.pop(name, None)
    cells.clear()
    for kept in ("outputs", "exceptions"):
        getattr(history, kept, {}).clear()
    shell.execution_count = 1
    shell._last_traceback = None
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    kernel.session.digest_history.clear()
    kernel.set_parent([], {})
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
