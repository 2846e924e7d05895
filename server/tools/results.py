"""Turns a run into what a model reads: one text in a fixed layout, pictures, a few facts.

Knows nbformat cells and MCP content; nothing about running kernels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastmcp.tools import ToolResult
from mcp_types import ContentBlock, TextContent

from ..plaintext import plain
from ..plurals import counted
from .library_frames import shortened
from .notebook_pages import json_size
from .own_lines import SESSION, fragment, note
from .run_facts import OPTIONAL, RunFacts, facts_of, facts_so_far
from .run_pictures import one_picture, pictures
from .run_text import Layout, TextCache, growing
from .truncate import WORTH
from .written import NOTHING, Written

if TYPE_CHECKING:
    from ...kernels import Execution, Run

PAGE = 20_000  # default max characters returned by read_output
AROUND = 4_000  # bytes of a result's JSON besides its text and pictures: notes, facts, positions
AT_ONCE_BUDGETED = 50_000  # max characters truncated on the event loop; more go to a thread
OTHERS = "It has not begun: the kernel is busy with a cell of another client."
LAST = 1_000  # max characters quoted from an unfinished line, or from stderr so far


@dataclass(frozen=True)
class Budget:
    """What a result may have: characters of text, and bytes of JSON in all."""

    chars: int
    size: int

    @property
    def room(self) -> int:
        """Max bytes of text and pictures together."""
        return max(0, self.size - AROUND)


async def run_result(
    execution: Execution,
    budget: Budget,
    texts: TextCache,
    written: Written = NOTHING,
    more: Sequence[str] = (),
) -> ToolResult:
    """The result of a run, finished or not, with what it has written; `more` notes on it."""
    if not execution.task.done():
        return await running_result(execution, budget, texts)
    run: Run = execution.task.result()
    whole = await texts.whole(run, execution)
    text, truncated = await within(budget, whole, run.session_id, run.number)
    left = budget.room - json_size(text) - json_size(" ".join(run.notices)) - written.size
    images, notes = await pictures(run, left, texts.worker)
    notes = [*run.notices, *written.notes, *notes, *more]
    facts = facts_of(run, truncated, written)
    return tool_result(facts, text, notes, [*images, *written.links], whole)


async def running_result(execution: Execution, budget: Budget, texts: TextCache) -> ToolResult:
    """The result of an unfinished run: its output so far."""
    whole = await texts.so_far(execution)
    text, truncated = await within(budget, whole, execution.session_id, execution.number)
    doing = "is still queued" if execution.status == "queued" else "is still running"
    notes = [
        *open_line(execution),
        *stderr_so_far(execution),
        *asks(execution),
        *waits(execution),
        f"The run {doing} after {execution.elapsed:.1f} s and continues on its own."
        f" read_output(session_id={execution.session_id!r}, cell={execution.number},"
        f" offset={len(whole)}, wait=40) follows it; interrupt_session stops it.",
    ]
    return tool_result(facts_so_far(execution, truncated), text, notes, [], whole)


async def running_page(
    execution: Execution, offset: int, budget: Budget, texts: TextCache, more: Sequence[str] = ()
) -> ToolResult:
    """A page of an unfinished run's output, from `offset` on."""
    whole = await texts.so_far(execution)
    text, end, rest = page(whole, offset, budget)
    notes = (
        [follow(rest, execution.session_id, execution.number, end)]
        if rest
        else [
            *open_line(execution),
            *stderr_so_far(execution),
            *asks(execution),
            *waits(execution),
            *more,
            f"Still running after {execution.elapsed:.1f} s. Continue with offset={end}, wait=40.",
        ]
    )
    return tool_result(facts_so_far(execution, rest > 0), text, notes, [], whole)


async def page_of_run(
    run: Run,
    offset: int,
    budget: Budget,
    texts: TextCache,
    execution: Execution | None = None,
    written: Written = NOTHING,
) -> ToolResult:
    """A page of a finished run's text; the last page has the notes and the pictures."""
    whole = await texts.whole(run, execution)
    text, end, rest = page(whole, offset, budget)
    notes: list[str] = []
    images: list[ContentBlock] = []
    if rest:
        notes.append(follow(rest, run.session_id, run.number, end))
    else:
        left = budget.room - json_size(text) - json_size(" ".join(run.notices)) - written.size
        shown, notes = await pictures(run, left, texts.worker)
        images = [*shown, *written.links]
        notes = [*run.notices, *written.notes, *notes]
        if offset > len(whole):
            notes.append(
                f"offset is past the end: the text has {counted(len(whole), 'character')}."
            )
    facts = facts_of(run, rest > 0, NOTHING if rest else written)
    return tool_result(facts, text, notes, images, whole)


async def picture_result(run: Run, number: int, budget: Budget, texts: TextCache) -> ToolResult:
    """One of a run's pictures, by its number from 1.

    Raises:
        Refusal: there is no such picture, or it can't be sent.
    """
    image, about = await one_picture(run, number, budget.room, texts.worker)
    return tool_result(facts_of(run, truncated=False), "", [about], [image], Layout())


def page(whole: Layout, offset: int, budget: Budget) -> tuple[str, int, int]:
    """A page of a text from `offset` on, where it ends, and how many characters follow."""
    text = whole[offset : offset + budget.chars]
    while (size := json_size(text)) > budget.room:
        text = text[: len(text) * budget.room // size * 9 // 10]
    end = offset + len(text)
    text = fragment(text, whole[max(0, offset - 1) : offset], whole[end : end + 1])
    return text, end, max(0, len(whole) - end)


async def within(budget: Budget, whole: Layout, session_id: str, cell: int) -> tuple[str, bool]:
    """A run's text truncated to a budget, and whether anything is missing."""
    chars = budget.chars
    if len(whole) <= min(chars, WORTH):  # too short for a repeat that is worth collapsing
        return whole[:], False
    while True:
        if len(whole) <= AT_ONCE_BUDGETED:
            text, truncated = shortened(whole, chars, session_id, cell)
        else:
            text, truncated = await asyncio.to_thread(shortened, whole, chars, session_id, cell)
        if chars < WORTH or (size := json_size(text)) <= budget.room:
            return text, truncated
        chars = min(chars, len(text)) * budget.room // size * 9 // 10


def follow(rest: int, session_id: str, cell: int, offset: int) -> str:
    """A note that says how to read the rest."""
    call = f"read_output(session_id={session_id!r}, cell={cell}, offset={offset})"
    return f"{counted(rest, 'more character')}: {call}"


def open_line(execution: Execution) -> list[str]:
    """The unfinished last line: a carriage return may still change it, so no page has it."""
    outputs = execution.outputs
    for output in growing(outputs.cell.outputs):
        if output.name != "stderr" and (text := outputs.stream_text(output)):
            line = plain(text.pending[-2 * LAST :])[-LAST:]
            return [f"Unfinished last line: {line}"] if line.strip() else []
    return []


def stderr_so_far(execution: Execution) -> list[str]:
    """The tail of stderr, which follows stdout once the run is over."""
    texts = execution.outputs.stream_texts("stderr")
    if not texts:
        return []
    begin = max(0, texts[-1].settled_size - 4 * LAST)
    recent = texts[-1].settled_from(begin) + texts[-1].pending[-4 * LAST :]
    errors = plain(recent).strip()[-LAST:]
    return [f"End of stderr so far: {errors}"] if errors else []


def waits(execution: Execution) -> list[str]:
    """A note about the others whom a run in a person's kernel waits for."""
    return [OTHERS] if execution.waits_for_others else []


def asks(execution: Execution) -> list[str]:
    """A note about the input that a run is waiting for."""
    if (question := execution.question) is None:
        return []
    prompt = question.prompt[:LAST]
    return [f"The run is waiting for input: {prompt!r}. read_output with wait=40 asks the user."]


def tool_result(
    facts: RunFacts, text: str, notes: list[str], images: Sequence[ContentBlock], whole: Layout
) -> ToolResult:
    """Build a tool result from its text, notes, pictures and links, and facts."""
    said = [*map(note, notes), f"{SESSION}{facts.session_id}, cell: {facts.cell}]"]
    gap = "\n" if text and not text.endswith("\n") else ""
    block = text + gap + "\n".join(said)
    content: list[ContentBlock] = [TextContent(type="text", text=block), *images]
    # For programs: where the sections are in the whole text, of which `shown` characters are here.
    meta = {"sections": whole.sections, "length": len(whole), "shown": len(text)}
    structured = facts.model_dump(
        exclude={name for name in OPTIONAL if getattr(facts, name) is None}
    )
    return ToolResult(content=content, structured_content=structured, meta={"rmi_agent": meta})


def listing(lines: list[str], facts: dict[str, Any]) -> ToolResult:
    """A list as text, with the same facts as structured content for programs."""
    return ToolResult(
        content=[TextContent(type="text", text="\n".join(lines))], structured_content=facts
    )
