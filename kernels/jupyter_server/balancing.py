"""Chooses the Jupyter Server that a new kernel starts on: the one with the fewest busy kernels.

A server that can't take a kernel is passed over. Knows the servers' loads; nothing about kernels.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..addresses import JupyterServer
from ..errors import KernelStartError, ServerError
from .rest import KNOWN, Api

log = logging.getLogger(__name__)

RETRY = 5.0  # seconds before a server that did not answer is asked again


@dataclass(frozen=True)
class Load:
    """A server's load: how many of its kernels are busy, and how many it has."""

    api: Api
    busy: int
    count: int

    @property
    def now(self) -> tuple[int, int]:
        """The key to compare servers by; includes kernels being started meanwhile."""
        return self.busy, self.count + self.api.known.starting


@asynccontextmanager
async def least_busy(servers: tuple[JupyterServer, ...]) -> AsyncIterator[Api]:
    """Yield the server with the fewest busy kernels, then the fewest; the caller closes it.

    A start inside the `async with` block counts immediately.

    Raises:
        KernelStartError: no server is usable; the text says why, for each.
    """
    answering = [one for one in servers if KNOWN[one.url].silent_until <= time.monotonic()]
    found = await asyncio.gather(*(load(one) for one in answering or servers))
    able = [one for one in found if isinstance(one, Load)]
    if not able and len(found) < len(servers):
        found = await asyncio.gather(*(load(one) for one in servers))
        able = [one for one in found if isinstance(one, Load)]
    if not able:
        raise KernelStartError(" ".join(dict.fromkeys(map(str, found))))
    chosen = min(able, key=lambda one: one.now).api
    chosen.known.starting += 1
    try:
        for other in able:
            if other.api is not chosen:
                await other.api.close()
        yield chosen
    finally:
        chosen.known.starting -= 1


async def load(server: JupyterServer) -> Load | str:
    """Return a server's load, or why it can't run a kernel."""
    api = Api(server)
    try:
        kernels = await api.kernels()
    except ServerError as error:
        await api.close()
        if not error.gone and not error.status:  # asking again costs a timeout per start
            api.known.silent_until = time.monotonic() + RETRY
        if api.known.usable:
            log.warning("A Jupyter Server is skipped: %s", error)
        api.known.usable = False
        return str(error)
    except BaseException:
        await api.close()
        raise
    if not api.known.usable:
        log.warning("A Jupyter Server is back: %s", server.url)
    api.known.usable = True
    busy = sum(one.get("execution_state") == "busy" for one in kernels)
    return Load(api, busy, len(kernels))
