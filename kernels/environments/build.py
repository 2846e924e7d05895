"""Builds a folder by running commands, inside the sandbox of those whose folder it is.

Its argument is JSON: `commands` to run one after the other, in which "{new}" stands for the
unfinished `folder`, which gets its name once all have succeeded, and "{script}" for a file with the
text `script`; and `keep`, how many folders beside it are kept. Prints what the commands print and
exits with the code of the one that fails.
Uses the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

UNUSED = 86_400.0  # seconds; folders used in this time are kept


def main() -> int:
    """Build the folder; returns the exit code."""
    given = json.loads(sys.argv[1])
    folder = given["folder"]
    if os.path.exists(folder):
        return 0
    above = os.path.dirname(folder)
    os.makedirs(above, exist_ok=True)
    new = f"{folder}.new{os.getpid()}.{time.time_ns():x}"
    script = f"{new}.py"
    try:
        if given["script"]:
            with open(script, "x", encoding="utf-8") as file:
                file.write(given["script"])
        for command in given["commands"]:
            words = [{"{new}": new, "{script}": script}.get(word, word) for word in command]
            env = {**os.environ, "VIRTUAL_ENV": new}
            code = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, check=False).returncode
            if code:
                return code if code > 0 else 128 - code
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.remove(script)
    remove_unused(above, given["keep"])
    return 0 if os.path.exists(folder) else 1


def remove_unused(above: str, keep: int) -> None:
    """Remove the folders that were used least recently, and what unfinished builds have left."""
    ages: list[tuple[float, str]] = []
    for name in os.listdir(above):
        path = os.path.join(above, name)
        with contextlib.suppress(OSError):
            ages.append((os.stat(path, follow_symlinks=False).st_mtime, path))
    ages.sort(reverse=True)
    limit = time.time() - UNUSED
    for number, (used, path) in enumerate(ages):
        if used < limit and (number >= keep or ".new" in os.path.basename(path)):
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.remove(path)  # a script


if __name__ == "__main__":
    sys.exit(main())
