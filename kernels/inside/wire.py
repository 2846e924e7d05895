"""A kernel's end of its socket to the server, and what a `Session` sends to in place of ZMQ's.

Executed in a template, like `setup.py`; knows bytes and signals, nothing of what is run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, sleep  # cells replace those of the module
from typing import Any, TypeVar

from .frames import BRANCH, CHANNELS, Frames, frame
from .script_environment import moved_up

READ_TIMEOUT = 0.05  # max seconds that messages wait for the server to read the pipes
READ_INTERVAL = 0.0002  # seconds between two looks

Result = TypeVar("Result")
WIRES_HOOKS: list[Any] = []  # what wires have registered to run at forks

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
        self._frames = Frames(channels=(*CHANNELS, BRANCH))
        self._lock = threading.RLock()
        self._shared = -1  # a file to lock where forked processes hold the socket, too
        self._held: list[bytes] = []  # frames that are sent with the next one

    def send(self, channel: bytes, parts: Sequence[bytes], *, with_next: bool = False) -> None:
        """Send a message, if `with_next` together with the one that follows at once.

        Each send wakes the server up. Waits while it does not read.
        """
        uninterrupted(self._send, frame(channel, parts), with_next)

    def flush(self) -> None:
        """Send what has been held for a message that did not follow."""
        if self._held:
            uninterrupted(self._send, b"", False)

    def _send(self, data: bytes, with_next: bool) -> None:
        with self._lock:
            self._held.append(data)
            if with_next:
                return
            if self._shared >= 0:
                fcntl.lockf(self._shared, fcntl.LOCK_EX)
            try:
                left = memoryview(b"".join(self._held))
                self._held.clear()
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
        acquire, release = self._lock.acquire, self._lock.release
        share, after_fork = self._share, self._after_fork
        os.register_at_fork(before=acquire, after_in_parent=release)
        os.register_at_fork(before=share, after_in_child=after_fork)
        WIRES_HOOKS.extend((acquire, release, share, after_fork))

    def _share(self) -> None:
        if self._shared < 0:
            with contextlib.suppress(OSError), lock_file() as file:
                self._shared = moved_up(file.fileno())

    def _after_fork(self) -> None:
        self._lock, self._held = threading.RLock(), []


def lock_file() -> Any:
    """A file without a name; of memory where the system has that, as no folder may be writable."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("lock"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


class Nowhere:
    """A wire whose messages are discarded."""

    def send(self, channel: bytes, parts: Sequence[bytes], *, with_next: bool = False) -> None:
        """Discard a message."""


class SocketChannel:
    """What a `Session` sends to, in place of a ZMQ socket or stream.

    Attributes:
        wire: carries the messages; in a template, nobody does.
        pipes: pipes to the server; what they hold is older than what is sent here.
        with_next: whether messages are sent together with the next one on the wire.
    """

    def __init__(self, name: bytes, *, with_next: bool = False) -> None:
        self.name, self.with_next = name, with_next
        self.wire: Any = Nowhere()
        self.pipes: tuple[int, ...] = ()
        self._unread_since = 0.0

    def send_multipart(self, parts: Sequence[Any], *_: Any, **options: Any) -> None:
        """Send a message's parts."""
        self._let_pipes_be_read()
        self.wire.send(self.name, [bytes(part) for part in parts], with_next=self.with_next)

    def send(self, part: Any, *_: Any, **options: Any) -> None:
        """Send a message of one part."""
        self.send_multipart([part])

    def flush(self, *_: Any) -> None:
        """Do nothing: everything has been sent."""

    @contextlib.contextmanager
    def followed_at_once(self) -> Iterator[None]:
        """Meanwhile, send messages together with the next one."""
        self.with_next = True
        try:
            yield
        finally:
            self.with_next = False

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
