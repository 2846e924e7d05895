"""A session that moves between two copies of the server which both live.

The one that is called asks by the store, and the one that has the session answers: a balancer
leads a caller elsewhere when a copy is back or one is added. Knows requests and answers; how a
session is released and taken over is `shared.py`'s.
"""

from __future__ import annotations

import asyncio

from ..errors import KernelError
from ..session import Session
from .leases import ALIVE, Copy, Lease, SessionLeases

REQUESTS = "requests"  # the store's collection: by the copy that is asked, answers by session
ASK_EVERY = 0.25  # seconds between two looks for the answer
ANSWER_EVERY = 0.5  # seconds between two looks for requests
QUIET = 2.0  # seconds for which a session stays where it was used: calls that alternate are refused
REFUSED = (
    "Session {id} is open in another copy of this server ({home}), which keeps it: {why}. Nothing"
    " was done; call again later, and have the load balancer send all calls of one caller to one"
    " copy, by the Authorization header (docs/clustering.md)."
)


async def released(homes: SessionLeases, home: Copy, record: Lease) -> None:
    """Ask the copy that has a session to release it, and wait until it has, or is dead.

    Raises:
        KernelError: it keeps the session.
        StoreError: it can't be asked.
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
                if answer is None:  # not asked yet, or another call has had its answer
                    await write(homes, home.name, record.id, "")
                await asyncio.sleep(ASK_EVERY)
                answer = (await requests(homes, home.name)).get(record.id)
    except TimeoutError:
        answer = "it does not answer"
    finally:
        await write(homes, home.name, record.id, None)
    raise KernelError(REFUSED.format(id=record.id, home=home.address, why=answer))


async def requested(homes: SessionLeases) -> list[str]:
    """The sessions that this copy is asked for, and that it has not refused yet.

    Raises:
        StoreError: that can't be known.
    """
    found = await requests(homes, homes.name)
    return [session_id for session_id, answer in found.items() if not answer]


async def refuse(homes: SessionLeases, session_id: str, why: str) -> None:
    """Answer that a session stays where it is.

    Raises:
        StoreError: that can't be said now.
    """
    await write(homes, homes.name, session_id, why)


async def requests(homes: SessionLeases, asked: str) -> dict[str, str]:
    """What a copy is asked for, with its answers; one key, since many would have to be listed."""
    found = await homes.store.get(REQUESTS, asked) or {}
    return {session_id: str(answer) for session_id, answer in found.items()}


async def write(homes: SessionLeases, asked: str, session_id: str, answer: str | None) -> None:
    """Write what a copy is asked for, or its answer; None removes both."""
    async with homes.store.lock(asked):
        found = await requests(homes, asked)
        found.pop(session_id, None)
        if answer is not None:
            found[session_id] = answer
        await homes.store.put(REQUESTS, asked, found, ttl=2 * ALIVE)


def reason_to_keep(session: Session) -> str:
    """Why a session can't be another copy's now; empty if it can."""
    if session.remote is None:
        return "its kernel is not on a Jupyter Server"
    if session.running:
        return f"cell {session.unfinished[0].number} is running"
    return "it was in use just now" if session.idle_for < QUIET else ""
