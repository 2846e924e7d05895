"""The result of one check of `doctor`. Knows none of the checks."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = {True: "✓", False: "✗", None: "-"}


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        what: the check's name.
        ok: whether it passed; None if there was nothing to check.
        detail: the finding, in one line.
        todo: the next step, if any.
    """

    what: str
    ok: bool | None
    detail: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n    {self.todo}" if self.todo else ""
        return f"{MARKS[self.ok]} {self.what}: {self.detail}{todo}"
