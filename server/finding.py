"""What `doctor` says of one thing that it has looked at. Knows none of them."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from io import TextIOWrapper

MARKS = {True: "✓", False: "✗", None: "-"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether it is as it should be; None where there is nothing to be right or wrong.
        told: what was found.
        todo: what to do, where there is something.
    """

    what: str
    ok: bool | None
    told: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n    {self.todo}" if self.todo else ""
        return f"{MARKS[self.ok]} {self.what}: {self.told}{todo}"


def speak_plainly() -> None:
    """For commands that say in words what is amiss: no library's log, no missing letter's error."""
    logging.disable(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # consoles of Windows may have no ✓
