"""The facts about a run, for programs: a result's structured content.

Knows runs; nothing of texts and pictures.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from ..plaintext import plain
from .written import NOTHING, Written

if TYPE_CHECKING:
    from ...kernels import Execution, Run

Status = Literal["ok", "error", "timeout", "interrupted", "running", "dead"]


class PytestFacts(BaseModel):
    """Results of pytest."""

    counts: dict[str, int] = Field(description="By pytest's category: passed, failed, …")
    failed: list[str] = Field(description="Node ids of failures; may be cut.")


class FileFacts(BaseModel):
    """A file that a run has written."""

    path: str
    bytes: int


class WrittenFacts(BaseModel):
    """What a run has written below the projects folders."""

    files: list[FileFacts] = Field(description="The first of them by name.")
    more: int = Field(description="How many others there are, at least.")


class RunFacts(BaseModel):
    """Facts about a run, for programs."""

    session_id: str = Field(description="Pass it to continue in this session.")
    cell: int = Field(description="The run's number in its session, for read_output.")
    execution_count: int | None = Field(description="Jupyter's In[n]; null if it was not counted.")
    status: Status = Field(
        description="error: the code failed. timeout, interrupted: the run was stopped."
        " running: it continues; follow it with read_output. dead: its process ended."
    )
    exit_code: int | None = Field(description="Exit code of a file, or of a kernel that died.")
    error_name: str | None = Field(description="Class name of the exception.")
    timed_out: bool
    state: Literal["kept", "lost"] = Field(description="lost: earlier variables are gone.")
    elapsed: float = Field(description="Running time in seconds.")
    truncated: bool = Field(description="Whether read_output has more text than this result.")
    notebook: str | None = Field(description="Path of the session's notebook.")
    tests: PytestFacts | None = None
    written: WrittenFacts | None = None


OPTIONAL = ("tests", "written")  # facts that are left out if there is nothing to say
RUN_SCHEMA = RunFacts.model_json_schema()


def facts_of(run: Run, truncated: bool, written: Written = NOTHING) -> RunFacts:
    """The facts of a finished run."""
    tests = run.tests
    return RunFacts(
        session_id=run.session_id,
        cell=run.number,
        execution_count=run.cell.execution_count,
        status=run.status,
        exit_code=run.exit_code,
        error_name=one_line(run.error_name),
        timed_out=run.timed_out,
        state=run.state,
        elapsed=run.elapsed,
        truncated=truncated,
        notebook=str(run.notebook) if run.notebook else None,
        tests=None if tests is None else PytestFacts(**asdict(tests)),
        written=written_facts(written),
    )


def written_facts(written: Written) -> WrittenFacts | None:
    """The facts about what was written; None if that is nothing."""
    if not written.files:
        return None
    files = [FileFacts(path=one.name, bytes=one.size) for one in written.files]
    return WrittenFacts(files=files, more=written.more)


def one_line(name: str | None) -> str | None:
    """An exception's name on one line; code may have put anything into it."""
    return name and " ".join(plain(name).split())[:200]


def facts_so_far(execution: Execution, truncated: bool) -> RunFacts:
    """The facts of an unfinished run."""
    return RunFacts(
        session_id=execution.session_id,
        cell=execution.number,
        execution_count=execution.cell.execution_count,
        status="running",
        exit_code=None,
        error_name=None,
        timed_out=False,
        state="kept",
        elapsed=round(execution.elapsed, 3),
        truncated=truncated,
        notebook=str(execution.notebook) if execution.notebook else None,
    )
