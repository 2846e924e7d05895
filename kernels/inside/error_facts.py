"""What a kernel tells its server about an error, so that hints have a cause that was checked.

Sent to the kernel as text, like `setup.py`; knows only exceptions.
"""

from __future__ import annotations

import contextlib
import errno
from types import TracebackType
from typing import Any

ERROR_PAYLOAD = "rmi_agent.error"
MOST_ERRORS = 8  # max exceptions described: an error and those behind it
MOST_PORTS = 50  # max numbers that may be the port of an address in use
LONGEST_FACT = 1000  # max characters of a name or text


def write_facts(shell: Any, errors: list[BaseException]) -> None:
    """Add to the current reply what is known of an error and those behind it."""
    with contextlib.suppress(BaseException):  # the cell's classes may raise anything
        facts = [facts_of(error) for error in errors[:MOST_ERRORS]]
        shell.payload_manager.write_payload({"source": ERROR_PAYLOAD, "errors": facts})


def facts_of(error: BaseException) -> dict[str, Any]:
    """Return an exception's name and text, and its `errno`, `filename` or missing name."""
    facts: dict[str, Any] = {"name": type(error).__name__}
    with contextlib.suppress(BaseException):
        facts["text"] = str(error)[:LONGEST_FACT]
        if isinstance(error, OSError):
            facts.update(errno=error.errno, filename=error.filename)
            if error.errno == errno.EADDRINUSE:
                facts["ports"] = ports_near(error.__traceback__)
        elif isinstance(error, (ImportError, NameError)):
            facts["missing"] = error.name
    kept = (str, int, list)
    return {key: value for key, value in facts.items() if type(value) in kept}


def ports_near(frames: TracebackType | None) -> list[int]:
    """Return the numbers that may be a port in the frames nearest to an error.

    The error does not say which port was in use; the server knows which of them is.
    """
    nearest = []
    while frames is not None:
        nearest.append(frames.tb_frame)
        frames = frames.tb_next
    found: dict[int, None] = {}
    for frame in nearest[:-6:-1]:
        near = [frame.f_code.co_consts, frame.f_locals]
        near += [vars(each) for each in frame.f_locals.values() if hasattr(each, "__dict__")]
        if frame.f_globals.get("__name__") == "__main__":
            near.append({name: frame.f_globals.get(name) for name in frame.f_code.co_names})
        for values in near:
            for value in list(values.values() if isinstance(values, dict) else values):
                for each in value if type(value) in (tuple, list) else [value]:
                    if type(each) is int and 0 < each < 65_536:
                        found[each] = None
    return list(found)[:MOST_PORTS]
