"""All open sessions: opening, finding, closing, and making room.

A session belongs to the principal that opened it; for anybody else it does not exist.
Knows nothing of MCP; the principal is a plain name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import platformdirs
import psutil

from .errors import SessionNotFoundError
from .execution import Execution, Run
from .journal import recover
from .pool import Pool
from .process import Launch
from .session import Config, Session, run_on_record
from .templates import TEMPLATES
from .watchdog import Watchdog

log = logging.getLogger(__name__)

MEMORY_TICK = 0.1  # seconds; a process can take half a gigabyte in that
LONGEST_FOLDER = 60  # bytes; a socket's path may have 103, and 36 of our own come behind


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
        warm: kernels kept ready.
        most: kernels at the same time.
        patience: seconds that an opening waits for room.
    """

    def __init__(
        self, config: Config, launch: Launch, warm: int = 2, most: int = 16, patience: float = 30.0
    ) -> None:
        self.config = config
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
        own = {"IPYTHONDIR": str(ipython_folder(runtime))}
        self._stack.push_async_callback(asyncio.to_thread, TEMPLATES.close, **own)
        launch = replace(self._launch, runtime=runtime, mark=mark, env={**self._launch.env, **own})
        warm, most, patience = self._sizes
        self.pool = await self._stack.enter_async_context(
            Pool(launch, warm, most, patience, evict=self._evict)
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
        kernel = await self.pool.lease()
        session = Session(
            secrets.token_urlsafe(12),
            principal,
            self.config,
            kernel,
            self.pool.lease,
            self.pool.retire,
            self.pool.room_may_come,
        )
        self._open[session.id] = session
        return session

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


def runtime_folder() -> Path:
    """A private folder for this process's sockets and connection files, with a short path.

    Folders that dead processes have left beside it are removed.
    """
    with warnings.catch_warnings():  # without XDG_RUNTIME_DIR it warns, and then chooses well
        warnings.simplefilter("ignore")
        base = Path(platformdirs.user_runtime_dir("rmi-agent"))
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(base, os.W_OK)
    except OSError:
        usable = False
    # Windows has no socket files, so there the length does not matter.
    if sys.platform != "win32" and (not usable or len(os.fsencode(base)) > LONGEST_FOLDER):
        base = Path(tempfile.gettempdir(), f"rmi-agent-{os.getuid()}")
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if base.stat().st_uid != os.getuid():  # somebody else was there first
            base = Path(tempfile.mkdtemp(prefix="rmi-agent-"))
    for old in base.glob("*-*"):
        pid = old.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))


def ipython_folder(runtime: Path) -> Path:
    """An IPython profile of the kernels' own: no history file, none of the user's start-up code."""
    profile = runtime / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text(
        "c.HistoryManager.hist_file = ':memory:'\n", "utf-8"
    )
    return profile.parent
