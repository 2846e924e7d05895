"""Deletes old records of sessions once, by hand: `rmi-agent sessions --prune 30d`.

Needs no server: the records are files, and those of open sessions are left alone.
"""

from __future__ import annotations

import sys

from ..console import die
from ..errors import BadSettings
from ..plurals import counted
from ..setting_types import duration
from ..settings import load


def prune(age: str) -> int:
    """Delete the records in RMI_AGENT_NOTEBOOKS_DIR whose last cell ran longer ago than `age`.

    Asks first at a terminal. Returns the exit code.
    """
    try:
        seconds = duration(age)
    except ValueError as error:
        die(BadSettings(f"--prune: {age!r} is no age; {error}."))
    try:
        folder = load().notebooks
    except BadSettings as error:
        die(error)
    from ...kernels import delete_notebook, outdated_notebooks, reason  # lazy: after the checks

    found = list(outdated_notebooks(folder, seconds))
    if not found:
        print(f"No session in {folder} ended over {age} ago, so nothing was deleted.")
        return 0
    many = counted(len(found), "notebook")
    if sys.stdin.isatty():
        answer = input(f"Delete {many} of sessions that ended over {age} ago, in {folder}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    deleted = failed = 0
    for notebook in found:
        try:
            deleted += delete_notebook(notebook)
        except OSError as error:
            failed += 1
            print(f"{notebook} could not be deleted: {reason(error)}", file=sys.stderr)
    print(f"Deleted {deleted:,} of {many} in {folder}.")
    return 1 if failed else 0


if __name__ == "__main__":  # started so by the client, which imports no server
    sys.exit(prune(sys.argv[1]))
