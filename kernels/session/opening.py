"""Opens sessions: on a fresh kernel, on a person's kernel, as a fork, or as another server left it.

Knows how a session gets its place, its kernel and its id; `registry.py` has the sessions that are
open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import string
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..addresses import PersonsKernel
from ..environments import Environment
from ..errors import CannotBranch, KernelError
from ..kernel import Kernel
from ..notebook import Signer
from ..telemetry import short, tracer
from .config import Handover
from .forking import handover_of, held_still
from .record import notebook_metadata
from .session import Session

if TYPE_CHECKING:
    from .registry import Sessions

log = logging.getLogger(__name__)

ID_LETTERS, ID_LENGTH = string.ascii_letters + string.digits, 16


def new_id() -> str:
    """An ID that can't be guessed and that no command takes for an option."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


class Opening:
    """Opens the sessions of one server.

    Args:
        sessions: those that are open; gets each new one.
        signer: signs their notebooks.
        became_idle: called with the principal whenever a session's last accepted run is over.
    """

    def __init__(
        self, sessions: Sessions, signer: Signer, became_idle: Callable[[str], None]
    ) -> None:
        self._sessions, self._pool = sessions, sessions.pool
        callbacks = (sessions.activity.set, became_idle)
        self._shared = (sessions.config, self._pool, sessions.supervisor, signer, *callbacks)

    async def fresh(
        self, principal: str, parent: str | None, environment: Environment | None
    ) -> Session:
        """Open a session on a fresh kernel; arguments and errors are those of `Sessions.open`."""

        async def on(kernel: Kernel, session_id: str) -> Session:
            session = Session(session_id, principal, kernel, *self._shared, environment=environment)
            if parent is not None:
                session.recorder.metadata["rmi_agent"]["parent"] = parent
            return session

        lease = functools.partial(self._pool.lease, principal, environment=environment)
        return await self._opened(principal, lease, on)

    async def joined(self, joined: PersonsKernel, principal: str) -> Session:
        """Open a session on a person's kernel; errors are those of `Sessions.join`."""

        async def on(kernel: Kernel, session_id: str) -> Session:
            session = Session(session_id, principal, kernel, *self._shared, joined=joined)
            session.recorder.metadata["rmi_agent"]["attached"] = joined.record
            return session

        lease = functools.partial(self._pool.lease, principal, join=joined)
        return await self._opened(principal, lease, on)

    async def fork(self, origin: Session) -> Session:
        """Open a session as a fork; errors are those of `Sessions.fork`.

        If the caller is cancelled, the session is closed once it is there.
        """
        supervisor = self._sessions.supervisor
        forking = supervisor.start(self._fork(origin), "forking a session", KernelError)
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(self._close_unwanted)
            raise

    async def _fork(self, origin: Session) -> Session:
        async def on(branch: Kernel, session_id: str) -> Session:
            metadata = notebook_metadata(session_id, origin.principal, branch, environment)
            forked_from = {"session": short(origin.id), "cell": origin.count}
            metadata["rmi_agent"]["forked_from"] = forked_from
            handover = await handover_of(origin, metadata, self._sessions.config.instance)
            return Session(
                session_id, origin.principal, branch, *self._shared, handover, environment
            )

        environment = origin.environment
        try:
            async with held_still(origin) as kernel:
                lease = functools.partial(self._pool.lease, origin.principal, branch_of=kernel)
                session = await self._opened(origin.principal, lease, on)
            session.recovery.copy_soon()
            return session
        except CannotBranch as error:
            raise CannotBranch(f"Session {origin.id} can't be forked. {error}") from error
        finally:
            origin.tell_idle()

    def _close_unwanted(self, forking: asyncio.Task[Session]) -> None:
        if not forking.cancelled() and forking.exception() is None:
            why = "the call that forked it was cancelled"
            self._sessions.close_soon(forking.result(), why)

    async def adopted(
        self, session_id: str, principal: str, kernel: Kernel | None, handover: Handover
    ) -> Session:
        """Open a session as another instance of the server left it.

        Raises:
            KernelError: every session of the principal is busy.
        """
        await self._sessions.quotas.take(principal)
        session = Session(session_id, principal, kernel, *self._shared, handover)
        self._sessions.ended.pop(session_id, None)
        self._sessions.by_id[session_id] = session
        log.info("A session was taken over", extra={"session": short(session_id)})
        return session

    async def _opened(
        self,
        principal: str,
        lease: Callable[[], Awaitable[Kernel]],
        on: Callable[[Kernel, str], Awaitable[Session]],
    ) -> Session:
        """Open a session: lease its kernel, and make the session `on` it, given its id."""
        sessions = self._sessions
        with contextlib.ExitStack() as undo:
            with tracer.start_as_current_span("kernel.lease"):
                await sessions.quotas.take(principal)
                undo.callback(sessions.quotas.give_back, principal)
                kernel = await lease()
                undo.callback(self._pool.retire, kernel)
            session = await on(kernel, new_id())
            undo.callback(session.recorder.close)
            await sessions.directory.announce(session)
            if sessions.stopping:  # shutdown began during this call
                raise KernelError("The server is shutting down.")
            undo.pop_all()
        sessions.by_id[session.id] = session
        sessions.activity.set()
        log.info("A session was opened", extra={"session": short(session.id)})
        return session
