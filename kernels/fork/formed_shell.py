"""The shell of kernels that open ZMQ sockets, formed in a template before they are forked.

It is a third of what such a kernel's start costs. Nothing of the user's runs in the template: a
shell for which there are configuration files or arguments is made after the fork, as usual. Loaded
by `zygote.py` without a trace in `sys.modules`; uses the standard library and ipykernel only.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from typing import Any

_formed: list[Any] = []  # the shell, until there is a kernel


def form() -> str:
    """Form the shell, in a template that has loaded what kernels need; returns why it could not."""
    try:
        _formed.append(new_shell())
    except Exception as error:  # of a version of ipykernel or IPython that does it differently
        return repr(error)
    return ""


def new_shell() -> Any:
    """Make a shell as ipykernel's kernel does, but without its database of history."""
    from ipykernel.compiler import XCachingCompiler
    from ipykernel.kernelapp import IPKernelApp
    from ipykernel.zmqshell import ZMQInteractiveShell
    from IPython.core.profiledir import ProfileDir
    from traitlets.config.loader import Config

    app: Any = IPKernelApp
    app.init_pdb(None)  # before the shell chooses its debugger
    profile: Any = ProfileDir
    with tempfile.TemporaryDirectory() as folder:
        return ZMQInteractiveShell.instance(
            # A database can't be open across a fork, nor a thread that writes to it.
            config=Config(HistoryManager={"enabled": False}),
            profile_dir=profile.create_profile_dir_by_name(folder, "default"),
            compiler_class=XCachingCompiler,
        )


def init_kernel(app: Any, plain: bool) -> None:
    """Make an application's kernel, with the formed shell where `plain` and nothing configured."""
    shell = _formed.pop() if _formed else None
    if shell is None:
        type(app).init_kernel(app)
    elif plain and not app.loaded_config_files:
        type(app).init_kernel(app)
        enter(shell, app)
    else:
        atexit.unregister(shell.atexit_operations)
        type(shell).clear_instance()
        type(app).init_kernel(app)


def enter(shell: Any, app: Any) -> None:
    """Give the shell what it would have found if it had been made now, by `app`'s kernel."""
    kernel = app.kernel
    shell.parent = shell.kernel = kernel
    shell.config = kernel.config
    shell.profile_dir, shell.ipython_dir = app.profile_dir, app.ipython_dir
    shell.starting_dir = os.getcwd()
    shell.init_environment()
    shell.init_virtualenv()
    shell.save_sys_module_state()
    shell.init_encoding()
    place = shell.configurables.index(shell.history_manager)
    shell.init_history()
    shell.configurables[place] = shell.configurables.pop()
    shell.init_user_ns()
    # What was registered last runs first: before the channels close.
    atexit.unregister(shell.atexit_operations)
    atexit.register(shell.atexit_operations)
