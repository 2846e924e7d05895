"""Prints a recorded notebook as a terminal transcript: each cell's input, then what it wrote.

Reads notebooks of any origin, whatever is in them; knows nothing about where they come from.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from ..plaintext import plain
from ..plurals import counted
from ..results import Picture
from .pictures import SUFFIXES, show_picture
from .table import span
from .terminal import colour, is_terminal, write, write_text, write_traceback

READABLE = ("text/plain", "text/markdown", "text/latex")  # best first
STATUSES = {"timeout": "timed out", "dead": "kernel died"}  # the record's words, for people
OVERWRITTEN = re.compile(r"[^\n]*\r(?=[^\r\n])")  # on a line, as by a progress bar

Cell = Mapping[str, Any]


def parse_notebook(text: str) -> dict[str, Any]:
    """A notebook of the current format, converted from an older one if need be.

    Raises:
        ValueError: the text is not a notebook.
    """
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not a notebook") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise ValueError("it is not a notebook")
    if notebook["nbformat"] < 4:
        import nbformat  # lazy: takes long, and few notebooks are so old

        try:
            return dict(nbformat.reads(text, as_version=4))
        except (KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
            raise ValueError(str(error)) from error
    if not isinstance(notebook.get("cells"), list):
        raise ValueError("it has no cells")
    return notebook


def show_recorded(notebook: Mapping[str, Any], *, code: bool = False) -> None:
    """Print all cells on stdout.

    Args:
        notebook: as `parse_notebook` returns it.
        code: whether to print the source of files that were run, too.
    """
    metadata = as_dict(notebook.get("metadata"))
    language = as_dict(metadata.get("language_info")).get("name", "python")
    is_first = True
    for number, cell in enumerate(map(as_dict, notebook["cells"]), 1):
        if not (cell.get("source") or cell.get("outputs") or command_line(record_of(cell))):
            continue  # as the cell by which the prompt opens its session
        if not is_first:
            write("stdout", "\n")
        is_first = False
        if cell.get("cell_type") == "code":
            show_code_cell(number, cell, code=code, is_python=language in ("python", "ipython"))
        else:
            show_text_cell(number, cell)


def show_text_cell(number: int, cell: Cell) -> None:
    """Print a Markdown or raw cell."""
    write_text(Text(f"[{number}]", "bold"))
    source = plain(as_text(cell.get("source"))).rstrip("\n")
    if cell.get("cell_type") == "markdown" and is_terminal(sys.stdout):
        from rich.markdown import Markdown  # lazy: only needed here

        console = Console()
        with console.capture() as captured:
            console.print(Markdown(source))
        write_text(Text.from_ansi(captured.get().rstrip("\n")))
    else:
        write("stdout", f"{source}\n")


def show_code_cell(number: int, cell: Cell, *, code: bool, is_python: bool) -> None:
    """Print a code cell: what was typed, what it wrote, and how it ended."""
    record = record_of(cell)
    outputs = [as_dict(output) for output in as_list(cell.get("outputs"))]
    write_text(heading(number, status_of(cell, record, outputs), seconds_of(cell, record)))
    source = plain(as_text(cell.get("source"))).rstrip("\n")
    if program := command_line(record):
        write_text(Text.assemble(("$ ", "dim"), (program, "bold")))
    if source and (code or not program):
        show_source(source, "    " if program else ">>> ", is_python=is_python)
    for output in outputs:
        show_output(output)
    exit_code = record.get("exit_code")
    if isinstance(exit_code, int) and exit_code < 0:  # by a signal, for which shells have a code
        exit_code = 128 - exit_code
    notes = [f"[exited with code {exit_code}]"] if exit_code else []
    notes += [f"[{note}]" for note in as_list(record.get("notes"))]
    for note in notes:
        write_text(Text(" ".join(plain(note).split()), "dim"), wraps=True)


def record_of(cell: Cell) -> dict[str, Any]:
    """What a recorder wrote about a cell's run; empty if no recorder did."""
    return as_dict(as_dict(cell.get("metadata")).get("rmi_agent"))


def heading(number: int, status: str, seconds: float | None) -> Text:
    """The line above a code cell: its number, how it ended unless well, and how long it took."""
    facts = [Text(STATUSES.get(status, status), "red")] if status not in ("", "ok") else []
    if seconds is not None:
        facts.append(Text(duration(seconds), "dim"))
    return Text.assemble((f"[{number}]", "bold"), " " if facts else "", Text(", ").join(facts))


def command_line(record: Mapping[str, Any]) -> str:
    """The command line that would run the same program; empty for a snippet."""
    path, module = record.get("path"), record.get("module")
    if not isinstance(path, str) and not isinstance(module, str):
        return ""
    named = (
        [path.replace("\\", "/").rpartition("/")[2]] if isinstance(path, str) else ["-m", module]
    )
    args = [str(arg) for arg in as_list(record.get("args"))]
    line = shlex.join(["python", *map(str, named), *args])
    return " ".join(plain(f"{line} &" if record.get("background") else line).split())


def show_source(source: str, prompt: str, *, is_python: bool) -> None:
    """Print source with the prompt in front of it, as if it had been typed."""
    lines = (colour(source) if is_python else Text(source)).split("\n", allow_blank=True)
    following = "... " if prompt == ">>> " else prompt
    prompts = [prompt] + [following] * (len(lines) - 1)
    typed = (Text.assemble((sign, "dim"), line) for sign, line in zip(prompts, lines, strict=True))
    write_text(Text("\n").join(typed))


def show_output(output: Mapping[str, Any]) -> None:
    """Print one output of a cell: text, a traceback or a picture."""
    kind = output.get("output_type")
    if kind == "stream":
        show_text(OVERWRITTEN.sub("", as_text(output.get("text"))))
    elif kind == "error":
        lines = "\n".join(as_text(line) for line in as_list(output.get("traceback")))
        summary = f"{as_text(output.get('ename'))}: {as_text(output.get('evalue'))}"
        show_text(lines or summary)
    else:
        show_bundle(as_dict(output.get("data")))


def show_text(text: str) -> None:
    """Print text of an output on lines of its own, with colours if it has a traceback."""
    if text:
        write_traceback(plain(text).removesuffix("\n") + "\n", "stdout")


def show_bundle(bundle: Mapping[str, Any]) -> None:
    """Print what a display or a value has for a terminal: its picture, else its text."""
    for mime in SUFFIXES:
        try:
            data = base64.b64decode(as_text(bundle.get(mime)))
        except (binascii.Error, ValueError):
            continue
        if data:
            if is_terminal(sys.stdout):
                show_picture(Picture(mime, data))
            else:
                write("stdout", f"[picture: {mime}, {counted(len(data), 'byte')}]\n")
            return
    text = next((found for mime in READABLE if (found := as_text(bundle.get(mime)))), "")
    if not text and bundle:
        text = f"[{', '.join(map(str, bundle))}: shown in a browser or Jupyter]"
    show_text(text)


def status_of(cell: Cell, record: Mapping[str, Any], outputs: list[dict[str, Any]]) -> str:
    """How a cell ended: as recorded, or as its outputs tell; empty if it did not run."""
    if isinstance(status := record.get("status"), str):
        return " ".join(plain(status).split())
    timing = as_dict(as_dict(cell.get("metadata")).get("execution"))
    if "iopub.execute_input" in timing and "shell.execute_reply" not in timing:
        return "not ended"
    return "error" if any(one.get("output_type") == "error" for one in outputs) else ""


def seconds_of(cell: Cell, record: Mapping[str, Any]) -> float | None:
    """How long a cell ran, in seconds; None if that is not recorded."""
    if isinstance(elapsed := record.get("elapsed"), int | float):
        return float(elapsed)
    timing = as_dict(as_dict(cell.get("metadata")).get("execution"))
    try:
        began, ended = (
            datetime.fromisoformat(timing[name])
            for name in ("iopub.execute_input", "shell.execute_reply")
        )
        return (ended - began).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def duration(seconds: float) -> str:
    """How long a cell ran: `8 ms`, `1.3 s`, `5 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def as_text(value: Any) -> str:
    """A text, which a notebook may have as a list of lines; empty for anything else."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []
