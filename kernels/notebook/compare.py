"""Compares two runs of a cell, as people would: does the second give the same result?

Masks what differs in every run: addresses, times, temporary names. Knows nbformat; nothing of
kernels, nor of where notebooks are stored.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nbformat import NotebookNode

from ..plurals import counted
from .run import Run

What = Literal["status", "error", "stdout", "stderr", "value", "display", "picture"]

# Text that differs in every run, and its placeholders (VOLATILE).
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
    (re.compile(r'File "[^"\n]*[/\\]'), 'File "'),  # the record may be from another machine
    (re.compile(r"\b0x[0-9a-fA-F]{4,}\b"), "0xADDRESS"),
    (re.compile(r"(?:/private)?(?:/tmp|/var/folders|/var/tmp)/[^\s'\":,)]+"), "TEMPORARY"),
    (TIME, "TIME"),
    (DURATION, "DURATION"),
    (re.compile(r"\b(In|Out) ?\[\d+\]"), r"\1[]"),
    (re.compile(r"\bpid[ =:]+\d+", re.IGNORECASE), "PID"),
)
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")
WINDOW = 300  # max lines from the first difference on that are passed to difflib
PIECE = 10_000  # max characters of a line that are masked at a time
LINES = 12  # max lines shown of one difference
WIDEST = 300  # max characters shown of a line


@dataclass(frozen=True)
class Difference:
    """One way in which two runs differ, as lines that start with -, + or spaces."""

    what: What
    lines: tuple[str, ...]


def differences(before: Run, after: Run) -> list[Difference]:
    """The differences between two runs of a cell, the recorded one first."""
    statuses = (f"-{before.status}", f"+{after.status}")
    found = [Difference("status", statuses)] if before.status != after.status else []
    old, new = seen(before.cell), seen(after.cell)
    for what in old:
        if lines := tuple(differing(old[what].splitlines(), new[what].splitlines())):
            found.append(Difference(what, lines))
    return found


def seen(cell: NotebookNode) -> dict[What, str]:
    """A cell's outputs as texts to compare, by kind."""
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
    """A line with volatile text masked."""
    if len(line) > PIECE:  # a single regex step must not block other threads for long
        return "".join(folded(line[at : at + PIECE]) for at in range(0, len(line), PIECE))
    for volatile, stands_for in VOLATILE:
        line = volatile.sub(stands_for, line)
    return line.rstrip()


def digest(data: str) -> str:
    """A short hash of a picture's bytes, or of its text if that is not base64."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raw = data.encode("utf-8", "replace")
    return hashlib.sha256(raw).hexdigest()[:12]


def differing(old: list[str], new: list[str]) -> Iterator[str]:
    """The lines that differ, at most `LINES` and a summary of the rest; none if the texts match.

    Lines are compared one by one from both ends, and only `WINDOW` lines after the first difference
    are passed to difflib. So the work is linear, and only lines that are not identical are masked.
    """
    start = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if not same(a, b)),
        min(len(old), len(new)),
    )
    if start == len(old) == len(new):
        return
    end = 0  # number of matching lines at the end
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
        yield f"  … {counted(len(lines) - LINES, 'more line')}"


def same(old: str, new: str) -> bool:
    """Whether two lines are the same apart from volatile text."""
    return old == new or folded(old) == folded(new)
