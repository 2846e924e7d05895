"""What a row of the table of scripts is."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Sample:
    source: str | bytes
    args: tuple[str, ...] = ()
    stdin: str = ""
    neighbours: tuple[tuple[str, str], ...] = ()
    anyhow: bool = False  # lines of stdout in any order
    differs: str = ""  # why a kernel gives something else

    def bytes(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else dedent(self.source).encode()


HELPER = (("helper.py", "NAME = 'helper'\ndef shout(x): return x.upper()\n"),)
