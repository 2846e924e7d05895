"""A kernel's end of its socket to the server, and standard streams whose text travels over it.

Needs no thread for a cell that prints a few lines: a line is sent at once if none was sent lately.
Executed in a template, like `setup.py`; knows jupyter_client's `Session`, nothing of what is run.
"""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import io
import os
import signal
import socket
import tempfile
import termios
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep  # cells replace those of the module
from typing import Any, TypeVar

from jupyter_client.session import extract_header

from .frames import Frames, frame
from .script_environment import moved_up

FLUSH_INTERVAL = 0.1  # seconds between two messages of a stream, unless somebody flushes it
READ_TIMEOUT = 0.05  # max seconds that messages wait for the server to read the pipes
READ_INTERVAL = 0.0002  # seconds between two looks
LARGEST_TEXT = 65_536  # max characters that a stream keeps before it sends them
# Max characters of a forked process's message: the system takes its 30 kB at most at once, so a
# process that is killed leaves no half of one, after which nobody could read on.
ATOMIC_TEXT = 4_000

Result = TypeVar("Result")


# Those whose handlers may raise, as a user's timer does, or which end a forked process.
INTERRUPTING = {
    signal.Signals[f"SIG{name}"]
    for name in ("INT", "TERM", "HUP", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "CHLD")
}


def uninterrupted(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that no signal interrupts: the handlers run when it is done."""
    if threading.current_thread() is not threading.main_thread():  # which runs all handlers
        return work(*arguments)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # May raise, but has then blocked the signals already; therefore not before the `try`.
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTING)
        return work(*arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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

    def survive_forks(self) -> None:
        """From now on, share the lock with forked processes; other threads finish their sends."""
        # An interrupt can't come between the lines of what has none.
        os.register_at_fork(before=self._lock.acquire, after_in_parent=self._lock.release)
        os.register_at_fork(before=self._share, after_in_child=self._after_fork)

    def _share(self) -> None:
        if self._shared < 0:
            with contextlib.suppress(OSError), lock_file() as file:
                self._shared = moved_up(file.fileno())

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


def lock_file() -> Any:
    """A file without a name; of memory where the system has that, as no folder may be writable."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("lock"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


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
            now = monotonic()
            self._unread_since = self._unread_since or now
            if now > self._unread_since + READ_TIMEOUT:
                return
            sleep(READ_INTERVAL)
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
            lately = monotonic() < self._sent + FLUSH_INTERVAL
            ends = text.endswith("\n")
            forked = os.getpid() != self.owner  # nothing flushes there later, so lines are sent
            if self._size > LARGEST_TEXT or ("\n" in text if forked else ends and not lately):
                self.flush()
            elif self._flusher is not None and not forked:
                self._flusher.flush_later(self)
        return len(text)

    def flush(self) -> None:
        """Send what was kept."""
        if self._texts:
            uninterrupted(self._flush)

    def _flush(self) -> None:
        with self._lock:
            text, parent = "".join(self._texts), self._texts_parent
            self._texts, self._size, self._sent = [], 0, monotonic()
            if not text:
                return
            forked = os.getpid() != self.owner
            if forked:
                self.session.pid = os.getpid()  # it would not send from a forked process
            most = ATOMIC_TEXT if forked else len(text)
            for begin in range(0, len(text), most):
                self._send_text(text[begin : begin + most], parent)

    def _send_text(self, text: str, parent: dict[str, Any]) -> None:
        message = self.session.msg("stream", {"name": self.name, "text": text}, parent=parent)
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
            thread = threading.Thread(target=self._run, name="Flush", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # a limit forbids it
                self._waiting.discard(stream)
                stream.flush()
            else:
                self._thread = thread

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTING)
        while True:
            self._wanted.wait()
            self._wanted.clear()
            sleep(FLUSH_INTERVAL)
            while self._waiting:
                self._waiting.pop().flush()
