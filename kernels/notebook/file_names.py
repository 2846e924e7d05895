"""The names of recorded notebooks: when each was begun, and the first words that ran in it."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from pathlib import Path


def new_path(folder: Path, words: str) -> Path:
    """The path of a new notebook."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return folder / f"{stamp}-{words}-{secrets.token_hex(3)}.ipynb"


def words_of(path: Path) -> str:
    """The words in the name of a notebook that `new_path` has named."""
    return path.stem.split("-", 2)[-1].rpartition("-")[0] or "cell"


def slug(title: str) -> str:
    """The first words of a title, made safe for a file name."""
    first = next((line for line in title.splitlines() if line.strip()), "")
    words = re.sub(r"[^\w]+", "-", first).strip("-_")
    return words[:40].rstrip("-_") or "cell"
