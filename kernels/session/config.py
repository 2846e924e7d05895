"""What sessions are opened with: the settings that all share, and the state of a former session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ..environments import Environment
from ..notebook import Recorder
from ..protocol import Failure


@dataclass(frozen=True)
class Failed:
    """A run whose code failed.

    Attributes:
        session_id, principal: its session, and whose that is.
        is_file: whether it ran a file.
        failures: the exception that ended it, and those behind it.
        environment: what it ran in; None is the default one.
        folder: where the file or module is that the session ran last; None if it ran none.
    """

    session_id: str
    principal: str
    is_file: bool
    failures: tuple[Failure, ...]
    environment: Environment | None = None
    folder: Path | None = None


async def no_hint(_: Failed) -> str:
    """Hint at nothing."""
    return ""


@dataclass(frozen=True)
class Config:
    """Settings shared by all sessions.

    Attributes:
        notebooks: the folder where notebooks are recorded.
        timeout: default time limit of a run, in seconds.
        output_limit: bytes that a cell may output before it is interrupted; 0 means no limit.
        idle: seconds after which an idle session is closed; 0 means never.
        memory_limit: max total resident bytes of a session's processes; 0 means no limit.
        hint: finds what a caller should know of a failed run's cause; empty if nothing.
        instance: the name of this instance of the server, if several share the notebooks.
        crash_recovery: whether a session goes on with its variables after its kernel has died.
        keep: seconds after which a record that is no longer open is deleted; 0 means never.
    """

    notebooks: Path
    timeout: float = 30.0
    output_limit: int = 10_000_000
    idle: float = 1800.0
    memory_limit: int = 0
    hint: Callable[[Failed], Awaitable[str]] = no_hint
    instance: str = ""
    keep: float = 0.0
    crash_recovery: bool = False


@dataclass(frozen=True)
class Handover:
    """A session as another instance of the server left it.

    Attributes:
        turn: how many times the session has been taken over.
        count: the number of its last cell.
        recorder: continues its notebook; None if it has no notebook.
        note: tells about the takeover, in the next result.
        lost: why its variables are gone; empty if they are still there.
        fresh: whether nothing has run in it.
    """

    turn: int = 0
    count: int = 0
    recorder: Recorder | None = None
    note: str = ""
    lost: str = ""
    fresh: bool = False
