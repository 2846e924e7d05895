"""Virtual environments for rivals, and for our server among other packages.

Knows pip; nothing about what the environments are for.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from ..bench import Skipped

ROOT = Path(__file__).parent.parent.parent
INSTALLED = "installed.txt"  # written last: what has none is made again


async def environment(folder: Path, *requirements: str) -> Path:
    """The `bin` of a virtual environment with these requirements, kept from an earlier run.

    Raises:
        Skipped: they can't be installed.
    """
    wanted, mark = "\n".join((sys.version, *requirements)), folder / INSTALLED
    if not mark.exists() or mark.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        await _run(sys.executable, "-m", "venv", str(folder))
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        await _run(*pip, *requirements)
        mark.write_text(wanted)
    return folder / "bin"


async def ours(folder: Path, *more: str) -> Path:
    """The same with this checkout, editable, and other packages."""
    return await environment(folder, "--editable", str(ROOT), *more)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise Skipped(f"`{' '.join(command[1:])}` failed: {errors[-1] if errors else 'no output'}")
