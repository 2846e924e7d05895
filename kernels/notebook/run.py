"""A run, as a view of its cell; the notebook records nothing else about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from ..encoding import encoded
from ..protocol import Module, Program, PytestResults, Script, State, Status, tests_of


@dataclass(frozen=True)
class Run:
    """One executed cell, the same whether it is in memory or was read back from its notebook.

    Attributes:
        cell: the nbformat code cell with its outputs; `metadata.rmi_agent` has the rest.
        session_id: the session it belongs to.
        notebook: where it is recorded; None if recording failed.
        unrecorded: notices about the record itself, and therefore not in it.
    """

    cell: NotebookNode
    session_id: str
    notebook: Path | None
    unrecorded: tuple[str, ...] = ()

    @property
    def _record(self) -> dict[str, Any]:
        return self.cell.metadata.rmi_agent  # type: ignore[no-any-return]

    @property
    def number(self) -> int:
        """Its place in the session, from 1."""
        return int(self._record["cell"])

    @property
    def is_file(self) -> bool:
        """Whether it ran a file or a module."""
        return "sha256" in self._record or "module" in self._record

    @property
    def in_background(self) -> bool:
        """Whether it ran in the background, as a program that serves does."""
        return bool(self._record.get("background"))

    @property
    def folder(self) -> Path | None:
        """The working folder that it changed to first, as the first cell of a notebook does."""
        folder = self._record.get("folder")
        return Path(folder) if isinstance(folder, str) and "\0" not in folder else None

    @property
    def program(self) -> Program | None:
        """The file that it ran, with its text at that time, or module; None for a snippet.

        Raises:
            ValueError: the recorded name, arguments or text are impossible.
        """
        record = self._record
        if "path" not in record and "module" not in record:
            return None
        name, cwd = str(record.get("path", record.get("module"))), str(record.get("cwd", ""))
        args, stdin = tuple(map(str, record.get("args", ()))), str(record.get("stdin", ""))
        if any("\0" in text for text in (name, cwd, *args)):
            raise ValueError("a NUL character is in a file's name or arguments")
        if "path" not in record:
            return Module(name, Path(cwd), args, stdin)
        source = encoded(self.cell.source)
        return Script(Path(name), source, args, stdin, cwd=Path(cwd) if cwd else None)

    @property
    def status(self) -> Status:
        """How it ended; `timeout` and `interrupted` say that we stopped it."""
        return self._record["status"]  # type: ignore[no-any-return]

    @property
    def state(self) -> State:
        """`lost` if the variables from before this run, or its own, are gone."""
        return self._record["state"]  # type: ignore[no-any-return]

    @property
    def elapsed(self) -> float:
        """How long it ran, in seconds."""
        return float(self._record["elapsed"])

    @property
    def error_name(self) -> str | None:
        """The class of the exception that ended it."""
        return self._record.get("error_name")

    @property
    def exit_code(self) -> int | None:
        """Of a file, or of the kernel's process if it ended (negative: signal number)."""
        return self._record.get("exit_code")

    @property
    def tests(self) -> PytestResults | None:
        """The results of a run of pytest."""
        return tests_of(self._record.get("tests"))

    @property
    def timed_out(self) -> bool:
        """Whether it was stopped at its time limit."""
        return self.status == "timeout"

    @property
    def actions(self) -> tuple[str, ...]:
        """What was done to stop it, in order, in words."""
        return tuple(self._record.get("steps", ()))

    @property
    def notices(self) -> tuple[str, ...]:
        """What the caller should know besides the outputs."""
        return (*self._record.get("notes", ()), *self.unrecorded)
