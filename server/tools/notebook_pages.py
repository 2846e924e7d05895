"""A notebook in parts that fit into a result.

The first is always a valid notebook: what is too large for it is replaced by a line that says where
it is. The pages are pieces of the file's text, for programs that need all of it: joined, they are
the notebook. Knows nbformat's JSON; nothing of sessions.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_json

from ..plurals import counted

KEPT = 500  # max characters that are kept of a text that is cut


def json_size(text: str) -> int:
    """Bytes of a text in JSON."""
    return len(to_json(text))


def whole_or_cut(text: str, size: int, session_id: str) -> str:
    """The notebook if it has at most `size` bytes in JSON, else a valid one without its bulk."""
    if json_size(text) <= size:
        return text
    notebook: dict[str, Any] = json.loads(text)
    cells: list[dict[str, Any]] = notebook["cells"]
    notebook["metadata"].setdefault("rmi_agent", {})["pages"] = len(pages(text, size))
    parts = [
        (json_size(written(output)), number, place)
        for number, cell in enumerate(cells)
        for place, output in enumerate(cell.get("outputs", ()))
    ]
    left = size - json_size(written(notebook))  # below zero: by so much it is too large
    for bulk, number, place in sorted(parts, reverse=True):
        if left >= 0:
            break
        cell = cells[number]
        cut = without_bulk(cell["outputs"][place], where(cell, session_id))
        if (saved := bulk - json_size(written(cut))) > 0:
            cell["outputs"][place] = cut
            left += saved
    for cell in sorted(cells, key=lambda cell: -len(str(cell["source"]))):
        source = "".join(cell["source"])
        if left >= 0 or len(source) < 2 * KEPT:
            break
        cell["source"] = f"{source[:KEPT]}\n# [… {len(source) - KEPT:,} characters left out …]"
        left += json_size(source) - json_size(cell["source"])
    while left < 0 and cells:  # too many cells: the last ones are worth most
        left += json_size(written(cells.pop(0)))
    return written(notebook)


def pages(text: str, size: int) -> list[str]:
    """The text in pieces of at most `size` bytes in JSON, in order."""
    pieces = []
    start, step = 0, size
    while start < len(text):
        piece = text[start : start + step]
        while (needed := json_size(piece)) > size:
            piece = piece[: max(1, len(piece) * size // needed * 9 // 10)]
        pieces.append(piece)
        start += len(piece)
    return pieces


def written(value: Any) -> str:
    """JSON as notebooks have it."""
    return json.dumps(value, ensure_ascii=False, indent=1)


def where(cell: dict[str, Any], session_id: str) -> str:
    """Where to read the outputs of a cell."""
    number = cell.get("metadata", {}).get("rmi_agent", {}).get("cell")
    return f"read_output(session_id={session_id!r}, cell={number}) has it"


def without_bulk(output: dict[str, Any], place: str) -> dict[str, Any]:
    """An output whose data is replaced by a line."""
    kind = output["output_type"]
    size = counted(len(written(output)), "character")
    if kind == "stream":
        text = "".join(output["text"])
        return {**output, "text": f"{text[:KEPT]}\n[… {size} in all; {place} …]\n"}
    if kind == "error":
        return {**output, "traceback": [f"[… a traceback of {size}; {place} …]"]}
    kinds = ", ".join(str(each)[:100] for each in list(output["data"])[:5])
    return {**output, "data": {"text/plain": f"[… {kinds}: {size}; {place} …]"}, "metadata": {}}
