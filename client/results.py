"""Typed results of runs, parsed from a tool's raw result.

Knows the layout of results and their facts; nothing about connections or terminals.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_types import CallToolResult


@dataclass(frozen=True)
class Picture:
    """A picture that came with a result."""

    mime_type: str
    data: bytes


@dataclass(frozen=True)
class RunResult:
    """The result of a run; `str()` of it is the text that a model reads.

    Attributes:
        text: stdout, stderr, value or traceback, exit code and notes; truncated if long.
        stdout, stderr, value: each of these parts alone, in full.
        notes: the server's remarks, one bracketed line each.
        status: ok, error, timeout, interrupted, running or dead.
        exit_code: of a file run, as in `subprocess` (negative: killed by that signal).
        state: `lost` if earlier variables are gone.
        elapsed: duration in seconds.
        notebook: the file that records the session, on the server's machine.
        tests: of a run of pytest: `counts` by its categories, and the node ids that `failed`.
        written: what the run has written, if it is known: `files`, each with its `path` and
            `bytes`, and how many `more` there are.
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
    tests: dict[str, Any] | None = field(default=None, kw_only=True)
    written: dict[str, Any] | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class NotebookResult(RunResult):
    """The result of running a notebook: that of the cell it stopped at, and what it did.

    Attributes:
        path: the notebook's file, relative to the projects folder.
        ran, total: how many of its cells have run, and how many should run.
        first_cell: the first cell's number in the session; `cell` is the last one's.
        failed_cell: the place in the file, from 1, of the cell it stopped at; None if it did not.
        picture_counts: number of pictures, by cell of the session.
    """

    path: str
    ran: int
    total: int
    first_cell: int
    failed_cell: int | None
    picture_counts: dict[int, int]


@dataclass(frozen=True)
class ResumeResult:
    """The result of rerunning a record; `str()` of it is the text that a model reads.

    Attributes:
        text: how many cells ran, and how their results differ from the record.
        session_id: the new session, which continues from there.
        status: ended, stopped, or running if it still goes on.
        parent: the record's name.
        notebook: the file that records the new session, on the server's machine.
        ran, total: how many of the record's cells have run, and how many should run.
        skipped: the numbers of the cells that were skipped.
        different: `cell` and `what` of each cell whose result differs.
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
        """Whether all cells ran with the same results as in the record."""
        return self.status == "ended" and self.ran == self.total and not self.different


def texts(raw: CallToolResult) -> str:
    """The text blocks of a raw result, joined."""
    return "\n".join(block.text for block in raw.content if block.type == "text")


def pictures(raw: CallToolResult) -> tuple[Picture, ...]:
    """The pictures of a raw result, decoded."""
    return tuple(
        Picture(block.mime_type, base64.b64decode(block.data))
        for block in raw.content
        if block.type == "image"
    )


def sections(text: str, meta: dict[str, Any]) -> dict[str, Any]:
    """A text's stdout, stderr and value, from the positions in the result's metadata."""
    positions = meta["sections"]
    names = ("stdout", "stderr", "value")
    return {name: text[slice(*positions.get(name, (0, 0)))] for name in names}


def run_result(raw: CallToolResult) -> RunResult:
    """Parse a raw result into a typed one."""
    return RunResult(**parts(raw), **known(raw, RunResult))


def notebook_result(raw: CallToolResult) -> NotebookResult:
    """Parse the raw result of a notebook into a typed one."""
    facts = known(raw, NotebookResult)
    counts = {int(cell): count for cell, count in facts.pop("pictures").items()}
    return NotebookResult(**parts(raw), **facts, picture_counts=counts)


def parts(raw: CallToolResult) -> dict[str, Any]:
    """What a result shows: its text as a whole and in parts, and its pictures."""
    text = texts(raw)
    meta = (raw.meta or {}).get("rmi_agent", {"sections": {}, "shown": 0})
    return {
        "text": text,
        **sections(text, meta),
        "notes": text[meta["shown"] :].strip("\n"),
        "pictures": pictures(raw),
    }


def known(raw: CallToolResult, kind: type[RunResult]) -> dict[str, Any]:
    """A result's facts, as far as its type has them: a newer server may send more."""
    names = {each.name for each in fields(kind)}
    facts = raw.structured_content or {}
    return {name: value for name, value in facts.items() if name in names}
