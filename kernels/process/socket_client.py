"""jupyter_client's client over a kernel's two Unix sockets.

Reading stops while too many messages wait, so that the kernel waits for its reader, as a program
waits for that of a pipe. Knows frames and channels; nothing of processes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

from jupyter_client.session import DELIM, Session

from ..inside import CONTROL, IOPUB, SHELL, STDIN, Frames, frame
from ..protocol import CHANNELS, Deserialize, Message, QueuedClient, SignedMessages, unpacked

QUEUED = 4_000_000  # bytes of messages that wait for a reader before reading stops
ROOM = 5_000_000  # bytes allowed for a message on top of twice the output limit
BYTES = {"shell": SHELL, "iopub": IOPUB, "stdin": STDIN, "control": CONTROL}
IDENT = b"server"


class SocketChannel:
    """One channel: received messages wait here as they came, and are parsed when they are read.

    Args:
        link: the connection that carries the channel.
        name: the channel's byte.
        session: signs what is sent.
        read: verifies and parses what is received.
    """

    def __init__(self, link: Link, name: bytes, session: Session, read: Deserialize) -> None:
        self._link, self._name, self._session, self._read = link, name, session, read
        self._waiting: deque[list[bytes] | Callable[[], None]] = deque()
        self._arrived = asyncio.Event()
        link.channels[name] = self

    def start(self) -> None:
        """Do nothing: the connection is open."""

    def stop(self) -> None:
        """Do nothing: the connection ends with the kernel's process."""

    def is_alive(self) -> bool:
        """Whether the connection is open."""
        return not self._link.closed.done()

    def send(self, message: Message) -> None:
        """Send a message to the kernel."""
        self._link.send(frame(self._name, self._session.serialize(message, ident=IDENT)))

    def put(self, parts: list[bytes]) -> None:
        """Queue a message for the reader."""
        self._waiting.append(parts)
        self._arrived.set()

    def when_read(self, call: Callable[[], None]) -> None:
        """Call back once all messages that wait now have been read."""
        if self._waiting:
            self._waiting.append(call)
        else:
            call()

    async def get_msg(self, timeout: float | None = None) -> Message:
        """Wait for the next message.

        Raises:
            Empty: none came within `timeout` seconds.
            ValueError, KeyError, TypeError, RecursionError: the message can't be read.
        """
        while not isinstance(parts := self._next(), list):
            try:
                async with asyncio.timeout(timeout):
                    self._arrived.clear()
                    await self._arrived.wait()
            except TimeoutError:
                raise Empty from None
        self._link.taken(parts)
        return unpacked(parts[parts.index(DELIM) + 1 :], self._read)

    def _next(self) -> list[bytes] | None:
        while self._waiting:
            if isinstance(next_ := self._waiting.popleft(), list):
                return next_
            next_()
        return None


class Link(asyncio.Protocol):
    """One of a kernel's sockets, with the channels that it carries.

    Args:
        most: max bytes of one message; 0 means no limit.

    Attributes:
        channels: by their byte.
        announce: called after each message to the kernel, which may not be reading.
        take: called with each message from the kernel; returns whether it is not for us.
        closed: done once the connection is closed; why, if the kernel could not be understood.
    """

    def __init__(self, most: int) -> None:
        self.channels: dict[bytes, SocketChannel] = {}
        self.announce: Callable[[], None] = lambda: None
        self.take: Callable[[bytes, list[bytes]], bool] | None = None
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._frames = Frames(most)
        self._transport: asyncio.Transport | None = None
        self._queued = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Queue the messages that are complete."""
        assert self._transport is not None
        try:
            for name, parts in self._frames.feed(data):
                if self.take is not None and self.take(name, parts):
                    continue
                if (channel := self.channels.get(name)) is not None:
                    self._queued += sum(map(len, parts))
                    channel.put(parts)
        except ValueError as error:
            self._end(str(error))
            self._transport.abort()
            return
        if self._queued > QUEUED and not self._paused:
            self._transport.pause_reading()
            self._paused = True

    def taken(self, parts: list[bytes]) -> None:
        """Count a message that was read, and continue if reading had stopped."""
        self._queued -= sum(map(len, parts))
        if self._paused and self._queued <= QUEUED:
            self._paused = False
            if self._transport is not None and not self.closed.done():
                self._transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Send bytes; they are dropped if the connection is closed."""
        if self._transport is not None and not self.closed.done():
            self._transport.write(data)
            self.announce()

    def send_with(self, data: bytes, descriptors: Sequence[int]) -> None:
        """Send bytes with descriptors, to a kernel that has read everything before.

        Raises:
            OSError: it has not, or the connection is closed.
        """
        if self._transport is None or self._transport.get_write_buffer_size():
            raise BlockingIOError("the kernel does not read what it is sent")
        with self._transport.get_extra_info("socket").dup() as end:
            end.setblocking(False)
            sent = socket.send_fds(end, [data], descriptors)
        self._transport.write(data[sent:])

    def discard(self) -> None:
        """Drop what arrives from now on: a kernel whose output nobody takes would not end."""
        self.channels, self._queued = {}, 0
        if self._paused and self._transport is not None and not self.closed.done():
            self._paused = False
            self._transport.resume_reading()

    def end_requests(self) -> None:
        """Say that no more requests come: the kernel then ends as it would by itself."""
        if self._transport is not None and not self.closed.done():
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._end("")

    def _end(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_result(why)


class SocketClient(QueuedClient):
    """jupyter_client's client over two sockets; make it by `connected`."""

    def __init__(self, messages: Link, control: Link, key: bytes, session_id: str = "") -> None:
        # Nobody else can send over these sockets, so no digests are kept, 65,536 by default.
        named = {"session": session_id} if session_id else {}
        session, read = Session(key=key, digest_history_size=0, **named), SignedMessages(key).read
        links = {name: control if name == "control" else messages for name in CHANNELS}
        channels: dict[str, Any] = {
            name: SocketChannel(link, BYTES[name], session, read) for name, link in links.items()
        }
        super().__init__(channels, session=session)
        self.messages, self.control = messages, control


async def connected(
    ends: tuple[socket.socket, socket.socket], key: bytes, output_limit: int, session_id: str = ""
) -> SocketClient:
    """Connect to a kernel over our ends of its sockets, for messages and for control.

    Its client may have an existing session's id, to which older output of the kernel belongs.
    """
    loop = asyncio.get_running_loop()
    most = 2 * output_limit + ROOM if output_limit else 0
    messages, control = Link(most), Link(most)
    # Its channels first: messages may wait already.
    client = SocketClient(messages, control, key, session_id)
    try:
        for link, end in ((messages, ends[0]), (control, ends[1])):
            make: Callable[[], Link] = lambda link=link: link  # type: ignore[misc] # noqa: E731
            await loop.create_connection(make, sock=end)
    except BaseException:  # cancelled, say: a transport must be closed before its socket
        messages.close()
        control.close()
        raise
    return client
