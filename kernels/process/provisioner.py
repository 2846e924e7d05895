"""Which provisioner starts a local kernel: ours, which forks, or the kernelspec's own.

Knows kernelspecs and launches; starts nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from typing import Any

from jupyter_client.kernelspec import KernelSpec, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from ..environments import LENT_PIP, PIP_VARIABLE
from ..errors import KernelStartError
from ..fork import LENDER, VENV_VARIABLE
from ..kernelspecs import LOCAL, OURS
from .launch import Launch, shown, spec_of


def choose_provisioner(manager: AsyncKernelManager, launch: Launch) -> None:
    """Use our provisioner, which forks if possible, unless the kernelspec names another.

    Raises:
        KernelStartError: the kernel can't be started in the sandbox.
    """
    spec = None
    with contextlib.suppress(NoSuchKernel):  # starting it will raise the error
        spec = manager.kernel_spec
    if spec is None or sys.platform == "win32":
        return
    metadata, wrap = spec.metadata, launch.wrap
    if (config := forking_config(spec, launch)) is not None:
        ours = {"provisioner_name": OURS, "config": config}
        spec.metadata = {**metadata, "kernel_provisioner": ours}
        if KernelProvisionerFactory.instance().is_provisioner_available(spec):
            return
        # It is not available if the package was updated in place but not reinstalled.
        spec.metadata = metadata
    if wrap:
        raise KernelStartError(
            f"The kernel {launch.kernel_name!r} can't be started in the sandbox: its kernelspec has"
            " a provisioner of its own, or this package has to be installed again. Choose another"
            " RMI_AGENT_KERNEL_NAME, or set RMI_AGENT_SANDBOX=off."
        )


def forking_config(spec: KernelSpec, launch: Launch) -> dict[str, Any] | None:
    """Our provisioner's configuration for a kernelspec; None if it names another one.

    Raises:
        KernelStartError: the kernel's interpreter can't run in a sandbox.
    """
    stock = spec.metadata.get("kernel_provisioner", {"provisioner_name": OURS})
    name = stock["provisioner_name"]
    if name != OURS and not (launch.wrap and name == LOCAL):
        return None
    return {
        "fork": name == OURS,
        "preload": list(launch.preload),
        "wait_for_template": True,  # nobody waits for a kernel that is made ahead
        **stock.get("config", {}),
        "prefix": sandbox_command(interpreter(spec), launch),
        "lent": str((launch.environment and launch.environment.lent) or ""),
        "is_extra": launch.environment is not None,
        "template_overrides": launch.template_overrides,
        "last_filter": launch.last_filter,
    }


def interpreter(spec: KernelSpec) -> str:
    """The program of a kernelspec, as jupyter_client chooses it."""
    names = {"python", f"python{sys.version_info[0]}", "python{}.{}".format(*sys.version_info)}
    return sys.executable if spec.argv[0] in names else str(spec.argv[0])


def sandbox_command(python: str, launch: Launch) -> list[str]:
    """The sandbox command to prepend to the kernel's command; empty without a sandbox.

    Raises:
        KernelStartError: the kernel's interpreter can't run in a sandbox.
    """
    # A template of another environment runs what its user has installed there, from the start.
    wrap = (launch.tool_wrap if launch.environment is not None else None) or launch.wrap
    if wrap is None:
        return []
    try:
        return [*wrap(python)]
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelStartError(
            f"{shown(launch)} can't be started in the sandbox. {error}"
        ) from error


def environment_of(spec: KernelSpec, launch: Launch) -> dict[str, str]:
    """Variables for a Python kernel by which `pip` and `python` in it are of its environment."""
    python = shutil.which(interpreter(spec))
    if spec.language.lower() != "python" or python is None:
        return {}
    if launch.environment is None and (venv := launch.venv(python)):
        return {VENV_VARIABLE: str(venv), LENDER: folder_of_pip()}
    programs = os.path.dirname(os.path.abspath(python))
    folders = [programs]
    if sys.platform == "win32":
        folders.append(os.path.join(programs, "Scripts"))
    path = launch.env.get("PATH", os.defpath).split(os.pathsep)
    tools = launch.environment.tools if launch.environment is not None else None
    if tools is not None:
        folders.append(str(tools / "bin"))
    found = {"PATH": os.pathsep.join(dict.fromkeys([*folders, *path]))}
    prefix = os.path.dirname(programs)
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        inherited = "" if launch.environment else launch.env.get("VIRTUAL_ENV")
        found["VIRTUAL_ENV"] = inherited or prefix  # for uv
    if tools is not None:
        found[PIP_VARIABLE] = f"{shlex.quote(str(LENT_PIP))} {shlex.quote(str(tools / 'lib'))}"
    return found


def install_target(launch: Launch) -> tuple[str, dict[str, str]]:
    """The interpreter of a launch's kernels, and variables by which its user's environment is made.

    Without such variables, packages are installed in the interpreter's own environment.

    Raises:
        NoSuchKernel: there is no kernelspec of that name.
    """
    spec = spec_of(launch)
    python = shutil.which(interpreter(spec)) or interpreter(spec)
    venv = None if launch.environment is not None else launch.venv(python)
    return python, {VENV_VARIABLE: str(venv), LENDER: folder_of_pip()} if venv else {}


@functools.cache
def folder_of_pip() -> str:
    """Where the server has its pip, which is pure Python, so any interpreter can run it."""
    pip = importlib.util.find_spec("pip")
    return os.path.dirname(os.path.dirname(pip.origin)) if pip and pip.origin else ""
