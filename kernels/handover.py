"""A session that moves between two copies of the server which both live.

The one that is called asks by the store, and the one that has the session answers: a balancer
leads a caller elsewhere when a copy is back or one is added. Knows requests and answers; how a
session is released and taken over is `shared.py`'s.
"""

from __future__ import annotations

import asyncio

from .errors import KernelError
from .homes import ALIVE, Copy, Homes, Record, key
from .session import Session

REQUESTS = "wanted"  # the store's collection
ASK_EVERY = 0.25  # seconds between two looks for the answer
ANSWER_EVERY = 0.5  # seconds between two looks for requests
QUIET = 2.0  # seconds for which a session stays where it was used: calls that alternate are refused
REFUSED = (
    "Session {id} is open in another copy of this server ({home}), which keeps it: {why}. Nothing"
    " was done; call again later, and have the load balancer send all calls of one caller to one"
    " copy, by the Authorization header (docs/clustering.md)."
)


async def released(homes: Homes, home: Copy, record: Record) -> None:
    """Ask the copy that has a session to release it, and wait until it has, or is dead.

    Raises:
        KernelError: it keeps the session.
        StoreError: it can't be asked.
    """
    name, answer = key(record.id), None
    try:
        async with asyncio.timeout(2 * ALIVE):
            while await homes.copy(home.name) is not None:
                now = await homes.find(record.id)
                if now is None or (now.home, now.turn) != (record.home, record.turn):
                    return
                if answer is None:  # not asked yet, or another call has had its answer
                    await homes.store.put(REQUESTS, name, {"session": record.id}, ttl=ALIVE)
                await asyncio.sleep(ASK_EVERY)
                answer = await homes.store.get(REQUESTS, name)
                if answer and "refused" in answer:
                    break
            else:
                return
    except TimeoutError:
        answer = None
    finally:
        await homes.store.delete(REQUESTS, name)
    why = str(answer["refused"]) if answer else "it does not answer"
    raise KernelError(REFUSED.format(id=record.id, home=home.address, why=why))


async def requested(homes: Homes) -> list[str]:
    """The sessions that some copy asks for, and that are not refused yet.

    Raises:
        StoreError: that can't be known.
    """
    values = [await homes.store.get(REQUESTS, one) for one in await homes.store.keys(REQUESTS)]
    return [str(one.get("session")) for one in values if one is not None and "refused" not in one]


async def refuse(homes: Homes, session_id: str, why: str) -> None:
    """Answer that a session stays where it is.

    Raises:
        StoreError: that can't be said now.
    """
    await homes.store.put(REQUESTS, key(session_id), {"refused": why}, ttl=ALIVE)


def reason_to_keep(session: Session) -> str:
    """Why a session can't be another copy's now; empty if it can."""
    if session.remote is None:
        return "its kernel is not on a Jupyter Server"
    if session.running:
        return f"cell {session.unfinished[0].number} is running"
    return "it was in use just now" if session.idle_for < QUIET else ""
