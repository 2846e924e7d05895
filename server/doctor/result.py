"""The result of one check of `doctor`. Knows none of the checks."""

from __future__ import annotations

from dataclasses import dataclass

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
