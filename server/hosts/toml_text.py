"""TOML config files, edited in place with `tomlkit`: comments, order and layout stay.

A new entry becomes a table at the end of the file, where TOML allows one whatever comes before.
"""

from __future__ import annotations

import tomllib
from typing import Any

from .edits import Edit


def parse(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: the text is no TOML.
    """
    return tomllib.loads(text)


def edited(text: str, edit: Edit) -> str:
    """Apply an edit; the caller checks the result, since not all layouts can be edited."""
    import tomlkit  # lazy: only Codex needs it

    *above, key = edit.path
    if not edit.removes and isinstance(edit.value, dict) and len(edit.path) <= 2:
        table = tomlkit.table(is_super_table=True)
        entries = {key: edit.value} if above else edit.value
        for name, entry in entries.items():
            table.append(str(name), tomlkit.item(entry))
        added = tomlkit.document()
        added.append(str(above[0] if above else key), table)
        gap = "" if not text.strip() else "\n" if text.endswith("\n") else "\n\n"
        return text + gap + tomlkit.dumps(added)
    if edit.removes and (left := without_tables(text, edit.path)) is not None:
        return left
    document = tomlkit.parse(text)
    table_of: Any = document
    for name in above:
        table_of = table_of[name]
    if edit.removes:
        del table_of[key]
        return tomlkit.dumps(document).rstrip("\n") + "\n"  # without the line before a new entry
    old = table_of.get(key)
    if isinstance(old, list) and "#" in tomlkit.item(old).as_string():
        raise ValueError("its comments would be lost")
    body = table_of.value.body if isinstance(table_of, tomlkit.items.Table) else []
    behind: list[Any] = []  # comments about what follows the table, and empty lines
    while key not in table_of and body and body[-1][0] is None:
        behind.insert(0, body.pop())
    table_of[key] = edit.value
    body.extend(behind)
    return tomlkit.dumps(document)


def without_tables(text: str, path: tuple[str | int, ...]) -> str | None:
    """The text without the tables whose headers have a path; None if there are none.

    Comments behind a table stay, since they are about what follows; `tomlkit` takes them with it.
    """
    kept: list[str] = []
    behind: list[str] = []  # comments and empty lines of a table that goes, so far its last lines
    goes = found = False
    for line in text.splitlines(keepends=True):
        if keys := header(line):
            went, goes = goes, keys[: len(path)] == path
            if went and not goes:
                kept += behind
            found, behind = found or goes, []
        if not goes:
            kept.append(line)
        elif line.strip() and not line.lstrip(" \t").startswith("#"):
            behind = []
        elif behind or line.strip():
            behind.append(line)
    # Without the line before a new entry.
    return "".join(kept + behind).rstrip("\n") + "\n" if found else None


def header(line: str) -> tuple[str, ...]:
    """The keys in a table's header; none if the line is something else."""
    if not line.lstrip(" \t").startswith("["):
        return ()
    try:
        at: Any = tomllib.loads(line)
    except ValueError:
        return ()
    keys = []
    while isinstance(at, dict) and at:
        key, at = next(iter(at.items()))
        keys.append(key)
    return tuple(keys)
