"""What is run on a kernel besides snippets: files and modules, as `__main__`.

Data only: the request for it, and how it is recorded.
"""

from __future__ import annotations

import hashlib
import shlex
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..encoding import decoded


@dataclass(frozen=True)
class Script:
    """A file to run as `python FILE` does.

    Attributes:
        path: of the file.
        source: its contents.
        args: `sys.argv[1:]`.
        stdin: what `input()` reads.
        fresh: whether it runs in a kernel of its own, which changes to its folder for good.
        cwd: the folder to run it in, from which it can also import; None is the file's own.
        asks: where its input comes from once it reads, instead of `stdin`: a `terminal`, line by
            line, or a `pipe`, in pieces (base64). Empty if nobody is asked.
    """

    path: Path
    source: bytes
    args: tuple[str, ...] = ()
    stdin: str = ""
    fresh: bool = True
    cwd: Path | None = None
    asks: str = ""

    @property
    def title(self) -> str:
        """Names it in the title of its notebook."""
        return self.path.name

    @property
    def folder(self) -> Path:
        """The folder that it is in."""
        return self.path.parent

    @property
    def code(self) -> str:
        """The source of its cell; lines in a notebook end with LF."""
        return decoded(self.source).replace("\r\n", "\n").replace("\r", "\n")

    @property
    def request(self) -> dict[str, Any]:
        """The request that `inside/script_runner.py` runs it by."""
        source = b64encode(self.source).decode()
        return {**request(self), "path": str(self.path), "source": source}

    @property
    def facts(self) -> dict[str, Any]:
        """What its cell's metadata record about it."""
        cwd = {"cwd": str(self.cwd)} if self.cwd is not None else {}
        digest = hashlib.sha256(self.source).hexdigest()
        return {"path": str(self.path), "sha256": digest, "args": [*self.args], **cwd}


@dataclass(frozen=True)
class Module:
    """A module to run as `python -m NAME` does; attributes are those of `Script`."""

    name: str
    cwd: Path
    args: tuple[str, ...] = ()
    stdin: str = ""
    fresh: bool = True
    asks: str = ""

    @property
    def title(self) -> str:
        """Names it in the title of its notebook."""
        return self.name

    @property
    def folder(self) -> Path:
        """The folder that it is looked for in."""
        return self.cwd

    @property
    def code(self) -> str:
        """The source of its cell: what runs it in any notebook."""
        return f"%run -m {shlex.join((self.name, *self.args))}"

    @property
    def request(self) -> dict[str, Any]:
        """The request that `inside/script_runner.py` runs it by."""
        return {**request(self), "module": self.name}

    @property
    def facts(self) -> dict[str, Any]:
        """What its cell's metadata record about it."""
        return {"module": self.name, "cwd": str(self.cwd), "args": [*self.args]}


Program = Script | Module


def request(program: Program) -> dict[str, Any]:
    """The part of a request that all programs have."""
    return {
        "argv": list(program.args),
        "cwd": str(program.cwd) if program.cwd is not None else None,
        "fresh": program.fresh,
        "asks": program.asks,
        "stdin": b64encode(program.stdin.encode("utf-8", "surrogateescape")).decode(),
    }
