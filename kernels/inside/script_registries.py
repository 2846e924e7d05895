"""Where the standard library keeps what it ends at a process's exit.

Sent to the kernel as text, like `setup.py`; knows nothing about scripts. Much of it is private:
what a Python does not have counts as empty.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(known: set[Any], registry: Any) -> Iterator[bool]:
    """Remove known entries from a set or mapping, and put them back afterwards.

    Yields whether there were any.
    """
    hidden = {key: registry for key in list(registry) if key in known}
    if isinstance(registry, set):
        registry.difference_update(hidden)
    else:
        hidden = {key: registry.pop(key) for key in hidden}
    try:
        yield bool(hidden)
    finally:
        registry.update(hidden)


def library_of(function: Any) -> dict[str, Any]:
    """Return the namespace of the module that defines a function; empty for any other callable."""
    namespace = getattr(function, "__globals__", {})
    name = getattr(function, "__name__", None)
    return namespace if namespace.get(name) is function else {}


def function_of(call: Any) -> Any:
    """Return the function that a call by `threading` is for; None if that can't be found out."""
    if hasattr(call, "func"):
        return call.func
    names = getattr(getattr(call, "__code__", None), "co_freevars", ())  # since Python 3.13
    return call.__closure__[names.index("func")].cell_contents if "func" in names else None


def tables_of(call: Any) -> list[Any]:
    """Return the tables, maybe empty, of threads that a library ends in a call by `threading`."""
    return [
        value
        for value in library_of(function_of(call)).values()
        if isinstance(value, weakref.WeakKeyDictionary)
        and all(isinstance(key, threading.Thread) for key in value)
    ]


def threading_calls() -> list[Any]:
    """Return the mutable list of what `threading` calls before it joins threads."""
    return getattr(threading, "_threading_atexits", [])


def log_handlers() -> list[Any]:
    """Return references to the handlers that `logging` flushes and closes at exit."""
    return getattr(logging, "_handlerList", [])


def cleanups() -> dict[Any, Any]:
    """Return the mutable registry of what `multiprocessing` cleans up at exit."""
    module = sys.modules.get("multiprocessing.util")
    return vars(module)["_finalizer_registry"] if module is not None else {}


def children() -> set[Any]:
    """Return the mutable set of child processes that `multiprocessing` joins at exit."""
    module = sys.modules.get("multiprocessing.process")
    return vars(module)["_children"] if module is not None else set()
