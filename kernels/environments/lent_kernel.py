"""Starts a kernel in an environment that has no ipykernel: `lent_kernel.py FOLDER ARGUMENTS`.

The environment's own Python runs it, which may be an older one, so it uses nothing newer. The
lent packages in FOLDER come after all others in the path.
"""

import contextlib
import os
import runpy
import sys


def main() -> None:
    """Do what `python -m ipykernel_launcher ARGUMENTS` does, with the lent packages."""
    lent = sys.argv.pop(1)
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this program's folder
    sys.path.append(lent)
    for used in (sys.prefix, lent):
        with contextlib.suppress(OSError):
            os.utime(used)  # see `tidy_store.py`
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
