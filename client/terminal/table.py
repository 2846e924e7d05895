"""Tables and spans of time as people read them.

On a terminal a table fits its width: one column is shortened, and others are left out where there
is no room. A pipe gets every column in full.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.text import Text

from ..plaintext import plain
from .terminal import is_terminal, is_unicode, write_text

GAP = 2  # columns between two cells
LEAST = 12  # min columns of the column that is shortened
# Units, and how many of each make the next.
UNITS = (
    (60, "s", "s"),
    (60, "min", "min"),
    (24, "h", "h"),
    (365, "day", "days"),
    (math.inf, "year", "years"),
)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        least_width: left out on terminals with fewer columns than this.
        shortened: whether its cells are shortened to fit; true of one column.
        right: whether it is aligned to the right.
    """

    heading: str
    least_width: int = 0
    shortened: bool = False
    right: bool = False


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table with headings on stdout; a column without any content is left out."""
    room = Console().width if is_terminal(sys.stdout) else sys.maxsize
    places = [
        place
        for place, column in enumerate(columns)
        if column.least_width <= room and any(row[place] for row in rows)
    ]
    lines = [[Text(columns[place].heading, "bold") for place in places]]
    lines += [[one_line(row[place]) for place in places] for row in rows]
    widths = [max(cell_len(cell.plain) for cell in cells) for cells in zip(*lines, strict=True)]
    for at, place in reversed([*enumerate(places)]):
        least = [
            min(width, LEAST) if columns[each].shortened else width
            for each, width in zip(places, widths, strict=True)
        ]
        if columns[place].least_width and sum(least) + GAP * (len(least) - 1) > room:
            del places[at], widths[at]
            for cells in lines:
                del cells[at]
    for at, place in enumerate(places):
        if columns[place].shortened:
            others = sum(widths) - widths[at] + GAP * (len(places) - 1)
            widths[at] = min(widths[at], max(LEAST, room - others))
    overflow: OverflowMethod = "ellipsis" if is_unicode(sys.stdout) else "crop"
    for line in lines:
        whole = Text(no_wrap=True)
        for place, cell, width in zip(places, line, widths, strict=True):
            cell.truncate(width, overflow=overflow)
            spaces = " " * (width - cell_len(cell.plain))
            whole.append_text(Text.assemble(spaces, cell) if columns[place].right else cell)
            whole.append(("" if columns[place].right else spaces) + " " * GAP)
        whole.rstrip()
        if cell_len(whole.plain) > room:  # too narrow for the other columns
            whole.truncate(room, overflow=overflow)
        write_text(whole)


def one_line(cell: str | Text) -> Text:
    """A cell of a table: without line breaks, or anything that a terminal would obey."""
    if isinstance(cell, Text):
        return cell
    return Text(" ".join(plain(cell).split()))


def span(seconds: float) -> str:
    """A time span in its largest unit: `40 s`, `5 min`, `2 days`."""
    amount, most = max(0.0, seconds), 1.0
    for count, one, many in UNITS:
        amount, most = amount / most, float(count)
        if amount < most:
            return f"{int(amount)} {one if int(amount) == 1 else many}"
    raise AssertionError  # the last unit has no next one


def megabytes(count: int) -> str:
    """A number of bytes in MB."""
    return f"{count / 1e6:,.0f} MB"
