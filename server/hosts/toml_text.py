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
    document = tomlkit.parse(text)
    table_of: Any = document
    for name in above:
        table_of = table_of[name]
    if edit.removes:
        del table_of[key]
        return tomlkit.dumps(document).rstrip("\n") + "\n"  # without the line before a new entry
    table_of[key] = edit.value
    return tomlkit.dumps(document)
