"""Parameters of a notebook, as papermill has them: a cell that sets them, injected after the
cell tagged `parameters`.

Knows Python's syntax and JSON values; nothing of files or kernels.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Iterable, Mapping
from typing import Any

DEEPEST = 50  # max levels of nested values
LONGEST = 1_000_000  # max characters of the injected cell


def code_of(parameters: Mapping[str, Any]) -> str:
    """The source of the cell that sets the parameters.

    Raises:
        ValueError: a name or value can't be set; says which and why.
    """
    lines = ["# Parameters"]
    for name, value in parameters.items():
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name[:60]!r} can't be a parameter, since it is no name of Python's")
        lines.append(f"{name} = {literal(value, name)}")
    source = "\n".join(lines)
    if len(source) > LONGEST:
        raise ValueError(
            f"the parameters have {len(source):,} characters as Python, more than {LONGEST:,}:"
            " write large data to a file and pass its name"
        )
    return source


def literal(value: Any, name: str, levels: int = DEEPEST) -> str:
    """A JSON value as Python.

    Raises:
        ValueError: it is nested too deeply.
    """
    if not levels:
        raise ValueError(f"the parameter {name} is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        inner = (f"{str(key)!r}: {literal(one, name, levels - 1)}" for key, one in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{', '.join(literal(one, name, levels - 1) for one in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def unknown(parameters: Iterable[str], source: str) -> list[str]:
    """Those parameters that the cell tagged `parameters` does not set; none if it can't be read."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            names |= {each.id for each in ast.walk(statement) if isinstance(each, ast.Name)}
    return [name for name in parameters if name not in names]
