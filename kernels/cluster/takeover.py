"""Sessions shared by several copies of a server: where each one is, and who takes over.

Keeps the records of this copy's sessions up to date, finds the home of other sessions, and
becomes their home if it is gone. Knows nothing of calls, nor of how they are routed to a copy.
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

from nbformat import NotebookNode

from ..addresses import JupyterServer, RemoteKernel
from ..errors import DeadKernelError, KernelError, ServerError, StoreError
from ..jupyter_server import Api, server_of
from ..kernel import Kernel
from ..notebook import Recorder, is_open
from ..session import ClosedSession, Elsewhere, Handover, Peers, Session, Sessions
from ..supervision import Supervisor
from ..telemetry import short
from .adopted_run import AdoptedRun
from .handover import ANSWER_EVERY, reason_to_keep, refuse, released, requested
from .leases import BEAT, Lease, SessionLeases

log = logging.getLogger(__name__)

WRITE_EVERY = 1.0  # min seconds between writes of a session's record, so it may lag by as much
ATTACH = 20.0  # max seconds for a kernel that should be idle to answer
FIRST_LOOK = 0.5  # max seconds to wait for the end of a left-over run before adopting it
LOOKS = 10  # max attempts to find where a session is, while copies come and go
LEAVING = (
    "This copy of the server is being stopped. Nothing was done; call again, and another copy has"
    " the session."
)


class Takeover:
    """The `Directory` of sessions that several copies share.

    Args:
        homes: knows which copy has which session.
    """

    _sessions: Sessions  # this copy's sessions, set by `joined`

    def __init__(self, homes: SessionLeases) -> None:
        self.homes, self.name = homes, homes.name
        self._dirty: set[str] = set()
        self._writing: set[str] = set()
        # A lock lives as long as a task holds it or waits for it.
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Supervisor("shared sessions")
        self._leaving = False

    @contextlib.asynccontextmanager
    async def joined(self, sessions: Sessions) -> AsyncIterator[Peers]:
        """Take part as one of the copies while the context is open.

        Raises:
            StoreError: the store can't be used.
        """
        self._sessions = sessions
        async with self.homes, self._tasks:
            self.homes.on_lapse = self._look_after_mine
            self._tasks.watch(self._reap_orphans, "ending sessions that nobody asks for")
            self._tasks.watch(self._hand_over, "handing sessions over")
            records = await self.homes.all()
            yield Peers(await self.homes.copies(), {record.notebook for record in records})

    # -- this copy's sessions

    async def announce(self, session: Session) -> None:
        """Announce a new session to the other copies.

        Raises:
            StoreError: the store can't be used now.
        """
        with failures_explained():
            await self.homes.write(self._record(session))

    def note(self, session: Session) -> None:
        """Schedule a write of a session's record after a change."""
        self._dirty.add(session.id)
        if session.id not in self._writing and not self._leaving:
            self._writing.add(session.id)
            self._tasks.start(self._write(session), "writing a session's record")

    async def _write(self, session: Session) -> None:
        try:
            while session.id in self._dirty and not session.closed:
                self._dirty.discard(session.id)
                try:
                    if not await self.homes.write(self._record(session)):
                        await self._give_up(session)
                    await asyncio.sleep(WRITE_EVERY)
                except StoreError:  # the heartbeat logs it
                    self._dirty.add(session.id)
                    await asyncio.sleep(BEAT)
        finally:
            self._dirty.discard(session.id)
            self._writing.discard(session.id)

    async def tell_end(self, session: Session, why: str) -> None:
        """Tell the other copies why a session ended."""
        try:
            await self.homes.write(replace(self._record(session), ended=why))
        except StoreError as error:
            log.warning("The other copies don't know that a session has ended: %s", error)

    def _record(self, session: Session) -> Lease:
        remote = session.remote
        running = next(iter(session.unfinished), None)
        path = session.recorder.path
        return Lease(
            id=session.id,
            principal=session.principal,
            home=self.homes.name,
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

    async def _look_after_mine(self) -> None:
        """Give up sessions that another copy has taken over, and record the others again.

        Raises:
            StoreError: the store can't be read.
        """
        for session_id in list(self._sessions.open_ids):
            record = await self.homes.find(session_id)
            session = self._sessions.by_id(session_id)
            if session is None:
                continue
            if record is not None and record.turn != session.turn:
                await self._give_up(session)
            elif record is None:  # the store has lost its contents
                self.note(session)

    async def _give_up(self, session: Session) -> None:
        log.warning(
            "Another copy has taken this session over: this one was silent for too long.",
            extra={"session": short(session.id)},
        )
        await self._sessions.release(session)

    async def release_all(self) -> None:
        """Release all sessions whose kernels outlive this copy; takes over none from now on."""
        self._leaving = True
        for session_id in list(self._sessions.open_ids):
            session = self._sessions.by_id(session_id)
            if session is None or session.remote is None or session.closed:
                continue
            try:
                await self.homes.write(await self._release(session))
            except StoreError as error:
                log.warning("The other copies learn later that a session is free: %s", error)

    async def _release(self, session: Session) -> Lease:
        """Detach from a session without ending it; returns a record without a home."""
        record = replace(self._record(session), home="")
        await self._sessions.release(session)
        return record

    async def _hand_over(self) -> None:
        """Answer other copies that ask for sessions of this one."""
        while True:
            await asyncio.sleep(ANSWER_EVERY)
            with contextlib.suppress(StoreError):  # the heartbeat logs it
                for session_id in await requested(self.homes):
                    await self._answer(session_id)

    async def _answer(self, session_id: str) -> None:
        session = self._sessions.by_id(session_id)
        if session is not None and (why := reason_to_keep(session)):
            return await refuse(self.homes, session_id, why)
        if session is not None:
            log.warning(
                "This session moves to another copy, which its caller's calls come to. If that"
                " happens often, see docs/clustering.md about the load balancer.",
                extra={"session": short(session_id)},
            )
            record = await self._release(session)
        else:
            found = await self.homes.find(session_id)
            if found is None or found.home != self.name or session_id in self._taking:
                return
            if self._sessions.has_ended(session_id):
                return
            record = replace(found, home="")  # released earlier, when the store did not answer
        await self.homes.write(record)

    # -- finding a session

    async def open_here(self, session_id: str, principal: str) -> None:
        """Make sure a session is open here, taking it over if another copy had it.

        A session that is unknown, has ended or belongs to another principal is left alone.

        Raises:
            KernelError: another copy keeps it open, or it can't be taken over now.
        """
        for _ in range(LOOKS):
            with failures_explained():
                if session_id in self._sessions.open_ids:
                    if self.homes.sure:
                        return
                    await self.homes.beat()
                    await self._look_after_mine()
                    continue
                if self._sessions.has_ended(session_id):
                    return
                record = await self.homes.find(session_id)
                if record is None or record.principal != principal:
                    return
                if record.ended:
                    self._note_end(record)
                    return
                if self._leaving:
                    raise KernelError(LEAVING)
                home = await self.homes.copy(record.home)
                if home is not None and home.name != self.name:
                    await released(self.homes, home, record)
                await self._take_over(record)
        raise KernelError("The session moves between copies of the server. Call again in a second.")

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """The principal's sessions that are not open here.

        Raises:
            StoreError: the store can't be read.
        """
        with failures_explained():
            return [
                Elsewhere(
                    record.id,
                    record.busy > 0,
                    record.cells,
                    0.0 if record.busy else time.time() - record.used,
                    self._path(record),
                )
                for record in await self.homes.all()
                if record.principal == principal and record.id not in self._sessions.open_ids
            ]

    # -- taking over

    async def _take_over(self, record: Lease) -> None:
        async with self._taking.setdefault(record.id, asyncio.Lock()):
            if record.id in self._sessions.open_ids:
                return
            mine = await self.homes.claim(record)
            if mine is None:  # another copy was faster
                return
            try:
                await self._bring_here(mine)
            except BaseException:
                await self.homes.write(replace(mine, home=""))
                raise

    async def _bring_here(self, mine: Lease) -> None:
        """Attach to a session's kernel and continue its notebook.

        Raises:
            KernelError: the kernel can't be attached to now.
        """
        recorder, cells, problem = await self._notebook(mine)
        left = cells[-1] if cells and is_open(cells[-1]) else None
        last = max((int(c.metadata.get("rmi_agent", {}).get("cell", 0)) for c in cells), default=0)
        if left is not None:  # the record may lag by one run
            last = max(last + 1, mine.busy)
        remote = RemoteKernel(mine.server, mine.kernel, mine.process)
        attaching = self._sessions.supervisor.start(
            self._attached(mine.principal, remote), "attaching to a kernel", KernelError
        )
        try:
            kernel, lost = await self._looked_at(attaching, FIRST_LOOK if left else ATTACH)
            if kernel is None and not lost and left is None:
                raise KernelError(
                    "The session's kernel is busy with something that is not on record, and did"
                    f" not answer within {ATTACH:g} s. Call again."
                )
            begun = Handover(
                turn=mine.turn,
                count=max(last, mine.cells),
                recorder=recorder,
                news=news(mine, last, left, problem),
                lost=lost if left is None else "",
            )
            session = await self._sessions.adopt(
                mine.id, mine.principal, kernel if left is None else None, begun
            )
        except BaseException:
            if recorder is not None:
                recorder.close()
            attaching.add_done_callback(self._unwanted)
            attaching.cancel()
            raise
        if left is not None:
            servers = self._sessions.servers
            run = AdoptedRun(
                session.id,
                last,
                left,
                session.displays,
                mine.until or time.time() + self._sessions.config.timeout,
                attaching,
                lambda: asked(remote, servers, "interrupt"),
                lambda: asked(remote, servers, "delete"),
            )
            session.adopt(run, run.end)
        self.note(session)

    async def _attached(self, principal: str, remote: RemoteKernel) -> Kernel:
        if not remote.url:
            raise DeadKernelError(
                "It was a process of a copy of the server that has gone, and went with it."
            )
        return await self._sessions.pool.lease(principal, attach=remote)

    async def _looked_at(
        self, attaching: asyncio.Task[Kernel], seconds: float
    ) -> tuple[Kernel | None, str]:
        """The kernel, if it answers in time; and, if it is gone for good, the reason."""
        await asyncio.wait({attaching}, timeout=seconds)
        if not attaching.done():
            return None, ""
        try:
            return attaching.result(), ""
        except KernelError as error:
            if not is_gone(error):
                raise
            return None, f"The session's kernel is gone. {error}"

    def _unwanted(self, attaching: asyncio.Task[Kernel]) -> None:
        if not attaching.cancelled() and attaching.exception() is None:
            self._sessions.pool.detach(attaching.result())

    async def _notebook(self, mine: Lease) -> tuple[Recorder | None, list[NotebookNode], str]:
        """A recorder that continues a session's notebook, its cells, and what prevented that."""
        if not mine.notebook:
            return None, [], ""
        config = self._sessions.config
        path = config.notebooks / mine.notebook
        try:
            recorder, cells = await asyncio.to_thread(Recorder.going_on, path, config.copy)
        except (OSError, ValueError) as error:
            log.warning("A notebook can't be gone on with: %s: %s", path, error)
            return None, [], f"{mine.notebook} can't be gone on with ({error})"
        return recorder, cells, ""

    def _note_end(self, record: Lease) -> None:
        self._sessions.note_end(
            record.id,
            ClosedSession(record.principal, record.ended, self._path(record), record.cells),
        )

    def _path(self, record: Lease) -> Path | None:
        return self._sessions.config.notebooks / record.notebook if record.notebook else None

    # -- orphaned sessions

    async def _reap_orphans(self) -> None:
        """End sessions whose copy is gone, once they have been idle for `Config.idle` seconds."""
        idle = self._sessions.config.idle
        while idle:
            await asyncio.sleep(min(60.0, max(1.0, idle / 4)))
            try:
                copies = await self.homes.copies()
                for record in await self.homes.all():
                    if record.home not in copies and time.time() - record.used > idle:
                        await self._end_orphan(record, idle)
            except KernelError as error:
                log.warning("Sessions that nobody asks for could not be ended: %s", error)

    async def _end_orphan(self, record: Lease, idle: float) -> None:
        try:
            await self._take_over(record)
            await self._end_idle(record.id, idle)
        except Exception as error:  # still end the other orphans
            log.warning("A session that nobody asks for could not be ended: %r", error)

    async def _end_idle(self, session_id: str, idle: float) -> None:
        session = self._sessions.by_id(session_id)
        if session is not None and not session.busy:
            await self._sessions.close(
                session, f"nobody used it for {idle:g} s (RMI_AGENT_SESSION_IDLE)"
            )


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
    """Reword a `StoreError` to say what it means for the caller."""
    try:
        yield
    except StoreError as error:
        raise StoreError(
            "The store that all copies of this server share can't be used now"
            f" (RMI_AGENT_SESSION_STORE): {error}. Nothing was done, and sessions stay as they are;"
            " try again in a moment."
        ) from None


def is_gone(error: BaseException) -> bool:
    """Whether a kernel that can't be attached to no longer exists, rather than is unreachable."""
    # A server that is unreachable, or no longer in our settings, may still have it.
    why = error.__cause__
    there_no_more = isinstance(why, ServerError) and why.status == 404
    return there_no_more or isinstance(why, DeadKernelError) or isinstance(error, DeadKernelError)


async def asked(remote: RemoteKernel, servers: tuple[JupyterServer, ...], what: str) -> None:
    """Ask a kernel's Jupyter Server to interrupt or delete the kernel."""
    api = Api(server_of(remote.url, servers))
    try:
        await (api.interrupt if what == "interrupt" else api.delete)(remote.kernel_id)
    except ServerError as error:
        log.warning("A kernel could not be stopped: %s", error)
    finally:
        await api.close()


def news(mine: Lease, last: int, left: NotebookNode | None, problem: str) -> str:
    """What the next result says about the takeover of its session."""
    said = []
    if left is not None:
        said.append(
            f"The copy of the server that ran cell {last} has gone meanwhile. Its kernel went on"
            " with the cell; what that printed since, and how it ended, is not known here."
        )
    if mine.cells > last:
        lost = (
            f"Cell {last + 1} was"
            if mine.cells == last + 1
            else (f"Cells {last + 1} to {mine.cells} were")
        )
        said.append(f"{lost} queued in a copy of the server that has gone, and never ran.")
    if problem:
        said.append(f"{problem}: recording goes on in a new notebook.")
    return " ".join(said)
