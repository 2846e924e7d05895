"""What the user has registered with `os.register_at_fork`, and a copy of the kernel would run.

Python does not tell, but its garbage collector knows the lists of these functions. Executed in a
template, like `setup.py`.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import sysconfig
from collections.abc import Iterator
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

from .wire import WIRES_HOOKS

LISTS = 3  # what runs before a fork, and after it in the parent and in the child
PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
STANDARD = sysconfig.get_path("stdlib") + os.sep
CACHED = type(functools.cache(lambda: None))


class ForkHooks:
    """Finds the functions that were registered after `note` was called."""

    def __init__(self) -> None:
        def nothing() -> None:
            """Only marks the lists."""

        os.register_at_fork(before=nothing, after_in_parent=nothing, after_in_child=nothing)
        self._lists = [each for each in gc.get_referrers(nothing) if type(each) is list]
        self.note()

    def note(self) -> None:
        """Take all that is registered by now for the kernel's own and its libraries'."""
        self._known = [len(each) for each in self._lists]
        self._librarys: dict[int, bool] = {}  # by identity: nothing leaves the lists

    def of_the_user(self) -> Iterator[str]:
        """What the user has registered, in a few words each; libraries repair only themselves."""
        if len(self._lists) != LISTS:
            yield "functions of os.register_at_fork, which can't be looked at,"
        for hooks, known in zip(self._lists, self._known, strict=True):
            for hook in hooks[known:]:
                if any(hook is own for own in WIRES_HOOKS):
                    continue
                if id(hook) not in self._librarys:
                    self._librarys[id(hook)] = is_a_librarys(hook)
                if not self._librarys[id(hook)]:
                    yield f"{name_of_hook(hook)} registered with os.register_at_fork"


def is_a_librarys(hook: Any) -> bool:
    """Whether this is a Python function of an installed library, or a method of what it has."""
    function = hook
    if type(hook) in (MethodType, BuiltinMethodType):
        owner = hook.__self__  # a lock, for example
        if type(owner) is not ModuleType and any(owner is one for one in globals_of_libraries()):
            return True
        function = owner.__wrapped__ if type(owner) is CACHED else None
    return type(function) is FunctionType and is_installed(function.__code__.co_filename)


def globals_of_libraries() -> Iterator[Any]:
    """The global variables of all installed libraries that are loaded."""
    for module in [*sys.modules.values()]:
        if issubclass(type(module), ModuleType):
            names = object.__getattribute__(module, "__dict__")  # or a lazy module is imported
            if type(file := names.get("__file__")) is str and is_installed(file):
                yield from [*names.values()]


def is_installed(file: str) -> bool:
    """Whether a file of Python code is of the standard library or of an installed package."""
    return file.startswith(STANDARD) or any(folder in file for folder in PACKAGES)


def name_of_hook(hook: Any) -> str:
    """What a function calls itself; objects of the user's are not asked."""
    known = type(hook) in (FunctionType, MethodType, BuiltinMethodType)
    function = hook.__func__ if type(hook) is MethodType else hook
    name = function.__name__ if known and type(function) is not MethodType else None
    return name if type(name) is str else "a function"
