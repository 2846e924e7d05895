"""Truncates a long text to what a model should read: repeats shown once, head and tail kept.

A text within its budget is shown as it is, but for what the caller folds.

Whatever is left out is marked, with the call that reads it. Knows only texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from ..plurals import counted
from .own_lines import CUT, fragment, note

HEAD = 2 / 3  # share of the budget that goes to the head
PERIODS = (1, 2, 3)  # lines per repeated block, such as a warning and its source line
WORTH = 200  # min characters that a collapse must save
LOOKED_AT = 10  # repeats are searched for within this many budgets of either end


@dataclass(frozen=True, order=True)
class Piece:
    """A piece of the text as shown; a mark stands for `length` characters and is never split."""

    shown: str
    length: int
    is_mark: bool = False


class Text(Protocol):
    """A text that is read in slices, such as a `str`."""

    def __len__(self) -> int: ...

    def __getitem__(self, stretch: slice, /) -> str: ...


def budgeted(
    text: Text, budget: int, session_id: str, cell: int, folds: Sequence[tuple[int, Piece]] = ()
) -> tuple[str, bool]:
    """A text truncated to its budget, and whether anything is missing.

    Args:
        text: the whole text.
        budget: max characters, not counting the marks for what is missing.
        session_id: the run's session, for the call that reads the rest.
        cell: the run's number in that session.
        folds: what to show instead of some stretches, each with its place, in order.
    """
    call = f"read_output(session_id={session_id!r}, cell={cell}"
    size, near = len(text), LOOKED_AT * budget
    if size <= 2 * near:
        pieces = fold(text[:], folds)
        if sum(len(piece.shown) for piece in pieces) <= budget:
            return "".join(piece.shown for piece in pieces), bool(folds)
        pieces = collapsed_between(pieces)
    else:
        middle = size - 2 * near
        stretches = (
            [text[near : near + budget], text[size - near - budget : size - near]]
            if middle > 2 * budget
            else [text[near : size - near]]
        )
        # The gap between the two is never shown: each stretch alone is longer than head or tail.
        pieces = [
            *collapsed(text[:near]),
            *(Piece(stretch, len(stretch)) for stretch in stretches),
            *collapsed_between(fold(text[size - near :], behind(folds, size - near))),
        ]
    if sum(len(piece.shown) for piece in pieces) > budget:
        head, skipped = taken(pieces, int(budget * HEAD))
        tail, rest = taken(pieces[::-1], budget - len(head), from_end=True)
        left = size - skipped - rest
        head = fragment(head, "", text[skipped : skipped + 1])
        tail = fragment(tail, text[max(0, size - rest - 1) : size - rest])
        omitted = f"{counted(left, 'character')} omitted"
        mark = f"\n{CUT}{omitted}; {call}, offset={skipped}) continues here …]\n"
        return head + mark + tail, True
    shown = "".join(piece.shown for piece in pieces)
    gap = "" if shown.endswith("\n") else "\n"
    hint = note(f"repeated lines are shown once; {call}, offset=0) has them all")
    return f"{shown}{gap}{hint}\n", True


def fold(text: str, folds: Sequence[tuple[int, Piece]]) -> list[Piece]:
    """The text in pieces, with each fold in its place."""
    pieces, here = [], 0
    for place, piece in folds:
        pieces += [Piece(text[here:place], place - here), piece]
        here = place + piece.length
    return [*pieces, Piece(text[here:], len(text) - here)]


def behind(folds: Sequence[tuple[int, Piece]], start: int) -> list[tuple[int, Piece]]:
    """The folds of the text from `start` on, with their places there."""
    return [(place - start, piece) for place, piece in folds if place >= start]


def collapsed_between(pieces: list[Piece]) -> list[Piece]:
    """The pieces with the repeats in each of them shown once."""
    return [
        part for piece in pieces for part in ([piece] if piece.is_mark else collapsed(piece.shown))
    ]


def taken(pieces: list[Piece], room: int, *, from_end: bool = False) -> tuple[str, int]:
    """As many pieces as fit, and how many characters of the whole text they stand for."""
    shown: list[str] = []
    length = 0
    for piece in pieces:
        if len(piece.shown) <= room:
            part, stands_for = piece.shown, piece.length
        elif piece.is_mark:
            break
        else:
            part = piece.shown[len(piece.shown) - room :] if from_end else piece.shown[:room]
            stands_for = len(part)
        shown.append(part)
        length += stands_for
        room -= len(part)
        if stands_for < piece.length:
            break
    return "".join(shown[::-1] if from_end else shown), length


def collapsed(text: str) -> list[Piece]:
    """The text with repeats of up to three lines shown once, where that saves enough."""
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    starts = list(accumulate(map(len, lines), initial=0))
    again = {period: same_ahead(lines, period) for period in PERIODS}
    pieces: list[Piece] = []
    plain = here = 0  # the first line not in a piece yet, and the current one
    while here < len(lines):
        period, times = best_repeat(again, here)
        end = here + period
        behind = here + period * times
        if (saved := starts[behind] - starts[end]) < WORTH:
            here += 1
            continue
        pieces.append(Piece(text[starts[plain] : starts[end]], starts[end] - starts[plain]))
        above = "line above" if period == 1 else f"{period} lines above"
        mark = f"{CUT}{above} repeated {counted(times - 1, 'more time')} …]\n"
        pieces.append(Piece(mark, saved, is_mark=True))
        plain = here = behind
    return [*pieces, Piece(text[starts[plain] :], len(text) - starts[plain])]


def same_ahead(lines: list[str], period: int) -> list[int]:
    """For each line, how many lines from it on equal those `period` lines later."""
    counts = [0] * (len(lines) + 1)
    for here in range(len(lines) - period - 1, -1, -1):
        if lines[here] == lines[here + period]:
            counts[here] = counts[here + 1] + 1
    return counts


def best_repeat(again: dict[int, list[int]], start: int) -> tuple[int, int]:
    """The period whose repeats from `start` on cover the most lines, and how often it occurs."""
    best = (1, 1)
    for period in PERIODS:
        times = 1 + again[period][start] // period
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best
