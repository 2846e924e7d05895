"""The websocket to a kernel on a Jupyter Server: opens it, and opens it again after each cut.

Knows the server and the kernel's id; nothing about what the messages say.
"""

from __future__ import annotations

import asyncio
import logging
import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from ..errors import ServerError
from . import rest
from .channels import Channels
from .wire_format import V1

log = logging.getLogger(__name__)
# At debug level, websockets logs request headers, which contain the token.
wire_log = logging.getLogger(f"{__name__}.wire")
wire_log.setLevel(logging.INFO)

PING = 5.0  # seconds between pings, and timeout of each
REFUSED = 5.0  # max seconds of refused connections before we give up reconnecting
UNREACHABLE = 10.0  # the same for a server that is unreachable in other ways
LARGEST = 64_000_000  # max bytes of one message


class Connection:
    """What carries a kernel's channels.

    Args:
        api: the kernel's server.
        kernel_id: the kernel's id there.
        channels: the channels.
    """

    def __init__(self, api: rest.Api, kernel_id: str, channels: Channels) -> None:
        self._api, self._id, self._channels = api, kernel_id, channels

    async def check(self) -> None:
        """Make sure that the kernel is there.

        Raises:
            ServerError: it is not, or the server refused or can't be reached.
        """
        try:
            await self._api.kernel(self._id)
        except ServerError as error:
            raise self._explained(error) from error

    async def open(self, timeout: float = rest.ANSWER) -> ClientConnection:
        """Open a websocket within `timeout` seconds.

        Raises:
            ServerError: the server refused or can't be reached.
        """
        server = self._api.server
        url = rest.channels_url(server.url, self._id, self._channels.session.session)
        try:
            return await connect(
                url,
                additional_headers=self._api.headers,
                subprotocols=[V1],
                compression=None,
                max_size=LARGEST,
                open_timeout=timeout,
                ping_interval=PING,
                ping_timeout=PING,
                close_timeout=1,
                logger=wire_log,
                ssl=rest.trusted() if url.startswith("wss:") else None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise ServerError(rest.why_refused(server, status), status) from error
        except (OSError, WebSocketException, TimeoutError) as error:
            raise rest.failed(server.url, error) from error

    async def keep(self, websocket: ClientConnection) -> None:
        """Carry messages until cancelled, reconnecting whenever the websocket closes.

        Raises:
            ServerError: the kernel is gone, or the server was unreachable for too long.
        """
        while True:
            try:
                await self._channels.carry(websocket)
            except* ConnectionClosed as closed:
                log.info(
                    "The connection to %s was cut: %s", self._api.server.url, closed.exceptions[0]
                )
            finally:
                await websocket.close()
            websocket = await self._open_again()

    async def _open_again(self) -> ClientConnection:
        since, pause = time.monotonic(), 0.05
        while True:
            try:
                await self._api.kernel(self._id)
                return await self.open()
            except ServerError as error:
                timeout = REFUSED if error.gone else UNREACHABLE
                if error.status in (401, 403, 404) or time.monotonic() - since > timeout:
                    raise self._explained(error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _explained(self, error: ServerError) -> ServerError:
        """The error; a 404 is explained as a kernel that was ended on the server."""
        if error.status != 404:
            return error
        return ServerError(
            f"{self._api.server.url} no longer has the kernel: it was ended there.", 404
        )
