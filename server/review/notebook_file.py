"""Reads a notebook's file into the model, whatever the file says.

Files may be foreign, edited or truncated, and outputs are hostile. Here, all of it becomes plain
frozen data once, so that later code can trust the types. Knows no HTML.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ...kernels import encodable, plain_title, regular_file
from ..errors import UnreadableError
from ..plaintext import INVISIBLE
from .model import Cell, Notebook, Output

MAX_SIZE = 50_000_000  # bytes of a notebook to open: parsing it blocks all of Python
ATTEMPTS, PAUSE = 5, 0.02  # attempts to read a file being written, and seconds between them
STATUSES = ("ok", "error", "timeout", "interrupted", "dead")
HIDDEN = re.compile(f"[{INVISIBLE}]")


def read_notebook(path: Path, *, live: bool) -> Notebook:
    """Read a notebook from its file; `live` says whether it is being recorded.

    Raises:
        UnreadableError: it is not a notebook, or is too large.
    """
    for left in reversed(range(ATTEMPTS if live else 1)):
        try:
            return parse_notebook(json.loads(read_bytes(path, MAX_SIZE)), live=live)
        except (ValueError, RecursionError):
            if not left:
                raise UnreadableError("It is not a notebook, or is incomplete.") from None
        time.sleep(PAUSE)  # it was being written just then
    raise AssertionError


def read_bytes(path: Path, most: int | None) -> bytes:
    """The bytes of a regular file, at most `most`; links and pipes are refused.

    Raises:
        UnreadableError: it is something else, too large, or can't be read.
    """
    try:
        with open(path, "rb", opener=regular_file) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise UnreadableError(
                    f"It has {size / 1e6:,.0f} MB; at most {most / 1e6:,.0f} MB can be"
                    " shown here. Download the notebook, or open it in Jupyter."
                )
            return file.read()
    except OSError as error:
        raise UnreadableError(f"It can't be read: {error.strerror}.") from None


def parse_notebook(content: Any, *, live: bool) -> Notebook:
    """A notebook's JSON as plain data.

    Raises:
        ValueError: it does not look like a notebook.
    """
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError("no notebook")
    metadata = as_object(content.get("metadata"))
    own = as_object(metadata.get("rmi_agent"))
    principal = own.get("principal")
    language = as_object(metadata.get("language_info")).get("name")
    cells = [
        parse_cell(number, as_object(cell), live=live)
        for number, cell in enumerate(content["cells"], 1)
    ]
    papermill = as_object(metadata.get("papermill")) if own else {}
    return Notebook(
        tuple(cells),
        principal if isinstance(principal, str) else None,
        language if isinstance(language, str) else "python",
        plain_title(text_of_lines(own.get("title"))),
        file_name(text_of_lines(papermill.get("input_path"))),
    )


def parse_cell(number: int, cell: Mapping[str, Any], *, live: bool) -> Cell:
    """One cell; one that began but has not ended is `running` if it is being recorded."""
    metadata = as_object(cell.get("metadata"))
    record, timing = as_object(metadata.get("rmi_agent")), as_object(metadata.get("execution"))
    kind = cell.get("cell_type")
    outputs = tuple(map(parse_output, as_list(cell.get("outputs")))) if kind == "code" else ()
    count = cell.get("execution_count")
    count = count if isinstance(count, int) else None
    status = text_of_lines(record.get("status")) if kind == "code" else ""
    if kind == "code" and status not in STATUSES:
        status = guess_status(timing, outputs, count, live=live)
    program = record.get("path", record.get("module"))
    return Cell(
        number,
        text_of_lines(cell.get("id")),
        kind if kind in ("code", "markdown") else "raw",
        text_of_lines(cell.get("source")),
        outputs,
        status,
        as_seconds(record.get("elapsed")) or measured_seconds(timing),
        text_of_lines(timing.get("iopub.execute_input"))[:40],
        file_name(text_of_lines(program)) if isinstance(program, str) else "",
        tuple(text_of_lines(note) for note in as_list(record.get("notes"))),
    )


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def guess_status(
    timing: Mapping[str, Any], outputs: tuple[Output, ...], count: int | None, *, live: bool
) -> str:
    """The status of a code cell that has none on record: still running, or run elsewhere."""
    if "iopub.execute_input" in timing and "shell.execute_reply" not in timing:
        return "running" if live else "interrupted"
    if count is None and not outputs:
        return ""
    return "error" if any(output.kind == "error" for output in outputs) else "ok"


def parse_output(output: Any) -> Output:
    """One output, made from JSON of any shape."""
    output = as_object(output)
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return Output(name, text_of_lines(output.get("text")), {})
    if kind == "error":
        lines = [text_of_lines(line) for line in as_list(output.get("traceback"))]
        summary = f"{text_of_lines(output.get('ename'))}: {text_of_lines(output.get('evalue'))}"
        return Output("error", "\n".join(lines) or summary, {})
    data = as_object(output.get("data"))
    return Output(
        "data", "", {reveal_hidden(mime): bundle_text(value) for mime, value in data.items()}
    )


def bundle_text(value: Any) -> str:
    """An entry of a MIME bundle as text: lines are joined, JSON is serialized."""
    if isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(line, str) for line in value)
    ):
        return text_of_lines(value)
    return json.dumps(value, indent=1)


def text_of_lines(value: Any) -> str:
    """A text, which nbformat may store as a list of lines; empty for anything else."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return reveal_hidden(value) if isinstance(value, str) else ""


def reveal_hidden(text: str) -> str:
    """Text that can be encoded and is what it looks like.

    Direction overrides make a reviewer see other code than runs, and tag characters are invisible;
    each is replaced with a mark.
    """
    return text if text.isascii() else HIDDEN.sub("\ufffd", encodable(text))


def as_object(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def as_seconds(value: Any) -> float | None:
    """A duration in seconds; None if the value can't be one."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1e9 else None


def measured_seconds(timing: Mapping[str, Any]) -> float | None:
    """Seconds from a cell's start to its reply, for cells that other programs recorded."""
    try:
        began, ended = (
            datetime.fromisoformat(timing[name])
            for name in ("iopub.execute_input", "shell.execute_reply")
        )
        return max(0.0, (ended - began).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
