"""Wrong tokens on pages: how long each takes, and when the page is shut because of them.

Counts for all callers together, since none of them is known. Knows nothing of what is signed in to.
"""

from __future__ import annotations

import math
import time
from collections import deque

WRONG, WRONG_SECONDS = 30, 600.0  # of all callers together, and then nobody can sign in
SLOW = 1.0  # seconds that a wrong token takes
WRONG_TOKEN = "That is not a token of this server."


class WrongTokens:
    """When wrong tokens were given of late."""

    def __init__(self) -> None:
        self._when: deque[float] = deque(maxlen=WRONG)

    def add(self) -> None:
        """Count one."""
        self._when.append(time.monotonic())

    def wait(self) -> float:
        """Seconds until a token is looked at again; 0 is now."""
        if len(self._when) < WRONG:
            return 0
        return max(0.0, self._when[0] + WRONG_SECONDS - time.monotonic())


def shut(wait: float) -> str:
    """What is said while no token is looked at, for `wait` seconds more."""
    minutes = math.ceil(wait / 60)
    return (
        "Too many wrong tokens were given here, by you or by others. Nobody can sign in for"
        f" {minutes} {'minute' if minutes == 1 else 'minutes'}; try again then."
    )
