"""A few cells that a kernel runs in its template, so that its children find everything in memory.

What they leave behind is removed. Executed in a template, like `setup.py`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
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

    def send(self, channel: bytes, parts: Any) -> None:
        """Count a message."""
        self.sent[channel] += 1


def rehearse_cells(kernel: Any) -> None:
    """Run some cells without a server, then forget them.

    Raises:
        RuntimeError: there were not as many answers as requests.
    """
    shell, session = kernel.shell, Session(key=kernel.session.key)
    handlers = signal.getsignal(signal.SIGINT)
    wire = Counted()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    kernel._loop, kernel.io_loop = loop, IOLoop.current()
    channels = (kernel.iopub_socket, kernel.shell_stream)
    for channel in channels:
        channel.wire = wire

    def request(kind: str, **content: Any) -> None:
        parts = session.serialize(session.msg(kind, content), ident=b"rehearsal")
        loop.run_until_complete(kernel.shell_main(None, [zmq.Frame(part) for part in parts]))

    try:
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
        for channel in channels:
            channel.wire = Nowhere()
        loop.close()
        asyncio.set_event_loop(None)
        signal.signal(signal.SIGINT, handlers)
    forget_cells(kernel, shell)
    if wire.sent[SHELL] != ROUNDS * (1 + len(CELLS)):
        raise RuntimeError(f"a rehearsal had {wire.sent[SHELL]} answers")


def rehearse_file(kernel: Any) -> None:
    """Run an empty file without a server, as the first request of a kernel, then forget it.

    Raises:
        RuntimeError: something of ours has failed.
    """
    shell, session = kernel.shell, Session(key=kernel.session.key)
    channels = (kernel.iopub_socket, kernel.shell_stream)
    for channel in channels:
        channel.wire = Counted()
    file = {"path": "/rehearsal.py", "argv": [], "source": "", "stdin": "", "fresh": True}
    request = session.msg("execute_request", {"code": "1"}, metadata={"rmi_agent": file})
    try:
        for _ in range(ROUNDS):
            kernel.set_parent([], request)
            reply = run_at_once(kernel, request)
            if reply["status"] != "ok":
                raise RuntimeError(f"no file can run: {reply['traceback'][-1].strip()}")
    finally:
        for channel in channels:
            channel.wire = Nowhere()
    forget_cells(kernel, shell)
    shell._rmi_agent_script.__self__.depths.clear()  # elsewhere there are more frames, or fewer


def forget_cells(kernel: Any, shell: Any) -> None:
    """Reset everything that cells have changed in a shell."""
    shell.reset(new_session=False)
    for name, value in vars(ModuleType("__main__")).items():  # `multiprocessing` needs `__spec__`
        shell.user_ns.setdefault(name, value)
    history = shell.history_manager
    history.reset(new_session=False)
    history.writeout_cache()
    history.input_hist_parsed[:], history.input_hist_raw[:] = [""], [""]
    history._i00 = history._i = history._ii = history._iii = ""
    if history.db is not None:
        with history.db:
            for table in ("history", "output_history"):
                history.db.execute(f"DELETE FROM {table}")
    history.db_input_cache.clear()
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
