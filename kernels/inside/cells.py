"""Prepares a kernel for cells that were written for other places: scripts, a terminal, a REPL.

Sent to the kernel as text, like `setup.py`; knows IPython's shell.
"""

from __future__ import annotations

import sys
from typing import Any

from .binary_streams import add_binary_sides
from .commands import end_questions_of_commands
from .figures import Figures
from .spawning import refuse_what_spawned_pools_lack


def prepare_cells(shell: Any, figures: Figures) -> None:
    """Let cells find what an interactive interpreter has, and be told what can't work."""
    sys.argv = [""]  # as in `python -i`; cells that parse it must not find the kernel's
    sys.breakpointhook = sys.__breakpointhook__  # debugpy's does nothing without a debugger
    shell.enable_tip = False  # a `kernel_info_request` would draw it from the user's `random`
    for name in {"rlcompleter"} & sys.modules.keys():  # of the debugger, since Python 3.13
        vars(sys.modules[name])["__main__"] = sys.modules["__main__"]
    end_questions_of_commands()
    add_binary_sides()
    refuse_what_spawned_pools_lack(shell)
    shell.events.register("post_execute", figures.after_cell)
