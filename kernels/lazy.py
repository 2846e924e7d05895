"""Names that a package imports on first access, since most programs need only a few of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping


def imports(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package that offers names of modules that it has not imported.

    Args:
        package: its `__name__`.
        homes: the modules in it, each with the names that it has.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(importlib.import_module(f".{home_of[name]}", package), name)
        setattr(sys.modules[package], name, found)  # later accesses skip this function
        return found

    return __getattr__
