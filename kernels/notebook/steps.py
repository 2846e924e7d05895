"""Reads a notebook that is to be run: its cells in order, and which of them run.

The file may be foreign or broken in any way. As in nbclient, cells tagged `skip-execution` and
empty ones do not run, and those tagged `raises-exception` may fail. Knows nbformat; nothing of
kernels or of where the file is.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nbformat
from nbformat import NotebookNode

from ..encoding import encodable
from ..plurals import counted
from ..protocol import clean, new_cell
from .cell_json import cell_json
from .parameters import code_of, unknown
from .undone import SKIP

ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
OURS = ("rmi_agent", "execution", "papermill")  # metadata of the cell's previous run
MOST_CELLS = 10_000  # max cells: checking them takes about a millisecond each
SKIPPED = "skipped"  # the status of code cells that are in the record but did not run


@dataclass(frozen=True)
class Step:
    """A cell of a notebook.

    Attributes:
        number: its place in the notebook, from 1; 0 for the cell with the parameters.
        cell: the cell, without outputs if it runs.
        copied: its JSON for the record if it does not run; None if it does.
        may_fail: whether the notebook goes on after it has failed.
    """

    number: int
    cell: NotebookNode
    copied: bytes | None
    may_fail: bool


@dataclass(frozen=True)
class Steps:
    """What to run of a notebook.

    Attributes:
        steps: its cells.
        language: what it is written in; empty if it does not say.
        notes: what the caller should know, as sentences.
    """

    steps: tuple[Step, ...]
    language: str
    notes: tuple[str, ...] = ()

    @property
    def to_run(self) -> int:
        """Number of cells that run."""
        return sum(step.copied is None for step in self.steps)


def steps_of(
    text: str, parameters: Mapping[str, Any], until: int | None = None, *, keep_ids: bool = True
) -> Steps:
    """Read a notebook.

    Args:
        text: the file's contents.
        parameters: values to set before the cells that use them.
        until: number of the last cell, from 1; None means all.
        keep_ids: whether cells keep their ids: the record may not have two cells with the same.

    Raises:
        ValueError: it can't be run like this; says why.
    """
    metadata, raw = parse_notebook(text)
    if len(raw) > MOST_CELLS:
        raise ValueError(f"it has {len(raw):,} cells, more than {MOST_CELLS:,}")
    language = language_of(metadata)
    if until is not None and until > len(raw):
        raise ValueError(f"it has {counted(len(raw), 'cell')}, so until={until} is past its end")
    if parameters and language not in ("", "python"):
        raise ValueError(f"it is in {language}, and parameters are set in Python only")
    cells = [cell_of(one, number) for number, one in enumerate(raw, 1)]
    notes: tuple[str, ...] = ()
    numbered = list(enumerate(cells, 1))
    if parameters:
        numbered, notes = injected(numbered, parameters)
    numbered = [one for one in numbered if until is None or one[0] <= until]
    return Steps(tuple(steps_in(numbered, keep_ids)), language, notes)


def parse_notebook(text: str) -> tuple[dict[str, Any], list[Any]]:
    """A notebook's metadata and cells, those of older formats converted.

    Raises:
        ValueError: it is not a notebook.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({str(error)[:100]})") from None
    version = content.get("nbformat") if isinstance(content, dict) else None
    if type(version) is not int:
        raise ValueError("it is JSON, but not a notebook's: nbformat is missing")
    if version > 4:
        raise ValueError(f"its format is version {version}, and up to 4 is known")
    if version < 4:
        try:
            content = nbformat.reads(text, as_version=4)
        except Exception as error:  # nbformat converts what it does not check
            raise ValueError(
                f"its format is version {version}, and broken ({error!r:.100})"
            ) from None
    metadata, cells = content.get("metadata"), content.get("cells")
    if not isinstance(cells, list):
        raise ValueError("it is JSON, but not a notebook's: it has no list of cells")
    return metadata if isinstance(metadata, dict) else {}, cells


def language_of(metadata: Mapping[str, Any]) -> str:
    """The language that a notebook is in, in lower case; empty if it does not say."""
    for part, name in (("language_info", "name"), ("kernelspec", "language")):
        about = metadata.get(part)
        if isinstance(about, dict) and isinstance(found := about.get(name), str) and found:
            return encodable(found[:40]).lower()
    return ""


def cell_of(raw: Any, number: int) -> NotebookNode:
    """A cell as the record can have it, whatever the file has.

    Raises:
        ValueError: it is not a cell.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"its cell {number} is not a JSON object")
    source = raw.get("source", "")
    if isinstance(source, list):
        source = "".join(map(str, source))
    if not isinstance(source, str):
        raise ValueError(f"the source of its cell {number} is not text")
    kind, metadata = raw.get("cell_type"), raw.get("metadata")
    known = clean(metadata) if isinstance(metadata, dict) else {}
    cell = new_cell(encodable(source))
    cell.metadata = nbformat.from_dict({k: v for k, v in known.items() if k not in OURS})
    if isinstance(own := raw.get("id"), str) and ID.fullmatch(own):
        cell.id = own
    if kind == "code":
        cell.outputs = raw.get("outputs") or []  # until it is known whether it runs
        return cell
    cell.cell_type = "markdown" if kind == "markdown" else "raw"
    del cell["outputs"], cell["execution_count"]
    if isinstance(attached := raw.get("attachments"), dict):
        cell.attachments = clean(attached)
    return cell


def tags_of(cell: NotebookNode) -> list[Any]:
    """A cell's tags."""
    tags = cell.metadata.get("tags")
    return tags if isinstance(tags, list) else []


Numbered = list[tuple[int, NotebookNode]]


def injected(cells: Numbered, parameters: Mapping[str, Any]) -> tuple[Numbered, tuple[str, ...]]:
    """The cells with one that sets the parameters, where papermill puts it; and notes on that."""
    mine = new_cell(code_of(parameters))
    mine.metadata.tags = ["injected-parameters"]
    at = next(
        (i for i, (_, cell) in enumerate(cells) if "injected-parameters" in tags_of(cell)), -1
    )
    tagged = next((i for i, (_, cell) in enumerate(cells) if "parameters" in tags_of(cell)), -1)
    notes = []
    if tagged < 0:
        notes.append("No cell is tagged `parameters`, so they were set before the first cell.")
    elif strange := unknown(parameters, cells[tagged][1].source):
        names = ", ".join(strange[:5])
        notes.append(f"Not set by the cell tagged `parameters`, so maybe misspelt: {names}.")
    if at >= 0:  # of an earlier run
        number = cells[at][0]
        return [*cells[:at], (number, mine), *cells[at + 1 :]], tuple(notes)
    return [*cells[: tagged + 1], (0, mine), *cells[tagged + 1 :]], tuple(notes)


def steps_in(cells: Numbered, keep_ids: bool) -> list[Step]:
    """The steps, with unique ids."""
    ids: set[str] = set()
    found = []
    if not is_valid([cell for _, cell in cells]):
        for cell in (cell for _, cell in cells if not is_valid([cell])):
            cell.metadata = NotebookNode(tags=sorted({t for t in tags_of(cell) if is_tag(t)}))
            cell.pop("attachments", None)
    for number, cell in cells:
        if cell.id in ids or not keep_ids:
            cell.id = secrets.token_hex(4)
        ids.add(cell.id)
        tags = tags_of(cell)
        runs = cell.cell_type == "code" and bool(cell.source.strip()) and SKIP not in tags
        if runs:
            cell.outputs = []
        elif cell.cell_type == "code":
            cell.metadata.rmi_agent = NotebookNode(status=SKIPPED)
            cell.outputs = valid_outputs(cell.outputs)
        copied = None if runs else cell_json(cell)
        found.append(Step(number, cell, copied, "raises-exception" in tags))
    return found


def is_valid(cells: list[NotebookNode]) -> bool:
    """Whether cells may be in a notebook as they are, apart from their outputs."""
    bare = [NotebookNode(one, outputs=[]) if "outputs" in one else one for one in cells]
    bare = [NotebookNode(one, id=f"c{number}") for number, one in enumerate(bare)]
    try:
        nbformat.validate(NotebookNode(cells=bare, metadata={}, nbformat=4, nbformat_minor=5))
    except Exception:  # whatever the file has there
        return False
    return True


def is_tag(tag: Any) -> bool:
    """Whether a tag is one that a notebook may have."""
    return isinstance(tag, str) and bool(tag) and "," not in tag


def valid_outputs(outputs: Any) -> list[NotebookNode]:
    """Outputs that a cell keeps since it does not run; none if they are not valid."""
    if not outputs:
        return []
    whole = {"cells": [{**new_cell(), "outputs": outputs}], "metadata": {}}
    try:
        node = nbformat.from_dict({**clean(whole), "nbformat": 4, "nbformat_minor": 5})
        node = nbformat.v4.rwbase.rejoin_lines(node)
        nbformat.validate(node)
    except Exception:  # whatever the file has there
        return []
    return list(node.cells[0].outputs)
