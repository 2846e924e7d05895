"""Fitting a long text into what a model should read: repeats told once, head and tail kept.

Whatever is left out says so and names the call that reads it. Knows texts only.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 2 / 3  # of the budget, before the cut
PERIODS = (1, 2, 3)  # lines that may repeat together, as a warning and its source line do
WORTH = 200  # characters that a collapse has to save
LOOKED_AT = 10  # budgets at either end in which repeats are looked for


@dataclass(frozen=True)
class Piece:
    """Some of the text as it is shown; a mark stands for `length` characters and is not cut."""

    shown: str
    length: int
    is_mark: bool = False


def budgeted(text: str, budget: int, session_id: str, cell: int) -> tuple[str, bool]:
    """A text within its budget, and whether anything of it is missing.

    Args:
        text: the whole.
        budget: characters; the marks that say what is missing come on top.
        session_id: of the run, for the call that reads the rest.
        cell: its number there.
    """
    call = f"read_output(session_id={session_id!r}, cell={cell}"
    near = LOOKED_AT * budget
    if len(text) <= 2 * near:
        pieces = collapsed(text)
    else:
        middle = text[near : len(text) - near]
        pieces = [*collapsed(text[:near]), Piece(middle, len(middle)), *collapsed(text[-near:])]
    if sum(len(piece.shown) for piece in pieces) > budget:
        head, skipped = taken(pieces, int(budget * HEAD))
        tail, rest = taken(pieces[::-1], budget - len(head), from_end=True)
        left = len(text) - skipped - rest
        mark = f"\n[… {left:,} characters left out; {call}, offset={skipped}) reads on …]\n"
        return head + mark + tail, True
    if not any(piece.is_mark for piece in pieces):
        return text, False
    shown = "".join(piece.shown for piece in pieces)
    gap = "" if shown.endswith("\n") else "\n"
    return f"{shown}{gap}[repeats are told once here; {call}, offset=0) has every line]\n", True


def taken(pieces: list[Piece], room: int, *, from_end: bool = False) -> tuple[str, int]:
    """As much as fits, and how many characters of the whole text it stands for."""
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
    """The text with repeats of up to three lines told once, where that is worth it."""
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + lines[-1:]
    pieces: list[Piece] = []
    plain = here = 0  # the first line that is in no piece yet, and the one looked at
    while here < len(lines):
        period, times = repeats(lines, here)
        again = lines[here + period : here + period * times]
        if (saved := sum(map(len, again))) < WORTH:
            here += 1
            continue
        before = "".join(lines[plain : here + period])
        above = "line above" if period == 1 else f"{period} lines above"
        pieces.append(Piece(before, len(before)))
        pieces.append(Piece(f"[… the {above} {times - 1:,} times more …]\n", saved, is_mark=True))
        plain = here = here + period * times
    rest = "".join(lines[plain:])
    return [*pieces, Piece(rest, len(rest))]


def repeats(lines: list[str], start: int) -> tuple[int, int]:
    """The period whose repeats from `start` on cover most lines, and how often it stands there."""
    best = (1, 1)
    for period in PERIODS:
        times, here = 1, start + period
        while lines[here : here + period] == lines[start : start + period]:
            times, here = times + 1, here + period
        if period * times > best[0] * best[1] and times > 1:
            best = (period, times)
    return best
