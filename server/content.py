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

BUDGET = 20_000  # characters of text in one result
HEAD = 2 / 3  # of them before the cut
PICTURES = 8  # in one result
PICTURE_SIZE = 5_000_000  # base64 characters of one picture; hosts refuse larger ones
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
            last.append(plain("\n".join(output.traceback) or f"{output.ename}: {output.evalue}"))
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


def pictures(cell: NotebookNode) -> tuple[list[ImageContent], str]:
    """The cell's pictures, at most `PICTURES`, and what is to be said of the others."""
    found = [
        (kind, output.data[kind].replace("\n", ""))
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result")
        for kind in PICTURE_TYPES
        if isinstance(output.data.get(kind), str)
    ]
    fitting = [(kind, data) for kind, data in found if len(data) <= PICTURE_SIZE]
    note = ""
    if left_out := len(found) - min(len(fitting), PICTURES):
        note = f"[{left_out} more of {len(found)} pictures: in the notebook]"
    return [
        ImageContent(type="image", data=data, mime_type=kind) for kind, data in fitting[:PICTURES]
    ], note


def budgeted(text: str, execution: Execution) -> tuple[str, bool]:
    """Head and tail of a long text, around a cut that says how to read the rest."""
    if len(text) <= BUDGET:
        return text, False
    head = int(BUDGET * HEAD)
    tail = BUDGET - head
    left = len(text) - BUDGET
    how = (
        f"read_output(session_id={execution.session.id!r}, cell={execution.number}, offset={head})"
    )
    return (
        f"{text[:head]}\n[… {left:,} characters left out; {how} reads on …]\n{text[-tail:]}",
        True,
    )


def run_result(execution: Execution) -> ToolResult:
    """The result of a run, whether it is over or goes on."""
    if not execution.task.done():
        return running_result(execution)
    run: Run = execution.task.result()
    whole = layout(run.cell, exit_code_shown(execution, run))
    text, truncated = budgeted(whole.text, execution)
    images, note = pictures(run.cell)
    notes = [*run.notes, *([note] if note else [])]
    return tool_result(execution, run, text, notes, images, truncated=truncated, whole=whole)


def exit_code_shown(execution: Execution, run: Run) -> int | None:
    """Files end with an exit code; cells have none."""
    return run.reply.exit_code if execution.script is not None else None


def running_result(execution: Execution) -> ToolResult:
    """The output so far of a run that goes on."""
    whole = layout(execution.outputs.settled(), over=False)
    text, truncated = budgeted(whole.text, execution)
    offset = len(whole.text)
    errors = plain(execution.outputs.so_far("stderr"))
    notes = [f"stderr so far, its end: {errors[-1000:].strip()}"] if errors.strip() else []
    doing = "is queued behind another run" if execution.status == "queued" else "still runs"
    notes.append(
        f"The run {doing} after {execution.elapsed:.1f} s and goes on by itself."
        f" read_output(session_id={execution.session.id!r}, cell={execution.number},"
        f" offset={offset}, wait=40) follows it; interrupt_session stops it."
    )
    return tool_result(execution, None, text, notes, [], truncated=truncated, whole=whole)


def page_result(execution: Execution, offset: int, limit: int) -> ToolResult:
    """A stretch of a run's text, from `offset`, at most `limit` characters."""
    over = execution.task.done()
    run: Run | None = execution.task.result() if over else None
    cell = run.cell if run else execution.outputs.settled()
    whole = layout(cell, exit_code_shown(execution, run) if run else None, over=over)
    end = min(len(whole.text), offset + limit)
    text, rest = whole.text[offset:end], len(whole.text) - end
    notes = list(run.notes) if run and not rest else []
    if rest > 0:
        notes.append(
            f"{rest:,} characters follow: read_output(session_id={execution.session.id!r},"
            f" cell={execution.number}, offset={end})"
        )
    elif not over:
        errors = plain(execution.outputs.so_far("stderr"))
        if errors.strip():
            notes.append(f"stderr so far, its end: {errors[-1000:].strip()}")
        notes.append(
            f"It still runs, after {execution.elapsed:.1f} s. Read on with offset={end}, wait=40."
        )
    elif offset and not text:
        notes.append(f"The text ends at {len(whole.text):,}; there is nothing from {offset:,} on.")
    images, note = pictures(cell) if over and not rest else ([], "")
    if note:
        notes.append(note)
    return tool_result(execution, run, text, notes, images, truncated=rest > 0, whole=whole)


def tool_result(
    execution: Execution,
    run: Run | None,
    text: str,
    notes: list[str],
    images: list[ImageContent],
    *,
    truncated: bool,
    whole: Layout,
) -> ToolResult:
    """Put the halves together."""
    session = execution.session
    said = [*notes, f"session_id: {session.id}, cell: {execution.number}"]
    gap = "\n" if text and not text.endswith("\n") else ""
    block = text + gap + "\n".join(f"[{note.strip('[]')}]" for note in said)
    notebook = run.notebook if run else session.recorder.path
    facts = RunFacts(
        session_id=session.id,
        cell=execution.number,
        execution_count=execution.cell.execution_count,
        status=run.reply.status if run else "running",
        exit_code=run.reply.exit_code if run else None,
        error_name=run.reply.error_name if run else None,
        timed_out=run.reply.timed_out if run else False,
        state=run.state if run else "kept",
        elapsed=round(execution.elapsed, 3),
        truncated=truncated,
        notebook=str(notebook) if notebook else None,
    )
    content: list[ContentBlock] = [TextContent(type="text", text=block), *images]
    # Where the parts are, for programs: in the whole text, of which `shown` characters are here.
    meta = {"sections": whole.sections, "length": len(whole.text), "shown": len(text)}
    return ToolResult(
        content=content, structured_content=facts.model_dump(), meta={"rmi_agent": meta}
    )
