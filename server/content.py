"""From a run to what a model reads: one text in a fixed layout, pictures, small facts.

Knows nbformat cells and MCP content; nothing of kernels at work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from fastmcp.tools import ToolResult
from mcp_types import ContentBlock, ImageContent, TextContent
from nbformat import NotebookNode
from pydantic import BaseModel, Field

from ..kernels import Execution, Run
from .budget import budgeted

PAGE = 20_000  # characters that read_output gives unless it is asked for more or less
PICTURES = 8  # in one result
PICTURES_SIZE = 2_700_000  # base64 characters of them all: 2 MB
PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# What JSON may carry but terminals and models stumble over.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Status = Literal["ok", "error", "timeout", "interrupted", "running", "dead"]


class RunFacts(BaseModel):
    """What a program may want to know of a run."""

    session_id: str = Field(description="Pass it on to go on in this session.")
    cell: int = Field(description="The run's number in its session, for read_output.")
    execution_count: int | None = Field(description="Jupyter's In[n]; null if it never counted.")
    status: Status = Field(
        description="error: the code failed. timeout, interrupted: it was stopped."
        " running: it goes on, read_output follows it. dead: its process ended."
    )
    exit_code: int | None = Field(description="Of a file, or of a kernel that ended.")
    error_name: str | None = Field(description="The exception's class.")
    timed_out: bool
    state: Literal["kept", "lost"] = Field(description="lost: variables from before are gone.")
    elapsed: float = Field(description="Seconds.")
    truncated: bool = Field(description="Whether read_output has more text than this result.")
    notebook: str | None = Field(description="The file that this session is recorded in.")


RUN_SCHEMA = RunFacts.model_json_schema()


@dataclass
class Layout:
    """A run's text in the layout of results, and where its parts are."""

    text: str = ""
    sections: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        """Add a part on a line of its own."""
        if not text:
            return
        if self.text and not self.text.endswith("\n"):
            self.text += "\n"
        start = len(self.text)
        self.text += text
        self.sections[name] = (start, len(self.text))


def plain(text: str) -> str:
    """Text without terminal escapes and control characters."""
    return (
        CONTROLS.sub("", ESCAPES.sub("", text)) if "\x1b" in text or CONTROLS.search(text) else text
    )


def layout(cell: NotebookNode, exit_code: int | None = None, *, over: bool = True) -> Layout:
    """Stdout and displays, stderr, the value or traceback, the exit code.

    `over` is false while the run goes on: then only what can't change any more is here.
    """
    shown: list[str] = []
    stderr: list[str] = []
    last: list[str] = []
    for output in cell.outputs:
        kind = output.output_type
        if kind == "stream":
            (stderr if output.name == "stderr" else shown).append(plain(output.text))
        elif kind == "error":
            last.append(
                plain("\n".join(output.traceback) or f"{output.ename or 'Error'}: {output.evalue}")
            )
        elif text := readable(output.data):
            (last if kind == "execute_result" else shown).append(plain(text).rstrip("\n") + "\n")
    result = Layout()
    result.add("stdout", "".join(shown))
    if over:
        if text := "".join(stderr):
            result.add("heading", "--- stderr ---\n")
            result.add("stderr", text)
        result.add("value", "".join(last))
        if not result.text:
            result.add("empty", "(No output)" + ("\n" if exit_code is not None else ""))
        if exit_code is not None:
            result.add("exit", f"[Process exited with code {exit_code}]")
    return result


def readable(data: dict[str, Any]) -> str:
    """A mimebundle's text; none where it is a picture, which is sent as one."""
    if any(kind in data for kind in PICTURE_TYPES):
        return ""
    for kind in ("text/plain", "text/markdown", "text/latex", "text/html"):
        if isinstance(text := data.get(kind), str):
            return text
    return "".join(f"[{kind}: in the notebook]\n" for kind in data)


def pictures(run: Run) -> tuple[list[ImageContent], str]:
    """The run's pictures, as many as a result may have, and where the others are."""
    found = [
        (kind, output.data[kind].replace("\n", ""))
        for output in run.cell.outputs
        if output.output_type in ("display_data", "execute_result")
        for kind in PICTURE_TYPES
        if isinstance(output.data.get(kind), str)
    ]
    images: list[ImageContent] = []
    left = PICTURES_SIZE
    for kind, data in found:
        if len(images) < PICTURES and len(data) <= left:
            left -= len(data)
            images.append(ImageContent(type="image", data=data, mime_type=kind))
    if missing := len(found) - len(images):
        where = f"notebook://{run.session_id}"
        return images, f"{missing} of {len(found)} pictures are left out: they are in {where}"
    return images, ""


def run_result(execution: Execution, budget: int) -> ToolResult:
    """The result of a run, whether it is over or goes on; `budget` is in characters."""
    if not execution.task.done():
        return running_result(execution, budget)
    run: Run = execution.task.result()
    whole = layout(run.cell, exit_code_shown(run))
    text, truncated = budgeted(whole.text, budget, run.session_id, run.number)
    images, note = pictures(run)
    notes = [*run.notes, *([note] if note else [])]
    return tool_result(facts_of(run, truncated), text, notes, images, whole)


def exit_code_shown(run: Run) -> int | None:
    """Files end with an exit code; cells have none."""
    return run.reply.exit_code if run.is_file else None


def running_result(execution: Execution, budget: int) -> ToolResult:
    """The output so far of a run that goes on."""
    whole = layout(execution.outputs.settled(), over=False)
    text, truncated = budgeted(whole.text, budget, execution.session.id, execution.number)
    doing = "is queued behind another run" if execution.status == "queued" else "still runs"
    notes = [
        *stderr_so_far(execution),
        *asks(execution),
        f"The run {doing} after {execution.elapsed:.1f} s and goes on by itself."
        f" read_output(session_id={execution.session.id!r}, cell={execution.number},"
        f" offset={len(whole.text)}, wait=40) follows it; interrupt_session stops it.",
    ]
    return tool_result(facts_so_far(execution, truncated), text, notes, [], whole)


def running_page(execution: Execution, offset: int, limit: int) -> ToolResult:
    """What a run that goes on has put out, from `offset`, at most `limit` characters."""
    whole = layout(execution.outputs.settled(), over=False)
    text = whole.text[offset : offset + limit]
    end = offset + len(text)
    rest = max(0, len(whole.text) - end)
    notes = (
        [follow(rest, execution.session.id, execution.number, end)]
        if rest
        else [
            *stderr_so_far(execution),
            *asks(execution),
            f"It still runs, after {execution.elapsed:.1f} s. Read on with offset={end}, wait=40.",
        ]
    )
    return tool_result(facts_so_far(execution, rest > 0), text, notes, [], whole)


def page_of_run(run: Run, offset: int, limit: int) -> ToolResult:
    """A stretch of a finished run's text; the last one has the notes and the pictures."""
    whole = layout(run.cell, exit_code_shown(run))
    text = whole.text[offset : offset + limit]
    end = offset + len(text)
    rest = max(0, len(whole.text) - end)
    notes: list[str] = []
    images: list[ImageContent] = []
    if rest:
        notes.append(follow(rest, run.session_id, run.number, end))
    else:
        images, note = pictures(run)
        notes = [*run.notes, *([note] if note else [])]
        if offset > len(whole.text):
            notes.append(f"The text ends at {len(whole.text):,}.")
    return tool_result(facts_of(run, rest > 0), text, notes, images, whole)


def follow(rest: int, session_id: str, cell: int, offset: int) -> str:
    """How to read the rest."""
    call = f"read_output(session_id={session_id!r}, cell={cell}, offset={offset})"
    return f"{rest:,} characters follow: {call}"


def stderr_so_far(execution: Execution) -> list[str]:
    """The end of stderr, which stands behind stdout once the run is over."""
    errors = plain(execution.outputs.so_far("stderr")).strip()
    return [f"stderr so far, its end: {errors[-1000:]}"] if errors else []


def asks(execution: Execution) -> list[str]:
    """What a run waits to be told."""
    if (question := execution.question) is None:
        return []
    return [f"It asks the person for input: {question.prompt!r}. read_output with wait=40 asks."]


def facts_of(run: Run, truncated: bool) -> RunFacts:
    """The facts of a finished run."""
    return RunFacts(
        session_id=run.session_id,
        cell=run.number,
        execution_count=run.cell.execution_count,
        status=run.reply.status,
        exit_code=run.reply.exit_code,
        error_name=run.reply.error_name,
        timed_out=run.reply.timed_out,
        state=run.state,
        elapsed=round(run.elapsed, 3),
        truncated=truncated,
        notebook=str(run.notebook) if run.notebook else None,
    )


def facts_so_far(execution: Execution, truncated: bool) -> RunFacts:
    """The facts of a run that goes on."""
    notebook = execution.session.recorder.path
    return RunFacts(
        session_id=execution.session.id,
        cell=execution.number,
        execution_count=execution.cell.execution_count,
        status="running",
        exit_code=None,
        error_name=None,
        timed_out=False,
        state="kept",
        elapsed=round(execution.elapsed, 3),
        truncated=truncated,
        notebook=str(notebook) if notebook else None,
    )


def tool_result(
    facts: RunFacts, text: str, notes: list[str], images: list[ImageContent], whole: Layout
) -> ToolResult:
    """Put the halves together."""
    said = [*notes, f"session_id: {facts.session_id}, cell: {facts.cell}"]
    gap = "\n" if text and not text.endswith("\n") else ""
    block = text + gap + "\n".join(f"[{note.strip('[]')}]" for note in said)
    content: list[ContentBlock] = [TextContent(type="text", text=block), *images]
    # Where the parts are, for programs: in the whole text, of which `shown` characters are here.
    meta = {"sections": whole.sections, "length": len(whole.text), "shown": len(text)}
    return ToolResult(
        content=content, structured_content=facts.model_dump(), meta={"rmi_agent": meta}
    )
