"""Runs pip in an environment that has none: `lent_pip.py FOLDER ARGUMENTS`.

The environment's own Python runs it, which may be an older one, so it uses nothing newer. FOLDER
has the package alone, without its metadata, so pip sees no package but the environment's.
"""

import runpy
import sys


def main() -> None:
    """Do what `python -m pip ARGUMENTS` does."""
    lent = sys.argv.pop(1)
    if getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, lent)
    else:
        sys.path[0] = lent
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
