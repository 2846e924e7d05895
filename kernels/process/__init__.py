"""A kernel's process: how it is launched, and the implementation for this machine.

`KernelProcess` is the interface that all kernels share, wherever they run.
"""

from ..kernelspecs import is_here, language_of
from ..runtime_dir import clear_after_dead, ipython_folder, runtime_folder
from .branch_process import BranchProcess, listed
from .kernel_process import KernelProcess, SetUp
from .launch import Launch, Origin, RemoteOptions, launch_in, next_step
from .local import LocalProcess
from .output_pipes import RawOutput
from .provisioner import install_target
from .socket_process import SocketProcess

__all__ = [
    "BranchProcess",
    "KernelProcess",
    "Launch",
    "LocalProcess",
    "Origin",
    "RawOutput",
    "RemoteOptions",
    "SetUp",
    "SocketProcess",
    "clear_after_dead",
    "install_target",
    "ipython_folder",
    "is_here",
    "language_of",
    "launch_in",
    "listed",
    "next_step",
    "runtime_folder",
]
