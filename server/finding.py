"""The result of one check of `doctor`. Knows none of the checks."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from io import TextIOWrapper

MARKS = {True: "✓", False: "✗", None: "-"}


@dataclass(frozen=True)
class CheckResult:
    """What one check has found.

    Attributes:
        what: the name of the check.
        ok: whether it passed; None if there was nothing to check.
        told: what was found.
        todo: the next step, if there is one.
    """

    what: str
    ok: bool | None
    told: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n    {self.todo}" if self.todo else ""
        return f"{MARKS[self.ok]} {self.what}: {self.told}{todo}"


def speak_plainly() -> None:
    """Silence libraries' logs and encode what a console lacks, so that only our words show."""
    logging.disable(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # consoles of Windows may have no ✓
