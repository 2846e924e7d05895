"""How a kernel is started, and what its kernelspec says about it beforehand."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from ..addresses import JupyterServer, PersonsKernel, RemoteKernel
from ..environments import LENT_KERNEL, Environment
from ..fork import PRELOAD
from ..kernelspecs import OURS, spec_folders

if TYPE_CHECKING:
    from .socket_process import SocketProcess

SPEC_LIFETIME = 2.0  # seconds; to find and read a kernelspec takes 2 ms

# By name and Jupyter's path, with the time when it was read.
_SPECS: dict[tuple[str, str | None], tuple[float, KernelSpec]] = {}


@dataclass(frozen=True)
class RemoteOptions:
    """Options for kernels on other machines.

    Attributes:
        env: variables for their provisioner, in addition to those of all kernels.
        silence: seconds without a sign of life after which a kernel counts as lost.
        confined: whether to refuse a kernel that was placed on this machine after all, since
            no sandbox confines it here.
        files: whether they see the files in `Launch.cwd` at the same path ("shared"), are
            sent them ("sent"), or are checked first ("auto").
        max_bytes: of all files to send together.
        private: folders that are never sent.
    """

    env: dict[str, str] = field(default_factory=dict)
    silence: float = 3.0
    confined: bool = False
    files: Literal["auto", "sent", "shared"] = "auto"
    max_bytes: int = 50_000_000
    private: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Launch:
    """How a kernel is started.

    Attributes:
        cwd: the folder that it starts in.
        runtime: a private folder for connection files and sockets; its path is short, since
            a socket's path may have at most 107 bytes.
        kernel_name: the kernelspec.
        env: the complete environment of the process.
        start_timeout: max seconds until the first answer.
        output_limit: max characters of one message's text; 0 is no limit.
        preload: modules that forked kernels have already imported, if they are installed.
        sockets: where the kernel creates its sockets; `runtime` if None.
        socket_store: a folder next to `sockets` that no kernel can reach: the sockets are moved
            there before anybody connects to them.
        environment: the virtual environment that it runs in, instead of the kernelspec's.
        wrap: returns the sandbox command to prepend to a command that starts this interpreter.
        tool_wrap: the same for programs of ours, such as uv, if it differs.
        package_env: more variables for uv, about package indexes.
        venv: returns where kernels of an interpreter make their user's own environment, without
            the version of Python; None if they use the interpreter's own.
        last_filter: a seccomp program in hexadecimal that kernels apply before their user's
            first line; with it, kernels that can't be forked are refused.
        template_overrides: variables with other values in a template, so that it runs nothing
            that kernels can write; None unsets one.
        mark: prefix of the mark that the process and all it starts carry in their environment.
        remote_options: options for kernels on other machines.
        servers: Jupyter Servers, one of which runs the kernel; empty means this machine.
        attach: an existing kernel on one of them, to be used instead of a new one.
        branch_of: a kernel of this launch that is forked to make the new one.
        join: a person's kernel, to be used instead of a new one and left as it is.
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
    environment: Environment | None = None
    wrap: Callable[[str], tuple[str, ...]] | None = None
    tool_wrap: Callable[[str], tuple[str, ...]] | None = None
    package_env: dict[str, str] = field(default_factory=dict)
    venv: Callable[[str], Path | None] = field(default=lambda _: None)
    last_filter: str = ""
    template_overrides: dict[str, str | None] = field(default_factory=dict)
    mark: str = "kernel"
    remote_options: RemoteOptions = field(default_factory=RemoteOptions)
    servers: tuple[JupyterServer, ...] = ()
    attach: RemoteKernel | None = None
    branch_of: Origin | None = None
    join: PersonsKernel | None = None


@dataclass(frozen=True)
class Origin:
    """A kernel that another one is to be forked from; nothing runs on it.

    Attributes:
        process: its process.
        ask: asks it whether it can be forked, given `for_death`; returns the content of its
            `fork_reply`.
        sleeps: whether the new one does nothing until it is woken, to go on in its place.
        for_death: max bytes that the kernel may use if the new one is kept for its death; else 0.
    """

    process: SocketProcess
    ask: Callable[[int], Awaitable[dict[str, Any]]]
    sleeps: bool = False
    for_death: int = 0


def shown(launch: Launch) -> str:
    """How messages name what a kernel runs in."""
    if launch.environment is not None:
        return f"The environment {launch.environment.name!r}"
    return f"The kernel {launch.kernel_name!r}"


def next_step(launch: Launch) -> str:
    """What to do if a kernel that was launched so does not start."""
    if launch.join is not None:
        return (
            "Make sure that it still runs, and try again once it is idle: some kernels answer"
            " nobody while a cell runs."
        )
    if launch.environment is not None and launch.environment.kind != "kernelspec":
        name = launch.environment.name
        return f"Try again; if it fails again, correct {name} or pass environment='default'."
    return "Try again."


def launch_in(launch: Launch, environment: Environment | None) -> Launch:
    """The launch of a kernel in another environment than the default one."""
    if environment is None:
        return launch
    if environment.kind != "kernelspec":
        return replace(launch, environment=environment)
    venv = functools.partial(named_like, launch.venv, environment.name)
    return replace(launch, kernel_name=environment.name, venv=venv)


def named_like(
    venv: Callable[[str], Path | None], kernel_name: str, interpreter: str
) -> Path | None:
    """Where kernels of another kernelspec make their user's own environment."""
    path = venv(interpreter)
    return path and path.with_name(kernel_name)


def spec_of(launch: Launch, *, forked: bool = False) -> KernelSpec:
    """The kernelspec of a launch: the named one, or one for its environment.

    Args:
        launch: how the kernel is started.
        forked: whether it is to be formed in a template and forked.

    Raises:
        NoSuchKernel: there is none of that name.
    """
    environment = launch.environment
    if environment is None:
        return kernel_spec(launch.kernel_name)
    program = ["-m", "ipykernel_launcher"]
    if environment.lent is not None and not forked:
        program = [str(LENT_KERNEL), str(environment.lent)]
    return KernelSpec(
        argv=[environment.python, *program, "-f", "{connection_file}"],
        display_name=f"Python {environment.version} ({environment.name})",
        language="python",
        metadata={"kernel_provisioner": {"provisioner_name": OURS, "config": {"fork": forked}}},
    )


class OneSpec(KernelSpecManager):
    """The kernelspecs of a kernel manager whose kernel is launched in an environment."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(kernel_dirs=spec_folders())
        self._launch = launch

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernelspec of the launch, whatever the name."""
        return spec_of(self._launch)


def kernel_spec(kernel_name: str) -> KernelSpec:
    """The kernelspec of a name; a changed one is seen after `SPEC_LIFETIME` seconds.

    Raises:
        NoSuchKernel: there is none.
    """
    key = (kernel_name, os.environ.get("JUPYTER_PATH"))
    read, spec = _SPECS.get(key, (-SPEC_LIFETIME, None))
    if spec is None or time.monotonic() > read + SPEC_LIFETIME:
        spec = KernelSpecManager(kernel_dirs=spec_folders()).get_kernel_spec(kernel_name)
        _SPECS[key] = time.monotonic(), spec
    return spec


def no_such(kernel_name: str) -> str:
    """The error message for a kernel name that can't be used, with what to do."""
    if kernel_name in KernelSpecManager(kernel_dirs=spec_folders()).find_kernel_specs():
        return (
            f"The kernelspec {kernel_name!r} names a provisioner that is not installed beside this"
            " server: install its package there (gateway-provisioners, say)."
        )
    return (
        f"There is no kernel named {kernel_name!r}. Set RMI_AGENT_KERNEL_NAME to one that `jupyter"
        " kernelspec list` shows."
    )
