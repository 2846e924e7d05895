"""Moves a session between two living copies of the server.

The copy that is called asks through the store, and the copy that has the session answers. This
happens when a copy returns or is added and the balancer redirects a caller. Knows requests and
answers; `takeover.py` releases sessions and takes them over.
"""

from __future__ import annotations

import asyncio

from ..errors import KernelError
from ..session import Session
from .leases import ALIVE, Copy, Lease, SessionLeases

REQUESTS = "requests"  # collection in the store; key: the copy asked, value: answers by session
ASK_EVERY = 0.25  # seconds between polls for the answer
ANSWER_EVERY = 0.5  # seconds between polls for requests
QUIET = 2.0  # min idle seconds before a session may move, so alternating calls are refused
REFUSED = (
    "Session {id} is open in another copy of this server ({home}), which keeps it: {why}. Nothing"
    " was done; call again later, and have the load balancer send all calls of one caller to one"
    " copy, by the Authorization header (docs/clustering.md)."
)


async def released(homes: SessionLeases, home: Copy, record: Lease) -> None:
    """Ask the copy that has a session to release it; waits until it has done so or is dead.

    Raises:
        KernelError: that copy keeps the session.
        StoreError: that copy can't be asked.
    """
    answer: str | None = None
    try:
        async with asyncio.timeout(2 * ALIVE):
            while not answer:
                now = await homes.find(record.id)
                if now is None or (now.home, now.turn) != (record.home, record.turn):
                    return
                if await homes.copy(home.name) is None:
                    return
                if answer is None:  # not asked yet, or another call consumed the answer
                    await write(homes, home.name, record.id, "")
                await asyncio.sleep(ASK_EVERY)
                answer = (await requests(homes, home.name)).get(record.id)
    except TimeoutError:
        answer = "it does not answer"
    finally:
        await write(homes, home.name, record.id, None)
    raise KernelError(REFUSED.format(id=record.id, home=home.address, why=answer))


async def requested(homes: SessionLeases) -> list[str]:
    """The sessions other copies ask this one for, without those already refused.

    Raises:
        StoreError: the store can't be read.
    """
    found = await requests(homes, homes.name)
    return [session_id for session_id, answer in found.items() if not answer]


async def refuse(homes: SessionLeases, session_id: str, why: str) -> None:
    """Answer that a session stays in this copy.

    Raises:
        StoreError: the answer can't be written now.
    """
    await write(homes, homes.name, session_id, why)


async def requests(homes: SessionLeases, asked: str) -> dict[str, str]:
    """A copy's requests with its answers; under one key, since several would need a listing."""
    found = await homes.store.get(REQUESTS, asked) or {}
    return {session_id: str(answer) for session_id, answer in found.items()}


async def write(homes: SessionLeases, asked: str, session_id: str, answer: str | None) -> None:
    """Write a request to a copy (an empty answer) or its answer; None removes both."""
    async with homes.store.lock(asked):
        found = await requests(homes, asked)
        found.pop(session_id, None)
        if answer is not None:
            found[session_id] = answer
        await homes.store.put(REQUESTS, asked, found, ttl=2 * ALIVE)


def reason_to_keep(session: Session) -> str:
    """Why a session can't move to another copy now; empty if it can."""
    if session.remote is None:
        return "its kernel is not on a Jupyter Server"
    if session.running:
        return f"cell {session.runs.unfinished[0].number} is running"
    return "it was in use just now" if session.idle_for < QUIET else ""
