"""Assemble the folder that `mcpb pack` makes a Claude Desktop extension of.

The bundle has this project's source and its pyproject.toml, from which the host's uv installs it;
so it needs no release on PyPI. Knows which files belong; nothing of what they do.

    python packaging/mcpb/build.py build/mcpb
    npx @anthropic-ai/mcpb pack build/mcpb rmi-agent-mcp-server.mcpb
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCE = ("cli", "server", "kernels", "client")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")  # what an installation of the source needs


def main(target: Path) -> None:
    """Fill a new folder."""
    target.mkdir(parents=True)
    for name in SOURCE:
        compiled = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=compiled, copy_function=shutil.copyfile)
    for path in (*(ROOT / name for name in BESIDE), HERE / "manifest.json", HERE / "icon.png"):
        shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/mcpb/build.py NEW_FOLDER")
    folder = Path(sys.argv[1])
    try:
        main(folder)
    except FileExistsError:
        sys.exit(f"{folder} is there already: remove it, or name another folder.")
