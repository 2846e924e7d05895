"""What a row of the table of scripts is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Any, Self


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


HELPER = (("helper.py", "NAME = 'helper'\ndef shout(x): return x.upper()\n"),)
