"""Wheels and environments for tests that need no package registry."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str = "1.0", source: str = "", needs: tuple[str, ...] = ()
) -> Path:
    """A wheel with one module, whose `VERSION` is its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n{source}",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record += f"{path},sha256={digest.rstrip(b'=').decode()},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def make_venv(folder: Path, **modules: str) -> Path:
    """A virtual environment as `venv` makes it, without pip, with these modules in it."""
    base = os.path.realpath(sys.executable)
    series = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / series / "site-packages"
    packages.mkdir(parents=True)
    version = ".".join(map(str, sys.version_info[:3]))
    config = f"home = {Path(base).parent}\ninclude-system-site-packages = false\n"
    (folder / "pyvenv.cfg").write_text(f"{config}version = {version}\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(base)
    for name, source in modules.items():
        (packages / f"{name}.py").write_text(source)
    return folder


def settings_for(folder: Path) -> dict[str, str]:
    """Variables by which uv and pip know the wheels in a folder, and nothing else."""
    return {
        "UV_FIND_LINKS": str(folder),
        "UV_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "UV_CACHE_DIR": os.environ.get("XDG_CACHE_HOME", "") + "/uv",
    }
