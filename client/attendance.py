"""A person who waits for runs at a terminal, and what the server is asked for because of that.

A server that does not know these wishes ignores them. Knows runs by their session and number, not
terminals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KNOWN_WITHIN = 0.5  # seconds after which a call returns, so that its run can be stopped


@dataclass
class Attendance:
    """One person, who waits for one run at a time.

    Attributes:
        stdin: where a program's input comes from once it reads: a `terminal`, line by line, or a
            `pipe`, in pieces; empty if nobody is asked.
        session_id, cell: the run that goes on; None until it is known.
        on_known: called when it is.
    """

    stdin: str = ""
    session_id: str | None = None
    cell: int | None = None
    on_known: Callable[[], None] = lambda: None

    @property
    def wishes(self) -> dict[str, Any]:
        """What the server is asked for beside the arguments of a run."""
        return {"stdin": self.stdin, "unlimited": True, "deadline": KNOWN_WITHIN}

    def known(self, session_id: str, cell: int) -> None:
        """Note which run goes on."""
        before, self.session_id, self.cell = self.cell, session_id, cell
        if before is None:
            self.on_known()

    def stopping(self, *, kill: bool) -> dict[str, Any]:
        """What the server is asked for to stop the run: gently, or with its kernel."""
        return {"stop": "kill" if kill else "gently", "cell": self.cell}
