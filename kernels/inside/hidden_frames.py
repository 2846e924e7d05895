"""Executes code with no stack frame beneath it, as an interpreter executes its main module.

Python offers no way to do that from Python, so the link from the code's frame to its caller's is
cut in CPython's own structures; where they look different, it stays. `inspect.stack()`,
`traceback.print_stack()`, loggers, warnings and faulthandler then see the code's frames alone.

Sent to the kernel as text, like `setup.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

WORD = ctypes.sizeof(ctypes.c_void_p)
# Of a frame object, after the fields of every object and a pointer: its interpreter frame.
INTERPRETER_FRAME = 3 * WORD
# Of an interpreter frame: the one that called it. Since Python 3.12 that is one of C's between the
# two, with the same layout.
PREVIOUS = 6 * WORD if sys.version_info < (3, 12) else WORD
STATE_WORDS = 32  # of a thread's state, among the first of which are its recursion limits
UNUSUAL = 7_919  # a recursion limit is recognized by what is added to it
KNOWN = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info < (3, 14)


def execute_alone(code: CodeType, namespace: dict[str, Any]) -> None:
    """Execute code as `exec` does, with no frame beneath it."""
    if KNOWN:
        before = sys.getprofile()

        def begin(frame: FrameType, event: str, _: Any) -> None:
            if event == "call" and frame.f_code is code:
                sys.setprofile(before)
                cut_off(frame)

        sys.setprofile(begin)
    try:
        exec(code, namespace)
    finally:
        sys.settrace(None)  # a debugger that the code has started must not step into ours
        nothing()  # since Python 3.13, the return from a call mends the thread's own link


@contextlib.contextmanager
def uncounted(frames: int) -> Iterator[None]:
    """Let code have as many frames as if so many were not beneath it.

    Where that can't be done, it has them by a higher `sys.getrecursionlimit()`.
    """
    limit, left = sys.getrecursionlimit(), frames_left()
    if left is None:
        sys.setrecursionlimit(limit + frames)
    else:
        left.value += frames
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
        if left is not None:
            left.value -= frames


def frames_left() -> ctypes.c_int | None:
    """Where this thread counts how many frames it may still enter; None if that is not found."""
    if sys.implementation.name != "cpython":
        return None
    state = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThreadState_Get", ctypes.pythonapi))()
    words, limit, place = (
        (ctypes.c_int * STATE_WORDS).from_address(state),
        sys.getrecursionlimit(),
        0,
    )
    sys.setrecursionlimit(limit + UNUSUAL)
    for number in range(1, STATE_WORDS):
        if words[number] == limit + UNUSUAL:
            place = number - 1  # it stands before the limit
            break
    sys.setrecursionlimit(limit)
    if not place or words[place + 1] != limit or not 0 < words[place] < limit:
        return None
    if words[place] - one_deeper(words, place) != 1:
        return None
    return ctypes.c_int.from_address(state + place * ctypes.sizeof(ctypes.c_int))


def one_deeper(words: ctypes.Array[ctypes.c_int], place: int) -> int:
    """The word at this place, while one more function is called."""
    return words[place]


def nothing() -> None:
    """Do nothing."""


def cut_off(frame: FrameType) -> None:
    """Make a frame the bottom of its stack, if it is linked as expected."""
    if (caller := frame.f_back) is None:
        return
    expected = word(id(caller) + INTERPRETER_FRAME).value
    link = word(word(id(frame) + INTERPRETER_FRAME).value + PREVIOUS)
    if link.value != expected and sys.version_info >= (3, 12):
        link = word(link.value + PREVIOUS)
    if link.value == expected:
        link.value = 0


def word(address: int) -> ctypes.c_size_t:
    """The machine word at an address of memory."""
    return ctypes.c_size_t.from_address(address)
