"""Sessions shared by several instances of a server: where each one is, and who takes over.

Keeps the leases of this instance's sessions up to date, finds who has the other sessions, and takes
over those whose instance has gone. Knows nothing of calls, nor of how they reach an instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import KernelError, StoreError
from ..session import ClosedSession, Directory, Elsewhere, Peers, Session, Sessions
from ..supervision import Supervisor
from ..telemetry import short
from .adoption import adopt
from .handover import ANSWER_INTERVAL, reason_to_keep, refuse, request_release, requests
from .instances import BEAT, Instances
from .leases import Lease, SessionLeases

log = logging.getLogger(__name__)

WRITE_INTERVAL = 1.0  # min seconds between writes of a session's lease, which may lag by as much
ATTEMPTS = 10  # to find where a session is, while instances come and go


class Takeover(Directory):
    """The `Directory` of sessions that several instances share."""

    _sessions: Sessions  # this instance's sessions, set by `joined`

    def __init__(self, instances: Instances) -> None:
        self.instances, self.name = instances, instances.name
        self.leases = SessionLeases(instances)
        self._dirty: set[str] = set()
        self._writing: set[str] = set()
        # A lock lives as long as a task holds it or waits for it.
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Supervisor("shared sessions")
        self._leaving = False

    @contextlib.asynccontextmanager
    async def joined(self, sessions: Sessions) -> AsyncIterator[Peers]:
        """Take part as one of the instances while the context is open.

        Raises:
            StoreError: the store can't be used.
        """
        self._sessions = sessions
        async with self.instances, self._tasks:
            self.instances.on_lapse = self._check_own
            self._tasks.watch(self._end_orphans, "ending orphaned sessions")
            self._tasks.watch(self._answer_requests, "handing sessions over")
            leases = await self.leases.all()
            yield Peers(await self.instances.all(), {lease.notebook for lease in leases})

    # -- this instance's sessions

    async def announce(self, session: Session) -> None:
        """Announce a new session to the other instances.

        Raises:
            StoreError: the store can't be used now.
        """
        with explained():
            await self.leases.write(self._lease(session))
        session.on_change = self.note

    def note(self, session: Session) -> None:
        """Schedule a write of a session's lease after a change."""
        self._dirty.add(session.id)
        if session.id not in self._writing and not self._leaving:
            self._writing.add(session.id)
            self._tasks.start(self._write(session), "writing a session's lease")

    async def _write(self, session: Session) -> None:
        try:
            while session.id in self._dirty and not session.closed:
                self._dirty.discard(session.id)
                try:
                    if not await self.leases.write(self._lease(session)):
                        await self._give_up(session)
                    await asyncio.sleep(WRITE_INTERVAL)
                except StoreError:  # the heartbeat logs it
                    self._dirty.add(session.id)
                    await asyncio.sleep(BEAT)
        finally:
            self._dirty.discard(session.id)
            self._writing.discard(session.id)

    async def tell_end(self, session: Session, why: str) -> None:
        """Tell the other instances why a session ended."""
        try:
            await self.leases.write(replace(self._lease(session), ended=why))
        except StoreError as error:
            log.warning("The end of a session was not stored for the other instances: %s", error)

    def _lease(self, session: Session) -> Lease:
        remote = session.remote
        running = next(iter(session.runs.unfinished), None)
        path = session.recorder.path
        return Lease(
            id=session.id,
            principal=session.principal,
            home=self.name,
            turn=session.turn,
            server=remote.url if remote else "",
            kernel=remote.kernel_id if remote else "",
            process=remote.process if remote else "",
            notebook=path.name if path else "",
            cells=session.count,
            busy=running.number if running else 0,
            until=running.until if running else 0.0,
            used=time.time() - session.idle_for,
        )

    async def _check_own(self) -> None:
        """Give up sessions that another instance has taken over, and store the others again.

        Raises:
            StoreError: the store can't be read.
        """
        for session_id in list(self._sessions.by_id):
            lease = await self.leases.find(session_id)
            session = self._sessions.by_id.get(session_id)
            if session is None:
                continue
            if lease is not None and lease.turn != session.turn:
                await self._give_up(session)
            elif lease is None:  # the store has lost its contents
                self.note(session)

    async def _give_up(self, session: Session) -> None:
        log.warning(
            "Another instance has taken this session over: this one was silent for too long.",
            extra={"session": short(session.id)},
        )
        await self._sessions.release(session)

    async def release_all(self) -> None:
        """Release all sessions whose kernels outlive this instance; takes over none from now on."""
        self._leaving = True
        for session_id in list(self._sessions.by_id):
            session = self._sessions.by_id.get(session_id)
            if session is None or session.remote is None or session.closed:
                continue
            try:
                await self.leases.write(await self._release(session))
            except StoreError as error:
                log.warning("The other instances learn later that a session is free: %s", error)

    async def _release(self, session: Session) -> Lease:
        """Detach from a session without ending it; returns the lease to write, held by nobody."""
        lease = replace(self._lease(session), home="")
        await self._sessions.release(session)
        return lease

    async def _answer_requests(self) -> None:
        """Answer other instances that ask for sessions of this one."""
        while True:
            await asyncio.sleep(ANSWER_INTERVAL)
            with contextlib.suppress(StoreError):  # the heartbeat logs it
                for session_id, answer in (await requests(self.instances, self.name)).items():
                    if not answer:
                        await self._answer(session_id)

    async def _answer(self, session_id: str) -> None:
        session = self._sessions.by_id.get(session_id)
        if session is not None and (why := reason_to_keep(session)):
            return await refuse(self.instances, session_id, why)
        if session is not None:
            log.warning(
                "This session moves to another instance, which received a call for it. If that"
                " happens often, see docs/clustering.md about the load balancer.",
                extra={"session": short(session_id)},
            )
            free = await self._release(session)
        else:
            lease = await self.leases.find(session_id)
            if lease is None or lease.home != self.name or session_id in self._taking:
                return
            if session_id in self._sessions.ended:
                return
            free = replace(lease, home="")  # released earlier, when the store could not be used
        await self.leases.write(free)

    # -- other sessions

    async def open_here(self, session_id: str, principal: str) -> None:
        """Make sure a session is open here, taking it over if another instance had it.

        A session that is unknown, has ended or belongs to another principal is left alone.

        Raises:
            KernelError: another instance keeps it open, or it can't be taken over now.
        """
        for _ in range(ATTEMPTS):
            with explained():
                if session_id in self._sessions.by_id:
                    if self.instances.is_alive:
                        return
                    await self.instances.beat()
                    await self._check_own()
                    continue
                if session_id in self._sessions.ended:
                    return
                lease = await self.leases.find(session_id)
                if lease is None or lease.principal != principal:
                    return
                if lease.ended:
                    ended = ClosedSession(principal, lease.ended, self._path(lease), lease.cells)
                    self._sessions.ended.note(session_id, ended)
                    return
                if self._leaving:
                    raise KernelError(
                        "This server instance is shutting down and did nothing. Call again:"
                        " another instance takes the session over."
                    )
                holder = await self.instances.get(lease.home)
                if holder is not None and holder.name != self.name:
                    await request_release(self.leases, holder, lease)
                await self._take_over(lease)
        raise KernelError("The session is moving between server instances. Call again in a second.")

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """The principal's sessions that are not open here.

        Raises:
            StoreError: the store can't be read.
        """
        with explained():
            return [
                Elsewhere(
                    lease.id,
                    lease.busy > 0,
                    lease.cells,
                    0.0 if lease.busy else time.time() - lease.used,
                    self._path(lease),
                )
                for lease in await self.leases.all()
                if lease.principal == principal and lease.id not in self._sessions.by_id
            ]

    async def _take_over(self, lease: Lease) -> None:
        async with self._taking.setdefault(lease.id, asyncio.Lock()):
            if lease.id in self._sessions.by_id:
                return
            mine = await self.leases.claim(lease)
            if mine is None:  # another instance was faster
                return
            try:
                session = await adopt(self._sessions, mine)
                session.on_change = self.note
                self.note(session)
            except BaseException:
                await self.leases.write(replace(mine, home=""))
                raise

    def _path(self, lease: Lease) -> Path | None:
        return self._sessions.config.notebooks / lease.notebook if lease.notebook else None

    async def _end_orphans(self) -> None:
        """End sessions whose instance is gone, once they have been idle for `Config.idle` s."""
        idle = self._sessions.config.idle
        while idle:
            await asyncio.sleep(min(60.0, max(1.0, idle / 4)))
            try:
                living = await self.instances.all()
                for lease in await self.leases.all():
                    if lease.home not in living and time.time() - lease.used > idle:
                        await self._end_orphan(lease, f"nobody used it for {idle:g} s")
            except KernelError as error:
                log.warning("Orphaned sessions could not be ended: %s", error)

    async def _end_orphan(self, lease: Lease, why: str) -> None:
        try:
            await self._take_over(lease)
            session = self._sessions.by_id.get(lease.id)
            if session is not None and not session.busy:
                await self._sessions.close(session, f"{why} (RMI_AGENT_SESSION_IDLE)")
        except Exception as error:  # still end the other orphans
            log.warning("An orphaned session could not be ended: %r", error)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Reword a `StoreError` to say what it means for the caller."""
    try:
        yield
    except StoreError as error:
        raise StoreError(
            "The store that all instances of this server share can't be used now"
            f" (RMI_AGENT_SESSION_STORE): {error}. Nothing was done, and sessions stay as they are;"
            " try again in a moment."
        ) from None
