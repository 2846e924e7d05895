"""What a kernel's event loop survives, and how a kernel's process ends.

Executed in a template, like `setup.py`; knows asyncio and processes, nothing of messages.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import sys
import threading
import traceback
from typing import Any, NoReturn


def with_new_descriptors(loop: Any, broken: list[Any]) -> bool:
    """Give a loop whose descriptors were closed others; returns whether that is possible.

    Args:
        loop: not running; what waits for a time goes on, what waits for a descriptor does not.
        broken: takes what must not be closed.
    """
    try:
        broken.append(loop._selector)
        loop._selector = selectors.DefaultSelector()
        for end in (loop._ssock, loop._csock):
            end.detach()
        loop._make_self_pipe()
    except AttributeError:  # of a Python whose loops are different
        return False
    return True


def is_of_loop(error: Exception) -> bool:
    """Whether an event loop has raised an error itself, rather than a signal's handler in it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("asyncio", "selectors")


def leave_kernel() -> NoReturn:
    """Exit as usual, except that objects are not torn down one by one.

    That would copy most of the memory shared with the template, only to discard it. The
    children of `multiprocessing` exit in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)
