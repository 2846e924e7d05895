"""Folds the frames of installed packages in the tracebacks of a result, for a model's eyes.

Of frames in a row, the first and the last keep their place and their line; `read_output` and the
notebook have all. Knows the formats of IPython and of Python; nothing about errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..plurals import counted
from .own_lines import CUT
from .run_text import Layout
from .truncate import Piece, budgeted

WORTH = 60  # min characters that folding must save in a section
LONGEST = 200_000  # max characters of a section in which frames are searched
ARGS = 12  # max characters of a function's parameters that are left
NAMED = 3  # max packages that a mark names

IPYTHON = re.compile(
    r"^File (?P<path>[^\n]+?):\d+(?:, in [\w.<>]+(?P<args>\([^\n]*\))?)?\n"
    r"(?P<body>(?:[^\n]+\n)*)\n?",
    re.MULTILINE,
)
PYTHON = re.compile(
    r'^(?P<indent>[ |]*)  File "(?P<path>[^"\n]+)", line \d+(?:, in [^\n]+)?\n'
    r"(?P<body>(?:(?P=indent)  (?:  [^\n]*|\[Previous line [^\n]*)\n)*)",
    re.MULTILINE,
)
ARROW = re.compile(r"^-*> ?\d+ [^\n]*\n", re.MULTILINE)
NO_SOURCE = re.compile(r"^-*> ?\d+ 'Could not get source, probably [^\n]*'\n", re.MULTILINE)
# The folder that packages, or the standard library's modules, are in, and the first name in it.
INSTALLED = re.compile(
    r"(?P<folder>.*(?:[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?/python3\.\d+[/\\]"
    r"|[/\\]Python3\d+[/\\]Lib[/\\])|<frozen )(?P<name>[^/\\.>]+)"
)
COMPILED = re.compile(r"(?P<folder>)(?P<name>\w+)[/\\].*\.p(?:yx|xi|xd)$")  # Cython's, relative


@dataclass(frozen=True)
class Frame:
    """A frame of an installed package.

    Attributes:
        found: its text in its section.
        package: the name of the package.
        folder: characters of its path before the package.
        start, end: where it is in its section.
    """

    found: re.Match[str]
    package: str
    folder: int
    start: int
    end: int


def shortened(whole: Layout, budget: int, session_id: str, cell: int) -> tuple[str, bool]:
    """A run's text with folded frames, truncated to a budget, and whether anything is missing."""
    folds = [
        fold
        for name in ("stderr", "value")
        if name in whole.sections
        for fold in folded(whole, *whole.sections[name])
    ]
    return budgeted(whole, budget, session_id, cell, folds)


def folded(whole: Layout, start: int, end: int) -> list[tuple[int, Piece]]:
    """What to show instead of some stretches of a section, each with its place in the text."""
    start = max(start, end - LONGEST)
    text = whole[start:end]
    folds = [replaced(*found.span(), "") for found in NO_SOURCE.finditer(text)]
    folds += (
        (place, piece)
        for runs, fold in ((rows(IPYTHON, text), fold_ipython), (rows(PYTHON, text), fold_python))
        for run in runs
        for place, piece in fold(text, run)
    )
    folds.sort()
    if sum(piece.length - len(piece.shown) for _, piece in folds) < WORTH:
        return []
    chosen: list[tuple[int, Piece]] = []
    here = 0
    for place, piece in folds:  # printed text may look like both formats at once
        if place >= here:
            chosen.append((start + place, piece))
            here = place + piece.length
    return chosen


def rows(form: re.Pattern[str], text: str) -> Iterator[list[Frame]]:
    """The frames of installed packages in a text, those in a row together."""
    row: list[Frame] = []
    for found in form.finditer(text):
        place = INSTALLED.match(found["path"]) or COMPILED.match(found["path"])
        if row and (place is None or row[-1].end != found.start()):
            yield row
            row = []
        if place is not None:
            package, folder = place["name"].lstrip("_"), len(place["folder"])
            row.append(Frame(found, package, folder, *found.span()))
    if row:
        yield row


def fold_ipython(text: str, row: list[Frame]) -> Iterator[tuple[int, Piece]]:
    """Fold frames in IPython's format: the outer ones to two lines, the others to a mark."""
    for frame in {row[0].start: row[0], row[-1].start: row[-1]}.values():
        found = frame.found
        if frame.folder and "<" not in found["path"]:
            yield replaced(found.start("path"), found.start("path") + frame.folder, "…/")
        if found["args"] and len(found["args"]) > ARGS:
            yield replaced(*found.span("args"), "(…)")
        start, end = found.span("body")
        arrow = ARROW.search(found["body"])
        if arrow is None or NO_SOURCE.match(arrow[0]):
            yield replaced(start, end, "")
        else:
            yield replaced(start, start + arrow.start(), "")
            yield replaced(start + arrow.end(), end, "")
    if len(row) > 2:
        yield replaced(row[0].found.end("body"), row[-1].start, mark(row[1:-1]))


def fold_python(text: str, row: list[Frame]) -> Iterator[tuple[int, Piece]]:
    """Fold frames in Python's format: between the outer ones to a mark."""
    if len(row) > 2:
        indent = row[0].found["indent"]
        between = f"{indent}  {mark(row[1:-1])}" if indent else mark(row[1:-1])
        yield replaced(row[0].end, row[-1].start, between)


def replaced(start: int, end: int, shown: str) -> tuple[int, Piece]:
    """What to show instead of a stretch of the text, with its place."""
    return start, Piece(shown, end - start, is_mark=True)


def mark(row: list[Frame]) -> str:
    """The mark for frames that are left out."""
    packages = list(dict.fromkeys(frame.package for frame in row))
    names = ", ".join(packages[:NAMED]) + (" and more" if len(packages) > NAMED else "")
    return f"{CUT}{counted(len(row), 'frame')} in {names} …]\n"
