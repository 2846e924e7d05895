"""Finds a module for `python -m`, as `runpy` does.

Sent to the kernel as text, like `setup.py`; knows nothing about how the module's code is run.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from types import CodeType
from typing import Any


def find_module(name: str, main: dict[str, Any]) -> CodeType:
    """Find a module, or a package's `__main__`, and make it the main module.

    Args:
        name: of the module.
        main: the namespace of `__main__`, which gets the module's `__spec__` and what follows
            from it; as does `sys.argv[0]`.

    Raises:
        SystemExit: there is none; its code is Python's message.
    """
    runpy_: Any = runpy
    # What the kernel has imported does not count: `runpy` would warn that it will run twice.
    imported = sys.modules.pop(name, None) if "." in name else None
    try:
        _, spec, code = runpy_._get_module_details(name, runpy_._Error)
    except runpy_._Error as error:
        top, missing = name.partition(".")[0], None
        if top and top not in sys.modules and importlib.util.find_spec(top) is None:
            missing = ModuleNotFoundError(str(error), name=top)
        raise SystemExit(f"{sys.executable}: {error}") from missing
    finally:
        if imported is not None:
            sys.modules.setdefault(name, imported)
    main.update(
        __file__=spec.origin,
        __cached__=spec.cached,
        __doc__=None,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
    )
    sys.argv[0] = spec.origin
    return code  # type: ignore[no-any-return]
