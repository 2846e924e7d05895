"""ipykernel's kernel without ZMQ sockets and threads: it speaks over two Unix sockets.

Executed in a template, like `setup.py`; knows nothing of servers and sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import select
import signal
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import zmq
from ipykernel.ipkernel import IPythonKernel
from IPython.core.error import StdinNotImplementedError
from tornado.ioloop import IOLoop
from traitlets import Any as AnyTrait

from .frames import BRANCH, STDIN
from .kernel_loop import is_of_loop, leave_kernel, with_new_descriptors
from .wire import INTERRUPTING, SocketChannel, Wire, uninterrupted

Message = tuple[bytes, list[bytes]]
EOF = "\x04"  # an answer to `input()`, as in ipykernel
CONTROL_THREAD = "Control"  # ipykernel asks for this name

KernelBase: Any = IPythonKernel  # whose annotations are for ZMQ's streams


ANSWER_POLL = 100  # max milliseconds between looks for an answer that another thread may receive


class SocketKernel(KernelBase):  # type: ignore[misc]
    """ipykernel's kernel, which reads its requests from a socket in its main thread."""

    shell_stream = AnyTrait()  # ipykernel wants a ZMQStream
    control_stream = AnyTrait()
    debugpy_stream = AnyTrait()
    _execute_sleep = 0.0  # what was printed has been sent when a cell is over
    _supports_kernel_subshells = False

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.shell_channel_thread = SimpleNamespace(parent_thread=threading.main_thread())
        self.stdin_socket = SocketChannel(STDIN)
        self._answers: list[list[bytes]] = []
        self._waiting: list[list[bytes]] = []  # requests that came while `input()` waited
        self._context = contextvars.Context()  # of all cells, as in ipykernel
        self._running: dict[asyncio.Task[None], None] = {}  # the first runs, the others wait for it
        self._ended = False
        self._control_started = False

    @property
    def kernel_info(self) -> dict[str, Any]:
        """What clients are told: no debugger, which needs ZMQ sockets."""
        info = dict(super().kernel_info)
        features = [each for each in info["supported_features"] if each != "debugger"]
        return {**info, "supported_features": features}

    # -- its sockets

    def attach(self, wire: socket.socket, control: socket.socket, key: bytes) -> None:
        """Take over the sockets, in the kernel's own process."""
        self._wire, self._control = Wire(wire), Wire(control)
        self._receiving = threading.Lock()
        session = self.session
        session.key, session.pid = key, os.getpid()
        session.session = self.ident = str(uuid.uuid4())
        self.shell.displayhook.topic = self._topic("execute_result")
        for channel in (self.iopub_socket, self.shell_stream, self.stdin_socket):
            channel.wire = self._wire
        self.control_stream.wire = self._control
        self._wire.survive_forks()
        self._control.survive_forks()

    def become_new(self, wire: socket.socket, control: socket.socket, key: bytes) -> None:
        """Go on in a forked process with sockets of its own; nothing runs."""
        self._answers, self._waiting = [], []
        self._main_asyncio_lock = asyncio.Lock()
        self._control_started = False
        self.attach(wire, control, key)
        self._listen()

    def has_request(self, timeout: float) -> bool:
        """Whether something arrives on the socket for messages within `timeout` seconds."""
        arriving = select.poll()
        arriving.register(self._wire.end, select.POLLIN)
        return bool(arriving.poll(timeout * 1000))

    def first_request(self) -> dict[str, Any] | None:
        """Wait for the first request, in no event loop; None if it has to be handled in one.

        A request to run a file or module is returned, and has become the parent of all output.
        """
        while not self._waiting:
            if (arrived := self._wire.receive(wait=True)) is None:
                leave_kernel()
            self._sort(arrived)
        idents, parts = self.session.feed_identities(self._waiting[0])
        with contextlib.suppress(ValueError, KeyError, TypeError):  # reported in the loop
            message = self.session.deserialize(parts)
            if "argv" in message["metadata"].get("rmi_agent", ()):
                del self._waiting[0]
                self._context.run(self.set_parent, idents, message)
                return dict(message)
            self.session.digest_history.clear()  # it will be verified again
        return None

    def start(self) -> None:
        """Read requests from now on, in a new event loop."""
        self._main_asyncio_lock = asyncio.Lock()
        self.shell.exit_now = False
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self.io_loop = IOLoop.current()
        self._listen()
        # A signal of the server: there is something on control, though a cell may be running.
        signal.signal(signal.SIGURG, lambda *_: self._start_control())
        signal.siginterrupt(signal.SIGURG, False)
        self._handle_waiting()

    def _listen(self) -> None:
        # In an empty context: what is started from a cell later must not belong to this one.
        listen = contextvars.Context().run
        listen(self._loop.add_reader, self._wire.end, self._readable)
        if not self._control_started:
            listen(self._loop.add_reader, self._control.end, self._start_control)

    def run_forever(self, started: Callable[[], None]) -> None:
        """Handle requests until the end is requested, or the server has gone.

        Calls `started` whenever a loop has been made.
        """
        broken: list[Any] = []
        self.start()
        started()
        while True:
            try:
                self._run_loop()
                return
            except OSError:
                # A cell has closed the loop's descriptors. Their numbers may be somebody else's
                # now, so what has had them must not close them.
                asyncio._set_running_loop(None)
                broken.append(self._loop)
                if with_new_descriptors(self._loop, broken):
                    self._listen()  # and the cell goes on
                else:
                    self.start()
                    started()

    def _run_loop(self) -> None:
        while not self._ended:  # a cell may stop the loop
            try:
                self._loop.run_forever()
            except KeyboardInterrupt:
                pass
            except Exception as error:
                if is_of_loop(error):
                    raise
                self._handler_raised(error)

    def _handler_raised(self, error: Exception) -> None:
        """Report what a cell's signal handler has raised while the loop waited; end the cell."""
        traceback.print_exception(error)
        for task in self._running:
            task.cancel()
            return

    def _end(self) -> None:
        self._ended = True
        self._loop.stop()

    def _readable(self) -> None:
        if uninterrupted(self._receive):
            self._handle_waiting()
        else:
            self._end()

    def _receive(self) -> bool:
        """Sort what has arrived; False if the server has closed its end."""
        with self._receiving:  # a thread that waits for an answer does it as well
            if (arrived := self._wire.receive()) is None:
                return False
            self._sort(arrived)
        return True

    def _sort(self, arrived: list[Message]) -> None:
        for channel, parts in arrived:
            if channel != BRANCH:  # descriptors that came too late are closed by now
                (self._answers if channel == STDIN else self._waiting).append(parts)

    def _handle_waiting(self) -> None:
        while self._waiting:
            parts = [zmq.Frame(part) for part in self._waiting.pop(0)]
            self._start(self.shell_main(None, parts))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, context=self._context)
        self._running[task] = None
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wire.flush()
        if not task.cancelled() and (error := task.exception()) is not None:
            lines = traceback.format_exception(error)
            os.write(2, "".join(lines).encode("utf-8", "replace"))
            os._exit(70)  # EX_SOFTWARE
        if self.shell.exit_now:
            self._end()

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """Abort the requests that have arrived by now."""

        async def stop_aborting() -> None:
            async with self._main_asyncio_lock:  # after those that wait for it
                self._aborting = False

        self._aborting = True
        self._start(stop_aborting())

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        """Send a status; a cell's busy one together with its input, which follows at once."""
        if status == "busy" and channel == "shell" and is_cell(self.get_parent(channel)):
            with self.iopub_socket.followed_at_once():
                super()._publish_status(status, channel, parent)
        else:
            super()._publish_status(status, channel, parent)

    # -- control

    def _start_control(self) -> None:
        """Start the thread that handles control requests, at the first one."""
        if not self._control_started:
            self._control_started = True
            self._loop.remove_reader(self._control.end)
            threading.Thread(target=self._serve_control, name=CONTROL_THREAD, daemon=True).start()

    def _serve_control(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTING)
        loop = asyncio.new_event_loop()
        while (arrived := self._control.receive(wait=True)) is not None:
            for _, parts in arrived:
                loop.run_until_complete(self.process_control([zmq.Frame(part) for part in parts]))

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """End the kernel once the current request has been handled."""
        content = {"status": "ok", "restart": bool(parent["content"].get("restart"))}
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self._loop.call_soon_threadsafe(self._end)

    async def debug_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Refuse: a debugger needs a kernel with ZMQ sockets."""
        why = "This kernel has no debugger: it was forked from a template."
        content = {"type": "response", "success": False, "message": why}
        self.session.send(stream, "debug_reply", content, parent, ident=ident)

    # -- questions

    def _input_request(
        self, prompt: str, ident: Any, parent: dict[str, Any], password: bool = False
    ) -> str:
        if os.getpid() != self.session.pid:
            raise StdinNotImplementedError("input() was called in a forked process.")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._answers.clear()
        waiting = select.poll()  # `select.select` refuses high descriptors
        waiting.register(self._wire.end, select.POLLIN)
        # Beside the event loop, which may be the one that receives the answer.
        beside = threading.current_thread() is not threading.main_thread()
        content = {"prompt": prompt, "password": password}
        self.session.send(self.stdin_socket, "input_request", content, parent, ident=ident)
        try:
            while (value := self._answer()) is None:
                # SIGINT raises while we wait, but never with bytes in hand.
                waiting.poll(ANSWER_POLL if beside else None)
                if not uninterrupted(self._receive):
                    os._exit(0)  # the server has gone
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted by user") from None
        finally:
            if not self._loop.is_closed():  # else it is a first request; the loop begins with it
                self._loop.call_soon_threadsafe(self._handle_waiting)
        if value == EOF:
            raise EOFError
        return value

    def _answer(self) -> str | None:
        """The answer that has arrived; None if there is none yet."""
        while self._answers:
            _, parts = self.session.feed_identities(self._answers.pop(0))
            try:
                return str(self.session.deserialize(parts)["content"]["value"])
            except (ValueError, KeyError, TypeError):
                self.log.warning("Invalid answer", exc_info=True)
        return None


def is_cell(request: dict[str, Any]) -> bool:
    """Whether a request is to execute a cell whose input is published."""
    is_execution = request["header"]["msg_type"] == "execute_request"
    return is_execution and not request["content"].get("silent")
