"""What a kernelspec says about its kernels before any is started: where they run, and in what.

Reads `kernel.json` itself: jupyter_client's manager of kernelspecs imports ZMQ, IPython and
ipykernel, which take longer than a server's whole start. Starting a kernel goes through it.
"""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_path

OURS, LOCAL = "rmi-forkserver", "local-provisioner"
LIFETIME = 2.0  # seconds; to find and read a kernelspec takes a millisecond
PROVISIONERS = "jupyter_client.kernel_provisioners"  # the group of entry points

# By name and Jupyter's path, with the time when it was read.
_READ: dict[tuple[str, str | None], tuple[float, dict[str, Any]]] = {}


def kernelspec(kernel_name: str) -> dict[str, Any]:
    """A kernelspec's `kernel.json`; empty if there is none, or none that can be started.

    A changed one is seen after `LIFETIME` seconds.

    Raises:
        ValueError: the file is no JSON.
    """
    key = (kernel_name, os.environ.get("JUPYTER_PATH"))
    read, spec = _READ.get(key, (-LIFETIME, {}))
    if time.monotonic() > read + LIFETIME:
        spec = read_kernelspec(kernel_name)
        _READ[key] = time.monotonic(), spec
    return spec


def read_kernelspec(kernel_name: str) -> dict[str, Any]:
    """The same, read now."""
    for folder in map(Path, spec_folders()):
        names = os.listdir(folder) if folder.is_dir() else []
        for name in names:
            file = folder / name / "kernel.json"
            if name.lower() == kernel_name.lower() and file.is_file():
                spec: dict[str, Any] = json.loads(file.read_text("utf-8"))
                return spec if is_installed(provisioner_of(spec)) else {}
    return {}


def names_here() -> list[str]:
    """The names of the kernelspecs whose kernels run on this machine, in Python."""
    found: dict[str, None] = {}
    for folder in map(Path, spec_folders()):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            try:
                spec = kernelspec(name)
            except ValueError:
                continue
            if spec.get("language", "").lower() == "python" and is_here(name):
                found[name] = None
    return list(found)


def spec_folders() -> list[str]:
    """The folders of kernelspecs, in jupyter_client's order, which imports IPython to find them."""
    ipython = os.environ.get("IPYTHONDIR") or Path.home() / ".ipython"
    return [*jupyter_path("kernels"), os.path.join(ipython, "kernels")]


def provisioner_of(spec: dict[str, Any]) -> str:
    """The name of the provisioner that starts a kernelspec's kernels."""
    metadata = spec.get("metadata", {}).get("kernel_provisioner", {})
    return str(metadata.get("provisioner_name", OURS))


def is_installed(provisioner: str) -> bool:
    """Whether jupyter_client can load a provisioner."""
    known = provisioner in (OURS, LOCAL)
    return known or bool(entry_points(group=PROVISIONERS, name=provisioner))


def is_here(kernel_name: str) -> bool:
    """Whether a kernelspec's kernels run on this machine rather than where its provisioner says.

    A missing kernelspec counts as local: starting it will raise the error.
    """
    return provisioner_of(kernelspec(kernel_name)) in (OURS, LOCAL)


def language_of(kernel_name: str) -> str:
    """The language of a kernelspec, in lower case; "python" if there is no such kernelspec."""
    return str(kernelspec(kernel_name).get("language", "python")).lower()
