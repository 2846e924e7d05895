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

from .reply import Script
from .source import encoded

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
MOST = 5_000  # lines of one output that are compared line by line
LINES = 12  # of one difference that are told
WIDEST = 300  # characters of a line that are told


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
        if old[what] != new[what]:
            found.append(Difference(what, tuple(told(old[what], new[what]))))
    return found


def seen(cell: NotebookNode) -> dict[What, list[str]]:
    """A cell's outputs as lines to compare, by what they are."""
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
    return {
        what: folded(("" if what in streams else "\n").join(parts)) for what, parts in texts.items()
    }


def folded(text: str) -> list[str]:
    """A text's lines with what is volatile taken out."""
    for volatile, stands_for in VOLATILE:
        text = volatile.sub(stands_for, text)
    return [line.rstrip() for line in text.splitlines()]


def digest(data: str) -> str:
    """A picture by its bytes; a text that is no base64 by itself."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raw = data.encode("utf-8", "replace")
    return hashlib.sha256(raw).hexdigest()[:12]


def told(old: list[str], new: list[str]) -> Iterator[str]:
    """The lines that differ, as many as a reader takes in."""
    changes = difflib.unified_diff(old[:MOST], new[:MOST], n=0, lineterm="")
    lines = [line for line in list(changes)[2:] if not line.startswith("@@")]
    if not lines:
        lines = [f"  they differ beyond line {MOST:,}"]
    for line in lines[:LINES]:
        yield line if len(line) <= WIDEST else f"{line[:WIDEST]}…"
    if len(lines) > LINES:
        yield f"  … {len(lines) - LINES} more lines differ"
