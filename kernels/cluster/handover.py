"""Moves a session between two living instances of the server.

The instance that is called asks through the store, and the one that has the session answers. This
happens when an instance returns or is added and the balancer redirects a caller. Knows requests
and answers; `takeover.py` releases sessions and takes them over.
"""

from __future__ import annotations

import asyncio

from ..errors import KernelError
from ..session import Session
from .instances import ALIVE, Instance, Instances
from .leases import Lease, SessionLeases

REQUESTS = "requests"  # collection in the store; key: the instance asked, value: answers by session
ASK_INTERVAL = 0.25  # seconds between polls for the answer
ANSWER_INTERVAL = 0.5  # seconds between polls for requests
QUIET = 2.0  # min idle seconds before a session may move, so alternating calls are refused


async def request_release(leases: SessionLeases, holder: Instance, lease: Lease) -> None:
    """Ask the instance that has a session to release it; waits until it has, or is dead.

    Raises:
        KernelError: that instance keeps the session.
        StoreError: that instance can't be asked.
    """
    instances, answer = leases.instances, None
    try:
        async with asyncio.timeout(2 * ALIVE):
            while not answer:
                now = await leases.find(lease.id)
                if now is None or (now.home, now.turn) != (lease.home, lease.turn):
                    return
                if await instances.get(holder.name) is None:
                    return
                if answer is None:  # not asked yet, or another call consumed the answer
                    await write(instances, holder.name, lease.id, "")
                await asyncio.sleep(ASK_INTERVAL)
                answer = (await requests(instances, holder.name)).get(lease.id)
    except TimeoutError:
        answer = "it does not answer"
    finally:
        await write(instances, holder.name, lease.id, None)
    raise KernelError(
        f"Session {lease.id} is open in another instance of this server ({holder.address}), which"
        f" keeps it: {answer}. Nothing was done; call again later, and have the load balancer send"
        " all calls of one caller to one instance, by the Authorization header"
        " (docs/clustering.md)."
    )


async def requests(instances: Instances, asked: str) -> dict[str, str]:
    """What an instance was asked for: session ids with its answers, empty if it has not answered.

    They share one key, since several keys would have to be listed.

    Raises:
        StoreError: the store can't be read.
    """
    found = await instances.store.get(REQUESTS, asked) or {}
    return {session_id: str(answer) for session_id, answer in found.items()}


async def refuse(instances: Instances, session_id: str, why: str) -> None:
    """Answer that a session stays in this instance.

    Raises:
        StoreError: the answer can't be written now.
    """
    await write(instances, instances.name, session_id, why)


async def write(instances: Instances, asked: str, session_id: str, answer: str | None) -> None:
    """Write a request to an instance (an empty answer) or its answer; None removes both."""
    async with instances.store.lock(asked):
        found = await requests(instances, asked)
        found.pop(session_id, None)
        if answer is not None:
            found[session_id] = answer
        await instances.store.put(REQUESTS, asked, found, ttl=2 * ALIVE)


def reason_to_keep(session: Session) -> str:
    """Why a session can't move to another instance now; empty if it can."""
    if session.remote is None:
        return "its kernel is not on a Jupyter Server"
    if session.running:
        return f"cell {session.runs.unfinished[0].number} is running"
    return "it was in use just now" if session.idle_for < QUIET else ""
