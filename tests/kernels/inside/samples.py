"""What a row of the table of scripts is."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

from rmi_agent.kernels import Session


@dataclass(frozen=True)
class Sample:
    source: str | bytes
    args: tuple[str, ...] = ()
    stdin: str = ""
    module: str = ""  # run by `python -m`, instead of the file
    file: str = "main.py"  # that has the source
    neighbours: tuple[tuple[str, str], ...] = ()
    anyhow: bool = False  # lines of stdout in any order
    differs: str = ""  # why a kernel gives something else

    def bytes(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else dedent(self.source).encode()

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def with_neighbour(self, name: str, text: str) -> Self:
        return replace(self, neighbours=(*self.neighbours, (name, text)))


def python_of(session: Session) -> str:
    """The interpreter that a session's kernel shows to its code."""
    assert session.kernel is not None
    if not session.kernel.process.is_walled:
        return sys.executable
    home = Path(session.kernel.launch.env["HOME"])  # the user's own environment, made there
    (python,) = map(str, home.glob(".venvs/*/bin/python"))
    return python


HELPER = (("helper.py", "NAME = 'helper'\ndef shout(x): return x.upper()\n"),)
