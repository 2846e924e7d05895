"""Keeps frames of the kernel's own programs out of the tracebacks that it reports.

An interrupt is raised by a handler of ours, `input()` by a function of ours; what called them is
the user's. Sent to the kernel as text, like `setup.py`; knows only exceptions and IPython's shell.
"""

from __future__ import annotations

import builtins
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from .error_facts import write_facts

OWN_FILE = (lambda: 0).__code__.co_filename  # of all programs that are sent to a kernel
# Modules that call, or are called by, ipykernel; the user's own calls of them are shown.
USED_BY_KERNEL = {
    "zmq",
    "jupyter_client",
    "traitlets",
    "tornado",
    "threading",
    "selectors",
    "queue",
    "json",
}
EXIT_ADVICE = "An exception has occurred, use %tb"  # of IPython, for a SystemExit
GROUPS: Any = getattr(builtins, "BaseExceptionGroup", ())


def hide_own_frames(shell: Any) -> None:
    """Make a shell report errors without the frames of the kernel's own programs."""
    show, send = shell.showtraceback, shell._showtraceback

    def show_users(exc_tuple: Any = None, *options: Any, **more: Any) -> None:
        error = exc_tuple[1] if isinstance(exc_tuple, tuple) else sys.exc_info()[1]
        remove_own_frames(error)
        errors = list(all_behind(error))
        write_facts(shell, errors)
        if any(map(is_group, errors)):
            show_group(shell, error)
        else:
            show(exc_tuple, *options, **more)

    def send_users(kind: Any, error: Any, lines: Any) -> None:
        if isinstance(lines, list) and str(lines[:1]).startswith(EXIT_ADVICE, 2):
            lines = lines[1:]
        send(kind, error, lines)

    shell.showtraceback, shell._showtraceback = show_users, send_users
    # IPython's advice would end the session.
    warnings.filterwarnings("ignore", "To exit: use 'exit'", UserWarning)


def remove_own_frames(error: BaseException | None) -> None:
    """Remove them from an exception's traceback, and from those of the exceptions behind it."""
    for each in all_behind(error):
        frames = vars(BaseException)["__traceback__"].__get__(each)
        cut = first_of_kernel(frames)
        while frames is not None:
            behind = frames.tb_next
            while behind is not None and (behind is cut or is_own_frame(behind)):
                behind = None if behind is cut else behind.tb_next
            if behind is not frames.tb_next:
                frames.tb_next = behind
            frames = behind


def all_behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that it was raised from, or that it groups."""
    seen, waiting = set(), [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        # The cell's classes may define any of these.
        waiting += (
            vars(BaseException)[name].__get__(each) for name in ("__cause__", "__context__")
        )
        if is_group(each):
            waiting += vars(GROUPS)["exceptions"].__get__(each)


def is_group(error: BaseException) -> bool:
    """Return whether an exception is a group, whatever its class claims."""
    return bool(GROUPS) and issubclass(type(error), GROUPS)


def show_group(shell: Any, error: Any) -> None:
    """Report an exception group; IPython would print it, with its own frames, to stderr."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and is_of_shell(frames):
        frames = frames.tb_next
    error.__traceback__ = frames
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames

    def cell(file: re.Match[str]) -> str:
        name = shell.compile.format_code_name(file[1])
        return " ".join(name) if name else file[0]

    lines = "".join(traceback.format_exception(type(error), error, frames)).splitlines()
    shell._showtraceback(type(error), error, [re.sub('File "(.*?)"', cell, each) for each in lines])


def is_of_shell(frames: TracebackType) -> bool:
    """Return whether a traceback begins with a frame of IPython."""
    return str(frames.tb_frame.f_globals.get("__name__")).startswith("IPython.")


def first_of_kernel(frames: TracebackType | None) -> TracebackType | None:
    """Return the frame from which on a traceback has only frames of ours and of ipykernel."""
    found = None
    while frames is not None:
        module = str(frames.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if is_own_frame(frames) or module == "ipykernel":
            found = found or frames
        elif module not in USED_BY_KERNEL:
            found = None
        frames = frames.tb_next
    return found


def is_own_frame(frames: TracebackType) -> bool:
    """Return whether a traceback begins with a frame of a program that was sent to the kernel."""
    return frames.tb_frame.f_code.co_filename == OWN_FILE
