"""A kernel's end of its socket to the server, and standard streams whose text travels over it.

Needs no thread for a cell that prints a few lines: a line is sent at once if none was sent lately.
Executed in a template, like `setup.py`; knows jupyter_client's `Session`, nothing of what is run.
"""

from __future__ import annotations

import contextvars
import fcntl
import io
import os
import signal
import socket
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jupyter_client.session import extract_header

from .frames import Frames, frame

FLUSH_INTERVAL = 0.1  # seconds between two messages of a stream, unless somebody flushes it
READ_TIMEOUT = 0.05  # max seconds that messages wait for the server to read the pipes
READ_INTERVAL = 0.0002  # seconds between two looks
LARGEST_TEXT = 65_536  # max characters that a stream keeps before it sends them

Result = TypeVar("Result")


def uninterrupted(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that no SIGINT interrupts: the handler runs when it is done."""
    if threading.current_thread() is not threading.main_thread():  # which runs all handlers
        return work(*arguments)
    try:
        # May raise, but has then blocked the signal already; therefore not before the `try`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return work(*arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Wire:
    """The kernel's end of a socket. Frames of several threads and forked processes stay whole."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._frames = Frames()
        self._lock = threading.RLock()
        self._shared = -1  # a file to lock where forked processes hold the socket, too

    def send(self, channel: bytes, parts: Sequence[bytes]) -> None:
        """Send a message; waits while the server does not read."""
        uninterrupted(self._send, frame(channel, parts))

    def _send(self, data: bytes) -> None:
        with self._lock:
            if self._shared >= 0:
                fcntl.lockf(self._shared, fcntl.LOCK_EX)
            try:
                left = memoryview(data)
                while left:
                    left = left[self.end.send(left) :]
            finally:
                if self._shared >= 0:
                    fcntl.lockf(self._shared, fcntl.LOCK_UN)

    def receive(self, *, wait: bool = False) -> list[tuple[bytes, list[bytes]]] | None:
        """The messages that have arrived; None if the server has closed its end.

        Call it where SIGINT does not raise, or bytes may be lost.
        """
        try:
            data = self.end.recv(1 << 20, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return self._frames.feed(data) if data else None

    def before_fork(self) -> None:
        """Wait for other threads to finish their sends, and share a lock with the new process."""
        self._lock.acquire()
        if self._shared < 0:
            with tempfile.TemporaryFile() as file:
                self._shared = os.dup(file.fileno())

    def after_fork(self, *, in_child: bool) -> None:
        """Continue after a fork, in either process."""
        if in_child:
            self._lock = threading.RLock()
        else:
            self._lock.release()


class Nowhere:
    """A wire whose messages are discarded."""

    def send(self, channel: bytes, parts: Sequence[bytes]) -> None:
        """Discard a message."""


class SocketChannel:
    """What a `Session` sends to, in place of a ZMQ socket or stream.

    Attributes:
        wire: carries the messages; in a template, nobody does.
        pipes: pipes to the server; what they hold is older than what is sent here.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.wire: Any = Nowhere()
        self.pipes: tuple[int, ...] = ()
        self._unread_since = 0.0

    def send_multipart(self, parts: Sequence[Any], *_: Any, **options: Any) -> None:
        """Send a message's parts."""
        self._let_pipes_be_read()
        self.wire.send(self.name, [bytes(part) for part in parts])

    def send(self, part: Any, *_: Any, **options: Any) -> None:
        """Send a message of one part."""
        self.send_multipart([part])

    def flush(self, *_: Any) -> None:
        """Do nothing: everything has been sent."""

    def _let_pipes_be_read(self) -> None:
        """Wait a moment while the server has not read what was written to the pipes.

        So what a cell prints stays in the order of what the programs print that it starts, and a
        script's pictures stay between its lines. Waits once only for a reader that is too slow.
        """
        while any(map(holds_bytes, self.pipes)):
            now = time.monotonic()
            self._unread_since = self._unread_since or now
            if now > self._unread_since + READ_TIMEOUT:
                return
            time.sleep(READ_INTERVAL)
        self._unread_since = 0.0


def holds_bytes(pipe: int) -> bool:
    """Whether a pipe holds unread bytes; this end may be the one that is written to."""
    try:
        return any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    except OSError:
        return False


class SocketStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of cells: text goes to the cell that printed it.

    Text printed by a thread goes to the cell that started last, as in ipykernel.
    """

    encoding = "UTF-8"
    errors = "strict"

    def __init__(self, session: Any, channel: SocketChannel, name: str, number: int) -> None:
        self.session, self.channel, self.name = session, channel, name
        self.topic = b"stream." + name.encode()
        self.owner = 0  # the kernel's process
        self._number = number
        self._parent: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("parent")
        self._latest_parent: dict[str, Any] = {}
        self._texts: list[str] = []
        self._size = 0
        self._texts_parent: dict[str, Any] = {}
        self._sent = 0.0  # when text was last sent
        self._lock = threading.RLock()
        self._hooks = threading.local()
        self._flusher: Flusher | None = None

    # -- as a file

    def fileno(self) -> int:
        """The descriptor of the same stream for programs that the cell starts."""
        return self._number

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return False."""
        return False

    def write(self, text: str) -> int:
        """Send text, or keep it for a moment if much is printed."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        parent = self._parent.get(self._latest_parent)
        with self._lock:
            if self._texts and self._texts_parent is not parent:
                self.flush()
            self._texts_parent = parent
            self._texts.append(text)
            self._size += len(text)
            lately = time.monotonic() < self._sent + FLUSH_INTERVAL
            forked = os.getpid() != self.owner  # nobody flushes there
            if self._size > LARGEST_TEXT or forked or (text.endswith("\n") and not lately):
                self.flush()
            elif self._flusher is not None:
                self._flusher.flush_later(self)
        return len(text)

    def flush(self) -> None:
        """Send what was kept."""
        if self._texts:
            uninterrupted(self._flush)

    def _flush(self) -> None:
        with self._lock:
            text, parent = "".join(self._texts), self._texts_parent
            self._texts, self._size, self._sent = [], 0, time.monotonic()
            if not text:
                return
            if os.getpid() != self.owner:
                self.session.pid = os.getpid()  # it would not send from a forked process
            content = {"name": self.name, "text": text}
            message = self.session.msg("stream", content, parent=parent)
            for hook in self._own_hooks():
                if (message := hook(message)) is None:
                    return
            self.session.send(self.channel, message, ident=self.topic)

    def close(self) -> None:
        """Send what was kept; the stream stays usable for the next cell."""
        self.flush()

    # -- as ipykernel's `OutStream`

    @property
    def parent_header(self) -> dict[str, Any]:
        """The header of the request that text belongs to."""
        return self._parent.get(self._latest_parent)

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Assign text from now on to a request."""
        self._latest_parent = extract_header(parent)
        self._parent.set(self._latest_parent)

    def set_thread_parent(self, parent: dict[str, Any]) -> Any:
        """Assign this thread's text to a request; returns a token for `reset_thread_parent`."""
        return self._parent.set(extract_header(parent))

    def reset_thread_parent(self, token: Any) -> None:
        """Undo `set_thread_parent`."""
        self._parent.reset(token)

    def register_hook(self, hook: Callable[[Any], Any]) -> None:
        """Let a function change this thread's messages, or swallow them by returning None."""
        self._own_hooks().append(hook)

    def unregister_hook(self, hook: Callable[[Any], Any]) -> bool:
        """Remove a hook; returns whether there was one."""
        there = hook in self._own_hooks()
        if there:
            self._own_hooks().remove(hook)
        return there

    def _own_hooks(self) -> list[Callable[[Any], Any]]:
        if not hasattr(self._hooks, "of_thread"):
            self._hooks.of_thread = []
        return self._hooks.of_thread  # type: ignore[no-any-return]

    # -- around a fork

    def attach(self, flusher: Flusher) -> None:
        """Begin in a kernel's process, before anything is printed there."""
        self.owner, self._flusher = os.getpid(), flusher
        self._texts, self._size = [], 0

    def after_fork_in_child(self) -> None:
        """Go on in a process that a cell has forked; what the parent has kept is the parent's."""
        self._lock, self._texts, self._size = threading.RLock(), [], 0


class Flusher:
    """Flushes streams that nobody flushes: a thread that is started when it is first needed."""

    def __init__(self) -> None:
        self._waiting: set[SocketStream] = set()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def flush_later(self, stream: SocketStream) -> None:
        """Flush a stream in `FLUSH_INTERVAL` seconds."""
        if stream not in self._waiting:
            self._waiting.add(stream)
            self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="Flush", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while True:
            self._wanted.wait()
            self._wanted.clear()
            time.sleep(FLUSH_INTERVAL)
            while self._waiting:
                self._waiting.pop().flush()
