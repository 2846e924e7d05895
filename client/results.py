"""What comes of a run, typed: read from a tool's result as it came over the wire.

Knows the layout of results and their facts; nothing of connections or terminals.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

from mcp_types import CallToolResult


@dataclass(frozen=True)
class Picture:
    """A picture that came with a result."""

    mime_type: str
    data: bytes


@dataclass(frozen=True)
class RunResult:
    """What came of a run; `str()` of it is the text that a model reads.

    Attributes:
        text: stdout, stderr, value or traceback, exit code, notes; cut if it is long.
        stdout, stderr, value: those parts alone, whole.
        notes: what the server says besides, one bracketed line each.
        status: ok, error, timeout, interrupted, running or dead.
        exit_code: of a file: as `subprocess` has it (negative: by that signal).
        state: `lost` when variables from before are gone.
        elapsed: seconds.
        notebook: the file that records the session, on the server's machine.
    """

    text: str
    stdout: str
    stderr: str
    value: str
    notes: str
    pictures: tuple[Picture, ...]
    session_id: str
    cell: int
    execution_count: int | None
    status: str
    exit_code: int | None
    error_name: str | None
    timed_out: bool
    state: str
    elapsed: float
    truncated: bool
    notebook: str | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ResumeResult:
    """What came of a record that ran again; `str()` of it is the text that a model reads.

    Attributes:
        text: how many cells ran, and what each gave that the record has not.
        session_id: the session that goes on from there.
        status: ended, stopped, or running where it still goes on.
        parent: the record's name.
        notebook: the file that records the new session, on the server's machine.
        ran, total: how many cells of the record have run, and were to.
        skipped: the numbers of those that were left out.
        different: `cell` and `what` of each that gave something else.
    """

    text: str
    session_id: str
    status: str
    parent: str
    notebook: str | None
    ran: int
    total: int
    skipped: list[int]
    different: list[dict[str, Any]]

    def __str__(self) -> str:
        return self.text

    @property
    def same(self) -> bool:
        """Whether all of it ran, as the record has it."""
        return self.status == "ended" and self.ran == self.total and not self.different


def texts(raw: CallToolResult) -> str:
    """The text of a result."""
    return "\n".join(block.text for block in raw.content if block.type == "text")


def pictures(raw: CallToolResult) -> tuple[Picture, ...]:
    """The pictures of a result."""
    return tuple(
        Picture(block.mime_type, base64.b64decode(block.data))
        for block in raw.content
        if block.type == "image"
    )


def run_result(raw: CallToolResult) -> RunResult:
    """A typed result from what came over the wire."""
    text = texts(raw)
    meta = (raw.meta or {}).get("rmi_agent", {"sections": {}, "shown": 0})
    parts = {name: text[start:end] for name, (start, end) in meta["sections"].items()}
    return RunResult(
        text=text,
        stdout=parts.get("stdout", ""),
        stderr=parts.get("stderr", ""),
        value=parts.get("value", ""),
        notes=text[meta["shown"] :].strip("\n"),
        pictures=pictures(raw),
        **(raw.structured_content or {}),
    )


def with_parts(result: RunResult, text: str, parts: dict[str, str]) -> RunResult:
    """The result with whole parts, gathered over several pages."""
    return replace(
        result,
        text=text,
        stdout=parts.get("stdout", ""),
        stderr=parts.get("stderr", ""),
        value=parts.get("value", ""),
    )
