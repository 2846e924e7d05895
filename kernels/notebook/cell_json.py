"""The JSON that is recorded of a cell; oversized outputs are truncated and say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

from ..inside import head_and_tail

STREAM_CAP = 1_000_000  # max characters recorded of one stream output
CELL_CAP = 20_000_000  # max characters recorded of all outputs of a cell


def cell_json(cell: NotebookNode) -> bytes:
    """A cell as JSON, within the caps: one line for each of its fields and outputs.

    What changes while the cell runs comes last: `recovery.py` relies on that.
    """
    if cell.cell_type != "code":
        return fields_json(cell)
    outputs, left = [], CELL_CAP
    for output in map(within_cap, cell.outputs):
        texts = (text for text in output.get("data", {}).values() if isinstance(text, str))
        left -= len(output.get("text", "")) + structure_size(output) + sum(map(len, texts))
        if left < 0:
            why = f"[what follows was not recorded: over {CELL_CAP:,} characters]\n"
            outputs.append(NotebookNode(output_type="stream", name="stderr", text=why))
            break
        outputs.append(output)
    last = {"execution_count": cell.execution_count, "outputs": outputs, "metadata": cell.metadata}
    return fields_json({name: cell[name] for name in cell if name not in last} | last)


def fields_json(whole: Mapping[str, Any]) -> bytes:
    """A cell's fields as JSON, one line for each."""
    fields = [f' "{name}": {field_json(name, value)}' for name, value in whole.items()]
    return ("{\n" + ",\n".join(fields) + "\n}").encode()


def field_json(name: str, value: Any) -> str:
    """A field of a cell as JSON. To indent all of it would take ten times longer."""
    if name == "outputs" and value:
        lines = ",\n".join(f"  {json.dumps(output, ensure_ascii=False)}" for output in value)
        return f"[\n{lines}\n ]"
    return json.dumps(value, ensure_ascii=False)


def within_cap(output: NotebookNode) -> NotebookNode:
    """An output, or a copy whose text is truncated."""
    if output.output_type == "stream" and len(output.text) > STREAM_CAP:
        return NotebookNode(output, text=cut(output.text))
    if output.output_type == "error" and sum(map(len, output.traceback)) > STREAM_CAP:
        lines = [cut("\n".join(output.traceback))]
        return NotebookNode(output, evalue=cut(output.evalue), traceback=lines)
    return output


def structure_size(output: NotebookNode) -> int:
    """Approximate number of characters of an output's JSON outside its texts."""
    values = [each for each in output.get("data", {}).values() if not isinstance(each, str)]
    if metadata := output.get("metadata"):
        values.append(metadata)
    return 100 + (len(json.dumps(values)) if values else 0)


def cut(text: str) -> str:
    """Truncate a text that is too long for the record."""
    return head_and_tail(text, STREAM_CAP, "not recorded")
