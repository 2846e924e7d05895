"""Builds a folder by running commands, inside the sandbox of those whose folder it is.

Its stdin is JSON: `commands` to run one after the other, in which "{new}" stands for the
unfinished `folder`, which gets its name once all have succeeded, and "{script}" for a file with the
text `script`, beside which `lock` is its lock file. Prints what the commands print and exits with
the code of the one that fails. Uses the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time


def main() -> int:
    """Build the folder; returns the exit code."""
    given = json.load(sys.stdin)
    folder = given["folder"]
    if os.path.exists(folder):
        return 0
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    new = f"{folder}.new{os.getpid()}.{time.time_ns():x}"
    texts = {f"{new}.py": given["script"], f"{new}.py.lock": given["lock"]}
    try:
        for path, text in texts.items():
            if text:
                with open(path, "x", encoding="utf-8", newline="") as file:
                    file.write(text)
        for command in given["commands"]:
            words = [{"{new}": new, "{script}": f"{new}.py"}.get(word, word) for word in command]
            env = {**os.environ, "VIRTUAL_ENV": new}
            code = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, check=False).returncode
            if code:
                return code if code > 0 else 128 - code
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        for path in texts:
            with contextlib.suppress(OSError):
                os.remove(path)
    return 0 if os.path.exists(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
