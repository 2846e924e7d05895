"""All open sessions: starts what they share, finds sessions, closes them.

A session belongs to the principal that opened it and does not exist for anybody else. No session
is evicted for a principal that has more sessions. Knows nothing of MCP; the principal is a plain
name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Self

from ..addresses import PersonsKernel
from ..environments import Environment
from ..errors import KernelError, SessionNotFoundError
from ..kernel import Kernel
from ..notebook import Run, RunsOnRecord, Signer, recover
from ..principals import LOCAL
from ..process import Launch, runtime_folder
from ..process_tree import Reaper
from ..sandbox import Policy
from ..supervision import Supervisor
from ..telemetry import short
from .closed_sessions import ClosedSession, ClosedSessions
from .config import Config, Handover
from .directory import Directory
from .environments import Environments
from .eviction import Eviction
from .launches import Launches
from .memory_limit import watch_memory
from .opening import Opening
from .pool import Pool
from .prune import prune_notebooks
from .quotas import Quotas
from .runs import Execution
from .session import Session
from .stepping_back import Restored, step_back

log = logging.getLogger(__name__)


class Sessions:
    """All open sessions. Use as `async with Sessions(...) as sessions`; leaving ends every kernel.

    Args:
        config: settings shared by all sessions.
        launch: how kernels start; its `runtime` is chosen here.
        policy: how each principal's kernels are sandboxed; None means no sandbox.
        expected: principals whose kernels are warmed from the start.
        warm: number of kernels kept ready.
        most: max number of kernels.
        room_timeout: max seconds that opening a session waits for room.
        most_each: max sessions of one principal; 0 means no limit but `most`.
        directory: lists the sessions for the other servers that share them.

    Attributes:
        by_id: the open sessions of all principals.
        activity: set whenever a session is opened or becomes busy.
        ended: the sessions that have ended, here or in another instance, as far as is known.
        environments: the environments that sessions can be opened in.
        stopping: whether the server is shutting down, so that no session may be opened.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch,
        warm: int = 2,
        most: int = 16,
        room_timeout: float = 30.0,
        most_each: int = 0,
        *,
        policy: Policy | None = None,
        expected: tuple[str, ...] = (LOCAL,),
        directory: Directory | None = None,
    ) -> None:
        self.directory = directory or Directory()
        self.config = replace(config, instance=self.directory.name)
        self.launch, self._policy, self._expected = launch, policy, expected
        self._sizes = (warm, most, room_timeout)
        self.by_id: dict[str, Session] = {}
        self.activity = asyncio.Event()
        self.ended = ClosedSessions()
        self.eviction = Eviction(self)
        self.quotas = Quotas(most_each, room_timeout, self.eviction.for_quota)
        self._on_record = RunsOnRecord()
        self._stack = contextlib.AsyncExitStack()
        self._closing: dict[str, asyncio.Task[None]] = {}  # by the session's id
        self.stopping = False
        self.supervisor = Supervisor("sessions")
        self.pool: Pool
        self.environments: Environments

    async def __aenter__(self) -> Self:
        async with self._stack:  # so that a failed start leaves nothing behind
            await self._start()
            self._stack = self._stack.pop_all()
        return self

    async def _start(self) -> None:
        peers = await self._stack.enter_async_context(self.directory.joined(self))
        for notebook in await asyncio.to_thread(
            recover, self.config.notebooks, peers.instances, peers.notebooks
        ):
            log.info("Repaired %s, which a crash had cut off", notebook)
        signer = await self._stack.enter_async_context(Signer())
        runtime, mark = runtime_folder(), secrets.token_hex(8)
        reaper = Reaper(mark, runtime)
        self._stack.push_async_callback(reaper.release)
        await self._stack.enter_async_context(self.supervisor)
        launches = Launches(self.launch, runtime, mark, self._policy, self.supervisor)
        self._stack.push_async_callback(asyncio.to_thread, launches.close)
        evict = self.eviction.for_kernel
        pool = Pool(launches.of, *self._sizes, evict, self._expected, launches.forget)
        self.pool = await self._stack.enter_async_context(pool)
        self.environments = Environments(
            lambda principal: pool.owners.of(principal).launch,
            lambda: [each.environment for each in self.by_id.values() if each.environment],
            runtime,
            self.supervisor,
            self.activity.set,
        )
        self._opening = Opening(self, signer, self._became_idle)
        self._stack.push_async_callback(self.close_all)
        self._stack.push_async_callback(self.directory.release_all)
        for watch, name in (
            (reaper.stay, "reaper"),
            (self.eviction.watch, "closing idle sessions"),
            (launches.watch, "retiring templates"),
            (functools.partial(watch_memory, self), "memory"),
            (functools.partial(prune_notebooks, self.config), "deleting old notebooks"),
        ):
            self._stack.callback(self.supervisor.watch(watch, name).cancel)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(
        self,
        principal: str = LOCAL,
        parent: str | None = None,
        environment: Environment | None = None,
    ) -> Session:
        """Open a session on a fresh kernel, in the default environment or in another one.

        Its notebook names the `parent` that it resumes.

        Raises:
            KernelError: every kernel, or every session of the principal, is busy.
            KernelStartError: no kernel could be started.
        """
        return await self._opening.fresh(principal, parent, environment)

    async def join(self, joined: PersonsKernel, principal: str = LOCAL) -> Session:
        """Open a session on a kernel that a person has open, which stays as it is.

        Raises:
            KernelError: every kernel, or every session of the principal, is busy.
            KernelStartError: the kernel does not answer.
        """
        return await self._opening.joined(joined, principal)

    async def fork(self, origin: Session) -> Session:
        """Open a session with all variables of another one, its cells so far, and its environment.

        If the caller is cancelled, the session is closed once it is there.

        Raises:
            CannotBranch: the session can't be forked; says why. It goes on as before.
            KernelError: every kernel, or every session of the principal, is busy.
        """
        return await self._opening.fork(origin)

    async def restore(self, session: Session, cell: int) -> Restored:
        """Take a session back to before a cell. Cancelling the caller does not stop this.

        Raises:
            CannotRestore: no checkpoint is kept from before it, or something runs; says why.
            KernelError: the session was closed in the meantime, or no kernel was available.
        """

        async def restore() -> Restored:
            try:
                return await step_back(session, cell)
            finally:
                session.tell_idle()

        return await asyncio.shield(self.supervisor.start(restore(), "stepping back", KernelError))

    async def adopt(
        self, session_id: str, principal: str, kernel: Kernel | None, handover: Handover
    ) -> Session:
        """Take over a session from another instance of the server.

        Raises:
            KernelError: every session of the principal is busy.
        """
        return await self._opening.adopted(session_id, principal, kernel, handover)

    async def release(self, session: Session) -> None:
        """Leave a session as it is to the other instances; it is no longer open here."""
        if self.by_id.pop(session.id, None) is not None:
            self.quotas.give_back(session.principal)
            kernel = await session.release()
            if kernel is not None:
                self.pool.detach(kernel)

    def _became_idle(self, principal: str) -> None:
        if principal in self.quotas.waiting:
            self.eviction.for_quota(principal)
        self.pool.notify()

    def known(self, session_id: str, principal: str = LOCAL) -> Session | ClosedSession:
        """A session of the principal, whether open or ended.

        Raises:
            SessionNotFoundError: the principal has and had no such session.
        """
        for known in (self.by_id.get(session_id), self.ended.get(session_id)):
            if known is not None and known.principal == principal:
                return known
        raise SessionNotFoundError(
            f"There is no session {session_id!r}. list_sessions shows those that are open;"
            " leave session_id out to open a new one."
        )

    def get(self, session_id: str, principal: str = LOCAL) -> Session:
        """An open session of the principal, by its id.

        Raises:
            SessionNotFoundError: the principal has no such open session; says what is known.
        """
        known = self.known(session_id, principal)
        if isinstance(known, Session):
            return known
        record = f" Its notebook is {known.notebook}; resume_session runs it again."
        raise SessionNotFoundError(
            f"Session {session_id} has ended: {known.why}.{record if known.notebook else ''}"
            " Leave session_id out to open a new one."
        )

    def execution(self, session_id: str, cell: int, principal: str = LOCAL) -> Execution | None:
        """A run that is still in memory; None if its session has ended or forgotten it.

        Args:
            session_id: the session.
            cell: the run's number; negative numbers count from the last run.
            principal: the caller.

        Raises:
            SessionNotFoundError: the principal has and had no such session.
        """
        known = self.known(session_id, principal)
        if isinstance(known, ClosedSession):
            return None
        number = cell if cell > 0 else known.count + 1 + cell
        return next((e for e in reversed(known.runs.executions) if e.number == number), None)

    async def on_record(self, session_id: str, cell: int, principal: str = LOCAL) -> Run | None:
        """A run of an open or ended session, read from its notebook; None if not recorded.

        Arguments and errors are those of `execution`.
        """
        known = self.known(session_id, principal)
        number = cell if cell > 0 else known.count + 1 + cell
        if known.notebook is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            return await self._on_record.run(known.notebook, session_id, number)
        return None

    def all(self, principal: str = LOCAL) -> list[Session]:
        """The principal's open sessions, the oldest first."""
        return [s for s in self.by_id.values() if s.principal == principal]

    def counted(self) -> tuple[int, int]:
        """The numbers of busy and of idle sessions, of all principals."""
        busy = sum(session.busy for session in self.by_id.values())
        return busy, len(self.by_id) - busy

    def recording(self, notebook: Path) -> Session | None:
        """The open session, of any principal, that is being recorded in a notebook."""
        return next((s for s in self.by_id.values() if s.notebook == notebook), None)

    def unfinished(self, principal: str = LOCAL) -> list[Execution]:
        """The principal's running and queued runs."""
        return [run for session in self.all(principal) for run in session.runs.unfinished]

    async def close(self, session: Session, why: str = "it was closed") -> None:
        """End a session; its notebook stays. Cancelling the caller does not stop this."""
        await asyncio.shield(self.close_soon(session, why))

    def close_soon(self, session: Session, why: str) -> asyncio.Task[None]:
        """Stop listing a session as open and close it in the returned task."""
        if session.id in self._closing:
            return self._closing[session.id]
        if self.by_id.pop(session.id, None) is not None:
            log.info("The session has ended: %s", why, extra={"session": short(session.id)})
            path = session.recorder.path
            self.ended.note(session.id, ClosedSession(session.principal, why, path, session.count))
            self.quotas.give_back(session.principal)
        task = self.supervisor.start(self._end(session, why), "closing a session")
        self._closing[session.id] = task
        task.add_done_callback(lambda _: self._closing.pop(session.id))
        if session.kernel is not None:
            self.pool.reserve(session.kernel, task)
        return task

    async def _end(self, session: Session, why: str) -> None:
        try:
            await session.close(why)
        finally:
            await self.directory.tell_end(session, why)

    async def close_all(self) -> None:
        """End all sessions, stop their runs, and open no more. Idempotent."""
        self.stopping = True
        for session in list(self.by_id.values()):
            self.close_soon(session, "the server was stopped")
        if self._closing:
            await asyncio.wait(self._closing.values())
