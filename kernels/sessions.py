"""All open sessions: opening, finding, closing, and making room.

A session belongs to the principal that opened it; for anybody else it does not exist.
Knows nothing of MCP; the principal is a plain name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from .errors import SessionNotFoundError
from .execution import Execution, Run
from .journal import recover
from .pool import Pool
from .process import Launch, ipython_folder
from .runtime import runtime_folder
from .sandbox import Policy
from .session import Config, Session, run_on_record
from .templates import TEMPLATES
from .watchdog import Watchdog

log = logging.getLogger(__name__)

MEMORY_TICK = 0.1  # seconds; a process can take half a gigabyte in that


@dataclass(frozen=True)
class Ended:
    """What is left of a session: why it ended and where its notebook is."""

    principal: str
    why: str
    notebook: Path | None
    count: int


class Sessions:
    """Use as `async with Sessions(...) as sessions`; leaving ends every kernel.

    Args:
        config: what all sessions have in common.
        launch: how kernels start; its `runtime` is chosen here.
        policy: the sandboxes that they start in, one for each principal; None is none.
        expected: principals for whom kernels are warm from the beginning.
        warm: kernels kept ready.
        most: kernels at the same time.
        patience: seconds that an opening waits for room.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch,
        warm: int = 2,
        most: int = 16,
        patience: float = 30.0,
        *,
        policy: Policy | None = None,
        expected: tuple[str, ...] = ("local",),
    ) -> None:
        self.config, self.policy, self._expected = config, policy, expected
        self._launch, self._sizes = launch, (warm, most, patience)
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._stack = contextlib.AsyncExitStack()
        self._closing: set[asyncio.Task[None]] = set()
        self.pool: Pool

    async def __aenter__(self) -> Self:
        for notebook in await asyncio.to_thread(recover, self.config.notebooks):
            log.info("%s was cut off by a crash and is put right", notebook)
        runtime, mark = runtime_folder(), secrets.token_hex(8)
        self._stack.push_async_callback(Watchdog(mark, runtime).release)
        own = {"IPYTHONDIR": str(ipython_folder(runtime / "ipython"))}
        self._stack.push_async_callback(asyncio.to_thread, TEMPLATES.close, **own)
        launch = replace(self._launch, runtime=runtime, mark=mark, env={**self._launch.env, **own})
        warm, most, patience = self._sizes
        launch_for = functools.partial(self._launch_for, launch, runtime)
        owners = {self._owner(principal) for principal in self._expected}
        self.pool = await self._stack.enter_async_context(
            Pool(launch_for, warm, most, patience, self._evict, owners)
        )
        self._stack.push_async_callback(self._close_all)
        for watch in (self._reap(), self._watch_memory()):
            self._stack.callback(asyncio.create_task(watch).cancel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, principal: str = "local") -> Session:
        """A new session on a fresh kernel.

        Raises:
            PoolExhaustedError: every kernel is busy.
            KernelStartError: none could be started.
        """
        lease = functools.partial(self.pool.lease, self._owner(principal))
        kernel = await lease()
        session = Session(
            secrets.token_urlsafe(12),
            principal,
            self.config,
            kernel,
            lease,
            self.pool.retire,
            self.pool.room_may_come,
        )
        self._open[session.id] = session
        return session

    def _launch_for(self, launch: Launch, runtime: Path, principal: str) -> Launch:
        """How a principal's kernels start."""
        return self.policy.sandbox(principal, runtime).launch(launch) if self.policy else launch

    def _owner(self, principal: str) -> str:
        """Whose warm kernels may serve a principal: its own, or anybody's without a sandbox."""
        return principal if self.policy else ""

    def get(self, session_id: str, principal: str = "local") -> Session:
        """An open session by its id.

        Raises:
            SessionNotFoundError: there is none, or it is another's; says what is known.
        """
        session = self._open.get(session_id)
        if session is not None and session.principal == principal:
            return session
        ended = self._ended.get(session_id)
        if ended is not None and ended.principal == principal:
            record = f" Its notebook is {ended.notebook}." if ended.notebook else ""
            raise SessionNotFoundError(
                f"Session {session_id} has ended: {ended.why}.{record}"
                " Leave session_id out to open a new one."
            )
        raise SessionNotFoundError(
            f"There is no session {session_id!r}. list_sessions shows those that are open;"
            " leave session_id out to open a new one."
        )

    def execution(self, session_id: str, cell: int, principal: str = "local") -> Execution | None:
        """A run that is still in memory; None if its session has ended or forgotten it.

        Raises:
            SessionNotFoundError: there was no such session, as far as the asker may know.
        """
        ended = self._ended.get(session_id)
        if ended is not None and ended.principal == principal:
            return None
        return self.get(session_id, principal).execution(cell)

    async def on_record(self, session_id: str, cell: int, principal: str = "local") -> Run | None:
        """A run of an open or ended session, read from its notebook; None if it is not there.

        Args:
            session_id: the session.
            cell: the run's number; negative ones count from the last.
            principal: the asker.

        Raises:
            SessionNotFoundError: there was no such session, as far as the asker may know.
        """
        known: Ended | Session | None = self._ended.get(session_id)
        if known is None or known.principal != principal:
            known = self.get(session_id, principal)
        path = known.notebook if isinstance(known, Ended) else known.recorder.path
        number = cell if cell > 0 else known.count + 1 + cell
        if path is None or not path.exists():
            return None
        text = path.read_text("utf-8")  # not in a thread: it would see half of what is written
        return await asyncio.to_thread(run_on_record, text, path, session_id, number)

    def all(self, principal: str = "local") -> list[Session]:
        """The principal's open sessions, the longest open first."""
        return [s for s in self._open.values() if s.principal == principal]

    async def close(self, session: Session, why: str = "it was closed") -> None:
        """End a session; its notebook stays. A caller that is cancelled does not stop it."""
        await asyncio.shield(self._close_soon(session, why))

    async def _close(self, session: Session, why: str) -> None:
        if self._open.pop(session.id, None) is None:
            return
        self._ended[session.id] = Ended(
            session.principal, why, session.recorder.path, session.count
        )
        while len(self._ended) > 1000:
            self._ended.popitem(last=False)
        await session.close(why)

    def _evict(self) -> bool:
        """Close the session that is missed least: idle file runs first, then the longest idle."""
        idle = [session for session in self._open.values() if not session.busy]
        if not idle:
            return False
        least = max(idle, key=lambda s: (s.only_files and s.count > 0, s.idle_for))
        self._close_soon(least, "it was idle and a new one needed its kernel (KERNEL_MAX)")
        return True

    async def _reap(self) -> None:
        """Close sessions that nobody has used for `Config.idle` seconds."""
        if not self.config.idle:
            return
        while True:
            await asyncio.sleep(min(5.0, self.config.idle / 4))
            for session in list(self._open.values()):
                if session.idle_for > self.config.idle:
                    self._close_soon(
                        session, f"nobody used it for {self.config.idle:g} s (SESSION_IDLE)"
                    )

    async def _watch_memory(self) -> None:
        """Hold busy sessions to their memory limit, and idle ones now and then."""
        tick = 0
        while self.config.memory_limit:
            await asyncio.sleep(MEMORY_TICK)
            tick += 1
            for number, session in enumerate(list(self._open.values())):
                if session.busy or (tick + number) % 10 == 0:  # never all at once
                    await session.watch_memory()

    def _close_soon(self, session: Session, why: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._close(session, why))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close_all(self) -> None:
        tasks = [self.close(s, "the server was stopped") for s in list(self._open.values())]
        await asyncio.gather(*tasks, *self._closing)
