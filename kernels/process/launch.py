"""How a kernel is started, and what its kernelspec says of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from ..addresses import JupyterServer, RemoteKernel
from ..fork import PRELOAD

OURS, LOCAL = "rmi-forkserver", "local-provisioner"


@dataclass(frozen=True)
class RemoteOptions:
    """What only kernels on other machines need.

    Attributes:
        env: variables for their provisioner, besides those of all kernels.
        silence: seconds without a sign of life after which one counts as lost.
        confined: whether one that was put on this machine after all is refused, since
            nothing here holds it in.
        files: whether they have the files in `Launch.cwd` by the same path ("shared"), are
            sent them ("sent"), or are looked at first ("auto").
        most: bytes of files that are sent.
        private: folders that are never sent.
    """

    env: dict[str, str] = field(default_factory=dict)
    silence: float = 3.0
    confined: bool = False
    files: Literal["auto", "sent", "shared"] = "auto"
    most: int = 50_000_000
    private: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Launch:
    """How a kernel is started.

    Attributes:
        cwd: the folder that it starts in.
        runtime: a private folder for connection files and sockets; its path is short,
            since a socket's may have 107 bytes.
        kernel_name: the kernelspec.
        env: all the environment that the process gets.
        start_timeout: seconds until the first answer.
        output_limit: characters of one message's text; 0 is no limit.
        preload: modules that forked kernels have imported already, where they are installed.
        sockets: where the kernel makes its sockets; in `runtime` if left out.
        socket_store: a folder that no kernel can reach, beside `sockets`: the sockets are moved
            there before anybody connects to them.
        wrap: what to put before a command that begins with this interpreter: a sandbox.
        last_filter: a program for seccomp, in hexadecimal, that kernels apply before their
            user's first line; those that can't be forked are refused then.
        template_overrides: variables that a template has otherwise; None is none. What kernels
            can write is not to run in one.
        mark: begins the mark that the process and all it starts carry in their environment.
        far: how it is with kernels of other machines.
        servers: Jupyter Servers, one of which runs the kernel; none is this machine.
        attach: a kernel on one of them that is there already, to be used instead of a new one.
    """

    cwd: Path
    runtime: Path
    kernel_name: str = "python3"
    env: dict[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0
    output_limit: int = 0
    preload: tuple[str, ...] = PRELOAD
    sockets: Path | None = None
    socket_store: Path | None = None
    wrap: Callable[[str], list[str]] | None = None
    last_filter: str = ""
    template_overrides: dict[str, str | None] = field(default_factory=dict)
    mark: str = "kernel"
    far: RemoteOptions = field(default_factory=RemoteOptions)
    servers: tuple[JupyterServer, ...] = ()
    attach: RemoteKernel | None = None


def is_here(kernel_name: str) -> bool:
    """Whether a kernelspec's kernels run on this machine: its provisioner may put them elsewhere.

    One that is not there would, for all that is known.
    """
    try:
        metadata = KernelSpecManager().get_kernel_spec(kernel_name).metadata
    except NoSuchKernel:  # starting it will say so
        return True
    return metadata.get("kernel_provisioner", {}).get("provisioner_name", OURS) in (OURS, LOCAL)


def no_such(kernel_name: str) -> str:
    """Why there are no kernels of this name, and what to do."""
    if kernel_name in KernelSpecManager().find_kernel_specs():
        return (
            f"The kernelspec {kernel_name!r} names a provisioner that is not installed beside this"
            " server: install its package there (gateway-provisioners, say)."
        )
    return (
        f"There is no kernel named {kernel_name!r}. Set RMI_AGENT_KERNEL_NAME to one that `jupyter"
        " kernelspec list` shows."
    )


def language_of(kernel_name: str) -> str:
    """The language of a kernelspec, in lower case; Python where there is none to ask."""
    try:
        return str(KernelSpecManager().get_kernel_spec(kernel_name).language).lower()
    except NoSuchKernel:
        return "python"
