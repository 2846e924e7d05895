"""The prompt's own commands, such as `:save notes.ipynb`: which there are, and saving.

Knows files and notebooks; nothing about the prompt or the server.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..plurals import counted
from ..whole_file import write_whole

COMMAND = re.compile(r"\s*:(?P<name>[a-z]*)(?P<force>!?)(?:[ \t]+(?P<argument>[^\n]*))?\s*")
HELP = """\
:save FILE.ipynb  save this session as a notebook (:save! replaces a file)
%undo             go back to before the last cell; files and the like stay as they are
:restart          start a fresh kernel; variables are lost
:help             show this list
Tab completes, name? and name?? show help, %who and !ls work as in IPython.
Alt-Enter runs what is typed, Ctrl-C interrupts the cell, Ctrl-D exits.
"""
NEW_FILE = 0o666  # permissions of a new file, before the umask
NOT_A_NOTEBOOK = "Name a notebook: :save FILE.ipynb"


def save_notebook(text: str, name: str, own: Collection[int], *, replace: bool) -> str:
    """Save a session's notebook in a file; returns what to print.

    Args:
        text: the notebook's JSON.
        name: the file, relative to the current folder.
        own: numbers of the cells in the session that the prompt ran itself; they are left out,
            as are those that are undone.
        replace: whether to replace a file that exists.

    Raises:
        ValueError: it can't be saved there; the text says why.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix != ".ipynb":
        raise ValueError(NOT_A_NOTEBOOK)
    notebook: dict[str, Any] = json.loads(text)
    notebook["cells"] = [
        cell for cell in notebook["cells"] if number_of(cell) not in own and not is_undone(cell)
    ]
    content = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    try:
        if path.exists() and not replace:
            raise FileExistsError(errno.EEXIST, f"it exists; :save! {name} replaces it")
        write_whole(path.resolve(), content, NEW_FILE & ~umask())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", error)
        raise ValueError(f"{path} can't be written: {why}.") from error
    return f"Saved {counted(len(notebook['cells']), 'cell')} in {path.resolve()}"


def number_of(cell: dict[str, Any]) -> int | None:
    """A cell's number in its session."""
    number = cell["metadata"].get("rmi_agent", {}).get("cell")
    return number if isinstance(number, int) else None


def is_undone(cell: dict[str, Any]) -> bool:
    """Whether the session has gone back to before a cell."""
    return bool(cell["metadata"].get("rmi_agent", {}).get("undone"))


def umask() -> int:
    """This process's umask, which can only be read by setting it."""
    os.umask(mask := os.umask(0o077))
    return mask
