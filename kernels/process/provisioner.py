"""Which provisioner starts a local kernel: ours, which forks, or the kernelspec's own.

Knows kernelspecs and launches; starts nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from ..errors import KernelStartError
from ..fork import LENDER, VENV_VARIABLE
from .launch import LOCAL, OURS, Launch, language_of


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
    stock = metadata.get("kernel_provisioner", {"provisioner_name": OURS})
    if stock["provisioner_name"] == OURS or (wrap and stock["provisioner_name"] == LOCAL):
        config = {
            "fork": stock["provisioner_name"] == OURS,
            "preload": list(launch.preload),
            **stock.get("config", {}),
            "prefix": sandbox_command(manager, launch),
            "template_overrides": launch.template_overrides,
            "last_filter": launch.last_filter,
        }
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


def sandbox_command(manager: AsyncKernelManager, launch: Launch) -> list[str]:
    """The sandbox command to prepend to the kernel's command; empty without a sandbox.

    Raises:
        KernelStartError: the kernel's interpreter can't run in a sandbox.
    """
    if launch.wrap is None:
        return []
    try:
        return [*launch.wrap(manager.format_kernel_cmd()[0])]
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelStartError(
            f"The kernel {launch.kernel_name!r} can't be started in the sandbox. {error}"
        ) from error


def environment_of(manager: AsyncKernelManager, launch: Launch) -> dict[str, str]:
    """Variables for a Python kernel by which `pip` and `python` in it are of its environment."""
    with contextlib.suppress(NoSuchKernel, OSError):  # starting it will raise the error
        interpreter = shutil.which(manager.format_kernel_cmd()[0])
        if language_of(launch.kernel_name) != "python" or interpreter is None:
            return {}
        if venv := launch.venv(interpreter):
            pip = importlib.util.find_spec("pip")  # pure Python, so any interpreter can run it
            lender = os.path.dirname(os.path.dirname(pip.origin)) if pip and pip.origin else ""
            return {VENV_VARIABLE: str(venv), LENDER: lender}
        programs = os.path.dirname(os.path.abspath(interpreter))
        folders = [programs]
        if sys.platform == "win32":
            folders.append(os.path.join(programs, "Scripts"))
        path = launch.env.get("PATH", os.defpath).split(os.pathsep)
        found = {"PATH": os.pathsep.join(dict.fromkeys([*folders, *path]))}
        prefix = os.path.dirname(programs)
        if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
            found["VIRTUAL_ENV"] = launch.env.get("VIRTUAL_ENV") or prefix  # for uv
        return found
    return {}
