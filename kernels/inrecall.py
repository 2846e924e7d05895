"""What is set up besides in a Python kernel on a Jupyter Server: a memory of what it has sent.

A message that is on its way when a connection breaks is lost, and its server does not know it.
Sent along with `inkernel.py` and executed before it; knows nothing of servers or connections.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any

NUMBER, VOID = "rmi_agent_number", "rmi_agent_void"  # in a message's metadata
RECALL = "rmi_agent_recall_request"
SECRETS = (
    "JUPYTER_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "JPY_API_TOKEN",
    "EG_AUTH_TOKEN",
    "KG_AUTH_TOKEN",
)


class Memory:
    """Numbers all that a kernel publishes, and sends what its client did not get once more.

    Args:
        kernel: the `IPythonKernel`.
        limit: characters of messages that are remembered; the oldest are forgotten first.
    """

    def __init__(self, kernel: Any, limit: int) -> None:
        self.session, self.limit = kernel.session, limit
        self.pid, self.lock = os.getpid(), threading.RLock()
        self.published: deque[tuple[int, int, dict[str, Any]]] = deque()
        self.answers: deque[tuple[str, dict[str, Any]]] = deque(maxlen=8)
        self.last = self.size = 0
        self.void: list[int] = []  # numbers of messages that could not be sent
        self.send_now = self.session.send
        self.session.send = self.send
        kernel.control_handlers[RECALL] = self.recall

    def send(
        self,
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
        """`Session.send`, with a number and remembered."""
        message = (
            msg_or_type
            if isinstance(msg_or_type, dict)
            else self.session.msg(msg_or_type, content, parent, header, metadata)
        )
        kind = message["header"]["msg_type"]
        if os.getpid() != self.pid:  # a fork's child, where another thread may have had the lock
            return self.send_now(stream, message, ident=ident, buffers=buffers, track=track)
        if kind in ("execute_reply", "input_request"):
            self.answers.append(("shell" if kind == "execute_reply" else "stdin", message))
        if kind.endswith("_reply") or kind == "input_request":
            return self.send_now(stream, message, ident=ident, buffers=buffers, track=track)
        with self.lock:  # so that they are sent in the order of their numbers
            self.last += 1
            number, more = self.last, {NUMBER: self.last}
            if self.void:
                more[VOID], self.void = self.void, []  # type: ignore[assignment]
            message = {**message, "metadata": {**message["metadata"], **more}}
            try:
                sent = self.send_now(stream, message, ident=ident, buffers=buffers, track=track)
            except BaseException:
                self.void.append(number)
                raise
            self.keep(number, message)
            return sent

    def keep(self, number: int, message: dict[str, Any]) -> None:
        """Remember a message; forget others for it."""
        content = message["content"]
        texts = [*content.values(), *(content.get("data") or {}).values()]
        size = 200 + sum(len(text) for text in texts if isinstance(text, str | list))
        self.published.append((number, size, message))
        self.size += size
        while self.size > self.limit and self.published:
            self.size -= self.published.popleft()[1]

    def recall(self, stream: Any, ident: Any, request: dict[str, Any]) -> None:
        """Answer a client that asks for what it did not get."""
        asked = request["content"]
        have, waits = set(asked["have"]), set(asked["unanswered"])
        with self.lock:
            oldest = self.published[0][0] if self.published else self.last + 1
            found = [
                ("iopub", message)
                for number, _, message in self.published
                if number > asked["after"] and number not in have
            ]
        found += [
            (channel, message)
            for channel, message in self.answers
            if (message["parent_header"] or {}).get("msg_id") in waits
        ]
        parts = ("header", "parent_header", "metadata", "content")
        messages = [[channel, *(message[part] for part in parts)] for channel, message in found]
        content = {"messages": messages, "oldest": oldest, "void": self.void}
        kind = RECALL.replace("request", "reply")
        self.send_now(stream, kind, content, parent=request, ident=ident)


def remember(kernel: Any, limit: int) -> None:
    """Begin to remember what a fresh kernel sends, in `limit` characters.

    It inherits its server's environment: a token there is out of sight of `print(os.environ)`.
    """
    for name in SECRETS:
        os.environ.pop(name, None)
    Memory(kernel, limit)
