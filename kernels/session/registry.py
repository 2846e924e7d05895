"""All open sessions: opening, finding, closing, and making room.

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
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..addresses import JupyterServer
from ..errors import KernelError, SessionNotFoundError
from ..fork import TEMPLATES
from ..kernel import Kernel
from ..notebook import Run, RunsOnRecord, recover
from ..process import Launch, ipython_folder, runtime_folder
from ..process_tree import Reaper
from ..sandbox import Policy
from ..supervision import Supervisor
from ..telemetry import short, tracer
from .directory import Alone, Directory
from .execution import Execution
from .memory_limit import MemoryLimit
from .pool import Pool
from .quotas import LOCAL, Quotas
from .session import Config, Handover, Session

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClosedSession:
    """What is remembered of a closed session: why it ended and where its notebook is."""

    principal: str
    why: str
    notebook: Path | None
    count: int


class Sessions:
    """All open sessions. Use as `async with Sessions(...) as sessions`; leaving ends every kernel.

    Args:
        config: settings shared by all sessions.
        launch: how kernels start; its `runtime` is chosen here.
        policy: how each principal's kernels are sandboxed; None means no sandbox.
        expected: principals whose kernels are warmed from the start.
        warm: number of kernels kept ready.
        most: max number of kernels.
        patience: max seconds that opening a session waits for room.
        most_each: max sessions of one principal; 0 means no limit but `most`.
        directory: lists the sessions for the other servers that share them.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch,
        warm: int = 2,
        most: int = 16,
        patience: float = 30.0,
        most_each: int = 0,
        *,
        policy: Policy | None = None,
        expected: tuple[str, ...] = (LOCAL,),
        directory: Directory | None = None,
    ) -> None:
        self.directory: Directory = directory or Alone()
        self.config = replace(config, copy=self.directory.name)
        self.policy, self._expected = policy, expected
        self._launch, self._sizes = launch, (warm, most, patience)
        self.quotas = Quotas(most_each, patience, self._evict_own)
        self._profiles: set[str] = set()  # IPython folders of all kernels possibly started
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, ClosedSession] = OrderedDict()
        self._on_record = RunsOnRecord()
        self._stack = contextlib.AsyncExitStack()
        self._closing: dict[str, asyncio.Task[None]] = {}  # by the session's id
        self._stopping = False
        self.supervisor = Supervisor("sessions")
        self.pool: Pool

    async def __aenter__(self) -> Self:
        async with self._stack:  # so that a failed start leaves nothing behind
            await self._start()
            self._stack = self._stack.pop_all()
        return self

    async def _start(self) -> None:
        known = await self._stack.enter_async_context(self.directory.joined(self))
        for notebook in await asyncio.to_thread(
            recover, self.config.notebooks, known.copies, known.notebooks
        ):
            log.info("%s was cut off by a crash and is put right", notebook)
        runtime, mark = runtime_folder(), secrets.token_hex(8)
        watchdog = Reaper(mark, runtime)
        self._stack.push_async_callback(watchdog.release)
        await self._stack.enter_async_context(self.supervisor)
        own = {"IPYTHONDIR": str(ipython_folder(runtime / "ipython"))}
        self._stack.push_async_callback(asyncio.to_thread, self._close_templates)
        # Inside the runtime folder, so that a killed template's leftovers are removed with it.
        overrides: dict[str, str | None] = {"TMPDIR": tempfile.mkdtemp(dir=runtime)}
        launch = replace(
            self._launch,
            runtime=runtime,
            mark=mark,
            env={**self._launch.env, **own},
            template_overrides=overrides,
        )
        warm, most, patience = self._sizes
        launch_for = functools.partial(self._launch_for, launch, runtime)
        self.pool = await self._stack.enter_async_context(
            Pool(launch_for, warm, most, patience, self._evict, self._expected, self._forget)
        )
        self._stack.push_async_callback(self._close_all)
        self._stack.push_async_callback(self.directory.release_all)
        for watch, name in (
            (watchdog.stay, "watchdog"),
            (self._reap, "closing idle sessions"),
            (MemoryLimit(self).watch, "memory"),
        ):
            self._stack.callback(self.supervisor.watch(watch, name).cancel)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, principal: str = LOCAL, parent: str | None = None) -> Session:
        """Open a session on a fresh kernel; its notebook names the `parent` that it resumes.

        Raises:
            KernelError: every kernel, or every session of the principal, is busy.
            KernelStartError: no kernel could be started.
        """
        with tracer.start_as_current_span("kernel.lease"):
            await self.quotas.take(principal)
            try:
                kernel = await self.pool.lease(principal)
            except BaseException:
                self.quotas.give_back(principal)
                raise
        session = self._made(secrets.token_urlsafe(12), principal, kernel)
        if parent is not None:
            session.recorder.metadata["rmi_agent"]["parent"] = parent
        try:
            await self.directory.announce(session)
        except BaseException:
            self.pool.retire(kernel)
            self.quotas.give_back(principal)
            raise
        if self._stopping:  # shutdown began during this call
            self.pool.retire(kernel)
            self.quotas.give_back(principal)
            raise KernelError("The server is shutting down.")
        self._open[session.id] = session
        log.info("A session is open", extra={"session": short(session.id)})
        return session

    async def adopt(
        self, session_id: str, principal: str, kernel: Kernel | None, begun: Handover
    ) -> Session:
        """Take over a session from another copy of the server.

        Raises:
            KernelError: every session of the principal is busy.
        """
        await self.quotas.take(principal)
        session = self._made(session_id, principal, kernel, begun)
        self._ended.pop(session_id, None)
        self._open[session_id] = session
        log.info("A session is taken over", extra={"session": short(session_id)})
        return session

    async def release(self, session: Session) -> None:
        """Leave a session as it is to the other copies of the server; it is no longer open here."""
        if self._open.pop(session.id, None) is not None:
            self.quotas.give_back(session.principal)
            kernel = await session.release()
            if kernel is not None:
                self.pool.detach(kernel)

    def note_end(self, session_id: str, ended: ClosedSession) -> None:
        """Remember how a session ended, here or in another copy of the server."""
        self._ended[session_id] = ended
        while len(self._ended) > 1000:
            self._ended.popitem(last=False)

    @property
    def open_ids(self) -> Collection[str]:
        """The ids of all sessions open here, of every principal."""
        return self._open.keys()

    @property
    def everyones(self) -> Collection[Session]:
        """All sessions open here, of every principal."""
        return self._open.values()

    def by_id(self, session_id: str) -> Session | None:
        """An open session of any principal; ownership is not checked."""
        return self._open.get(session_id)

    def has_ended(self, session_id: str) -> bool:
        """Whether this server knows how a session ended."""
        return session_id in self._ended

    @property
    def servers(self) -> tuple[JupyterServer, ...]:
        """The Jupyter Servers that kernels run on."""
        return self._launch.servers

    def _made(
        self, session_id: str, principal: str, kernel: Kernel | None, begun: Handover | None = None
    ) -> Session:
        return Session(
            session_id,
            principal,
            self.config,
            kernel,
            functools.partial(self.pool.lease, principal),
            self.pool.retire,
            functools.partial(self._became_idle, principal),
            supervisor=self.supervisor,
            begun=begun,
            changed=self.directory.note,
        )

    def _launch_for(self, launch: Launch, runtime: Path, principal: str) -> Launch:
        """How a principal's kernels start, sandboxed if there is a policy."""
        made = self.policy.sandbox(principal, runtime).launch(launch) if self.policy else launch
        self._profiles.add(made.env["IPYTHONDIR"])
        return made

    def _close_templates(self) -> None:
        """Close the templates of our kernels, found by their IPython profiles."""
        for profile in self._profiles:
            TEMPLATES.close(IPYTHONDIR=profile)

    def _forget(self, launch: Launch) -> None:
        """Remove what was made for a principal's kernels, once none of them is left."""
        profile = launch.env["IPYTHONDIR"]
        self._profiles.discard(profile)

        def remove() -> None:
            TEMPLATES.close(IPYTHONDIR=profile)
            if self.policy is None:
                return
            folder = launch.runtime.parent  # stays, so that its name is not reused
            tmp = self.policy.homes / "tmp" / folder.parent.name / folder.name
            (folder / "x").chmod(0o700)
            for each in (*folder.iterdir(), tmp):
                shutil.rmtree(each, ignore_errors=True)
                each.unlink(missing_ok=True) if each.is_file() else None

        self.supervisor.start(asyncio.to_thread(remove), "removing a sandbox")

    def _became_idle(self, principal: str) -> None:
        if self.quotas.is_wanting(principal):
            self._evict_own(principal)
        self.pool.notify()

    def get(self, session_id: str, principal: str = LOCAL) -> Session:
        """An open session of the principal, by its id.

        Raises:
            SessionNotFoundError: the principal has no such open session; says what is known.
        """
        session = self._open.get(session_id)
        if session is not None and session.principal == principal:
            return session
        ended = self._ended.get(session_id)
        if ended is not None and ended.principal == principal:
            record = (
                f" Its notebook is {ended.notebook}; resume_session runs it again."
                if ended.notebook
                else ""
            )
            raise SessionNotFoundError(
                f"Session {session_id} has ended: {ended.why}.{record}"
                " Leave session_id out to open a new one."
            )
        raise SessionNotFoundError(
            f"There is no session {session_id!r}. list_sessions shows those that are open;"
            " leave session_id out to open a new one."
        )

    def execution(self, session_id: str, cell: int, principal: str = LOCAL) -> Execution | None:
        """A run that is still in memory; None if its session has ended or forgotten it.

        Raises:
            SessionNotFoundError: the principal has and had no such session.
        """
        ended = self._ended.get(session_id)
        if ended is not None and ended.principal == principal:
            return None
        return self.get(session_id, principal).execution(cell)

    async def on_record(self, session_id: str, cell: int, principal: str = LOCAL) -> Run | None:
        """A run of an open or ended session, read from its notebook; None if not recorded.

        Args:
            session_id: the session.
            cell: the run's number; negative numbers count from the last run.
            principal: the caller.

        Raises:
            SessionNotFoundError: the principal has and had no such session.
        """
        known: ClosedSession | Session | None = self._ended.get(session_id)
        if known is None or known.principal != principal:
            known = self.get(session_id, principal)
        path = known.notebook if isinstance(known, ClosedSession) else known.recorder.path
        number = cell if cell > 0 else known.count + 1 + cell
        if path is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            return await self._on_record.run(path, session_id, number)
        return None

    def notebook(self, session_id: str, principal: str = LOCAL) -> Path | None:
        """The notebook of an open or ended session; None if nothing ran in it.

        Raises:
            SessionNotFoundError: the principal has and had no such session.
        """
        ended = self._ended.get(session_id)
        if ended is not None and ended.principal == principal:
            return ended.notebook
        return self.get(session_id, principal).recorder.path

    def all(self, principal: str = LOCAL) -> list[Session]:
        """The principal's open sessions, the oldest first."""
        return [s for s in self._open.values() if s.principal == principal]

    def counted(self) -> tuple[int, int]:
        """The numbers of busy and of idle sessions, of all principals."""
        busy = sum(session.busy for session in self._open.values())
        return busy, len(self._open) - busy

    def recording(self, notebook: Path) -> Session | None:
        """The open session, of any principal, that is being recorded in a notebook."""
        return next((s for s in self._open.values() if s.recorder.path == notebook), None)

    def unfinished(self, principal: str = LOCAL) -> list[Execution]:
        """The principal's running and queued runs."""
        return [run for session in self.all(principal) for run in session.unfinished]

    async def close(self, session: Session, why: str = "it was closed") -> None:
        """End a session; its notebook stays. Cancelling the caller does not stop this."""
        await asyncio.shield(self._close_soon(session, why))

    def _evict(self, asker: str) -> bool:
        """Close one idle session for a new one of `asker`; False if none can be closed.

        Principals with the most sessions make room first, and those with fewer than the asker
        never do. So the shares become more even, and nobody is pushed out.
        """
        held = self.quotas.held
        idle = [
            session
            for session in self._open.values()
            if not session.busy
            and session.kernel is not None
            and held(session.principal) + 1 >= held(asker)
        ]
        if not idle:
            return False
        least = max(idle, key=lambda s: (held(s.principal), s.principal == asker, *missed(s)))
        self._close_soon(
            least, "it was idle and a new one needed its kernel (RMI_AGENT_KERNEL_MAX)"
        )
        return True

    def _evict_own(self, principal: str) -> None:
        """Close the principal's least missed idle session, if there is one."""
        if idle := [session for session in self.all(principal) if not session.busy]:
            why = (
                "it was idle and a new one of yours needed its place (RMI_AGENT_SESSIONS_PER_USER)"
            )
            self._close_soon(max(idle, key=missed), why)

    async def _reap(self) -> None:
        """Close sessions that have been idle for more than `Config.idle` seconds."""
        if not self.config.idle:
            return
        while True:
            await asyncio.sleep(min(5.0, self.config.idle / 4))
            for session in list(self._open.values()):
                if session.idle_for > self.config.idle:
                    self._close_soon(
                        session,
                        f"nobody used it for {self.config.idle:g} s (RMI_AGENT_SESSION_IDLE)",
                    )

    def _close_soon(self, session: Session, why: str) -> asyncio.Task[None]:
        """Stop listing a session as open and close it in the returned task."""
        if session.id in self._closing:
            return self._closing[session.id]
        if self._open.pop(session.id, None) is not None:
            log.info("The session has ended: %s", why, extra={"session": short(session.id)})
            self.note_end(
                session.id,
                ClosedSession(session.principal, why, session.recorder.path, session.count),
            )
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

    async def _close_all(self) -> None:
        self._stopping = True
        tasks = [self._close_soon(s, "the server was stopped") for s in [*self._open.values()]]
        if tasks := [*tasks, *self._closing.values()]:
            await asyncio.wait(tasks)


def missed(session: Session) -> tuple[bool, float]:
    """Sort key, largest for the least missed: first file-only sessions, then by idle time."""
    return session.only_files and session.count > 0, session.idle_for
