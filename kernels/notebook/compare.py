"""A recorded notebook, cell by cell: what ran, and whether a second run gives the same.

Compares what people compare, and folds what is never the same twice: addresses, times, temporary
names. Knows nbformat; nothing of kernels, and nothing of where notebooks lie.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbformat import NotebookNode

from ..protocol import Script
from .encoding import encoded

What = Literal["status", "error", "stdout", "stderr", "value", "display", "picture"]

# What is never the same twice, and what stands for it.
UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")
TIME = re.compile(
    r"""\b\d{4}-\d\d-\d\d (?:[T ]\d\d:\d\d (?::\d\d)? (?:[.,]\d+)?)? (?:Z|[+-]\d\d:?\d\d\b)?
    | \b\d{1,2}:\d\d:\d\d (?:[.,]\d+)?\b""",
    re.VERBOSE,
)
DURATION = re.compile(
    r"\b\d+(?:\.\d+)?(?:e-?\d+)? ?(?:[nµμum]s|s|sec|seconds?|min|minutes?)\b(?: ±.*)?"
)
VOLATILE = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (UUID, "UUID"),
    (re.compile(r'File "[^"\n]*[/\\]'), 'File "'),  # the record may be another machine's
    (re.compile(r"\b0x[0-9a-fA-F]{4,}\b"), "0xADDRESS"),
    (re.compile(r"(?:/private)?(?:/tmp|/var/folders|/var/tmp)/[^\s'\":,)]+"), "TEMPORARY"),
    (TIME, "TIME"),
    (DURATION, "DURATION"),
    (re.compile(r"\b(In|Out) ?\[\d+\]"), r"\1[]"),
    (re.compile(r"\bpid[ =:]+\d+", re.IGNORECASE), "PID"),
)
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")
WINDOW = 300  # lines from the first difference on that are compared as a whole
PIECE = 10_000  # characters of a line that are folded at a time
LINES = 12  # of one difference that are shown
WIDEST = 300  # characters of a line that are shown


@dataclass(frozen=True)
class Recorded:
    """One run as a notebook has it.

    Attributes:
        cell: the nbformat code cell.
        number: its place among the runs, from 1.
        status: how it ended; `running` where the record was cut off.
        elapsed: seconds that it took, 0 where that is not known.
        script: the file that it ran, with the text that it had then; None for a snippet.
    """

    cell: NotebookNode
    number: int
    status: str
    elapsed: float
    script: Script | None


@dataclass(frozen=True)
class Difference:
    """What a second run gave that the first did not: lines with -, + and spaces before them."""

    what: What
    lines: tuple[str, ...]


def recorded(notebook: NotebookNode) -> Iterator[Recorded]:
    """The runs of a notebook in their order; one from elsewhere has its code cells."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        cell.source = cell.source.encode("utf-8", "replace").decode()  # no lone surrogates
        number += 1
        record: dict[str, Any] = cell.metadata.get("rmi_agent", {})
        failed = any(output.output_type == "error" for output in cell.outputs)
        yield Recorded(
            cell,
            int(record.get("cell", number)),
            str(record.get("status", "error" if failed else "ok")),
            float(record.get("elapsed", 0.0)),
            script(cell.source, record) if "path" in record else None,
        )


def script(source: str, record: dict[str, Any]) -> Script:
    """The file that a cell ran.

    Raises:
        ValueError: the record names none that there could be.
    """
    path, args = str(record["path"]), tuple(map(str, record.get("args", ())))
    if any("\0" in text for text in (path, *args)):
        raise ValueError("a NUL character is in a file's name or arguments")
    return Script(Path(path), encoded(source), args, str(record.get("stdin", "")))


def differences(
    before: NotebookNode, after: NotebookNode, status: str, now: str
) -> list[Difference]:
    """What differs between two runs of a cell, the recorded one first.

    Args:
        before: the recorded cell.
        after: the cell as it ran again.
        status: how the recorded run ended.
        now: how it ended this time.
    """
    found = [Difference("status", (f"-{status}", f"+{now}"))] if status != now else []
    old, new = seen(before), seen(after)
    for what in old:
        if lines := tuple(differing(old[what].splitlines(), new[what].splitlines())):
            found.append(Difference(what, lines))
    return found


def seen(cell: NotebookNode) -> dict[What, str]:
    """A cell's outputs as texts to compare, by what they are."""
    texts: dict[What, list[str]] = {
        "stdout": [], "stderr": [], "value": [], "display": [], "picture": [], "error": []
    }  # fmt: skip
    for output in cell.outputs:
        if output.output_type == "stream":
            texts["stderr" if output.name == "stderr" else "stdout"].append(output.text)
        elif output.output_type == "error":
            texts["error"].append(f"{output.ename}: {output.evalue}")
        else:
            pictures = [kind for kind in PICTURES if kind in output.data]
            texts["picture"] += [f"{kind} {digest(output.data[kind])}" for kind in pictures]
            value = output.output_type == "execute_result"
            if not pictures:
                shown = output.data.get("text/plain") or " ".join(sorted(output.data))
                texts["value" if value else "display"].append(f"{shown}\n")
    streams = ("stdout", "stderr")
    return {what: ("" if what in streams else "\n").join(parts) for what, parts in texts.items()}


def folded(line: str) -> str:
    """A line with what is volatile taken out."""
    if len(line) > PIECE:  # no single step may keep other threads waiting
        return "".join(folded(line[at : at + PIECE]) for at in range(0, len(line), PIECE))
    for volatile, stands_for in VOLATILE:
        line = volatile.sub(stands_for, line)
    return line.rstrip()


def digest(data: str) -> str:
    """A picture by its bytes; a text that is no base64 by itself."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raw = data.encode("utf-8", "replace")
    return hashlib.sha256(raw).hexdigest()[:12]


def differing(old: list[str], new: list[str]) -> Iterator[str]:
    """The lines that differ, as many as a reader takes in; none if the texts are the same.

    Lines are compared one by one up to the first difference, and as a whole from there on. So
    the work is linear, and a line is only folded where it is not the same as it stands.
    """
    start = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if not same(a, b)),
        min(len(old), len(new)),
    )
    if start == len(old) == len(new):
        return
    end = 0  # lines that are the same at the end
    most = min(len(old), len(new)) - start
    while end < most and same(old[-1 - end], new[-1 - end]):
        end += 1
    before, after = old[start : len(old) - end], new[start : len(new) - end]
    changes = difflib.unified_diff(
        [folded(line) for line in before[:WINDOW]],
        [folded(line) for line in after[:WINDOW]],
        n=0,
        lineterm="",
    )
    lines = [line for line in list(changes)[2:] if not line.startswith("@@")]
    for line in lines[:LINES]:
        yield line if len(line) <= WIDEST else f"{line[:WIDEST]}…"
    if max(len(before), len(after)) > WINDOW:
        yield f"  … they differ up to line {start + max(len(before), len(after)):,}"
    elif len(lines) > LINES:
        yield f"  … {len(lines) - LINES} more lines differ"


def same(old: str, new: str) -> bool:
    """Whether two lines are the same but for what is volatile."""
    return old == new or folded(old) == folded(new)
