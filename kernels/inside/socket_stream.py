"""Standard streams of cells, whose text travels over a kernel's socket.

Need no thread for a cell that prints a few lines: a line is sent at once if none was sent lately.
Executed in a template, like `setup.py`; knows jupyter_client's `Session`, nothing of what is run.
"""

from __future__ import annotations

import contextvars
import io
import os
import signal
import threading
from collections.abc import Callable
from time import monotonic, sleep  # cells replace those of the module
from typing import Any

from jupyter_client.session import extract_header

from .wire import INTERRUPTING, SocketChannel, uninterrupted

FLUSH_INTERVAL = 0.1  # seconds between two messages of a stream, unless somebody flushes it
FLUSH_THREAD = "Flush"
LARGEST_TEXT = 65_536  # max characters that a stream keeps before it sends them
# Max characters of a forked process's message: the system takes its 30 kB at most at once, so a
# process that is killed leaves no half of one, after which nobody could read on.
ATOMIC_TEXT = 4_000


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
            thread = threading.Thread(target=self._run, name=FLUSH_THREAD, daemon=True)
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
