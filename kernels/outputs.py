"""Folding a run's messages into its nbformat cell, as a notebook shows them in the end.

Streams join, carriage returns and backspaces overwrite, `clear_output` clears and
`update_display_data` replaces. Knows messages and cells; nothing of kernels or files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import nbformat.v4
from nbformat import NotebookNode

from .terminal_text import StreamText

Message = dict[str, Any]
Displays = dict[str, list[NotebookNode]]  # display_id → the outputs that show it


class Outputs:
    """One cell's outputs while its run goes on.

    Attributes:
        cell: the nbformat code cell; `settle` brings its `outputs` up to date.
        size: bytes of text and of base64 taken in so far, dropped ones included.
        elsewhere: outputs of earlier cells that an `update_display_data` has changed.
        changed: set whenever something was folded in; a watcher clears it.
    """

    def __init__(
        self,
        cell: NotebookNode,
        displays: Displays | None = None,
        limit: int = 0,
        on_limit: Callable[[], None] | None = None,
    ) -> None:
        self.cell = cell
        self.size = 0
        self.elsewhere: list[NotebookNode] = []
        self.changed = asyncio.Event()
        self._displays: Displays = {} if displays is None else displays
        self._streams: dict[int, StreamText] = {}  # id of a stream output → its text
        self._clear_next = False
        self._limit = limit
        self._on_limit = on_limit

    def fold(self, message: Message) -> None:
        """Take in one iopub message; those that show nothing only set metadata."""
        kind, content = message["header"]["msg_type"], message["content"]
        if omitted := content.get("rmi_agent_omitted"):  # inkernel.py has cut it
            self._admit(int(omitted))
        if kind == "stream":
            self.stream(content["name"], content["text"])
        elif kind in ("display_data", "execute_result", "update_display_data"):
            self._display(kind, content)
        elif kind == "error":
            self._append(
                NotebookNode(
                    output_type="error",
                    ename=encodable(str(content.get("ename", ""))),
                    evalue=encodable(str(content.get("evalue", ""))),
                    traceback=[encodable(str(line)) for line in content.get("traceback", [])],
                )
            )
        elif kind == "clear_output":
            if content.get("wait"):
                self._clear_next = True
            else:
                self._clear()
        elif kind == "execute_input":
            self.cell.execution_count = content.get("execution_count")
            self.timing("iopub.execute_input", message["header"]["date"])

    def stream(self, name: str, text: str) -> None:
        """Add text to a stream, joining it to the last piece of the same stream."""
        if not text or not self._admit(weight(text)):
            return
        self._clear_if_waiting()
        output = next(
            (output for output in reversed(self._trailing_streams()) if output.name == name),
            None,
        )
        if output is None:
            output = NotebookNode(output_type="stream", name=name, text="")
            self.cell.outputs.append(output)
            self._streams[id(output)] = StreamText()
        self._streams[id(output)].append(encodable(text))
        self.changed.set()

    def settle(self) -> NotebookNode:
        """The run is over: write the joined stream texts into the cell and return it."""
        for output in self.cell.outputs:
            if joined := self._streams.get(id(output)):
                output.text = joined.finish()
        return self.cell

    def settled(self) -> NotebookNode:
        """A copy of the cell with the text that can't change any more: what to show meanwhile."""
        outputs = [
            NotebookNode(output, text=self._settled_text(output))
            if id(output) in self._streams
            else output
            for output in self.cell.outputs
        ]
        return NotebookNode(self.cell, outputs=outputs)

    def so_far(self, name: str) -> str:
        """The text of one stream up to where it can still change (`stdout`, `stderr`)."""
        return "".join(
            self._settled_text(output)
            for output in self.cell.outputs
            if output.output_type == "stream" and output.name == name
        )

    def stream_texts(self, name: str) -> list[StreamText]:
        """The texts of one stream (`stdout`, `stderr`), in order; displays stand between them."""
        return [
            self._streams[id(output)]
            for output in self.cell.outputs
            if id(output) in self._streams and output.name == name
        ]

    def stream_text(self, output: NotebookNode) -> StreamText | None:
        """The text that a stream output gets; None for one that was there before."""
        return self._streams.get(id(output))

    def _settled_text(self, output: NotebookNode) -> str:
        joined = self._streams.get(id(output))
        return joined.settled if joined else str(output.text)

    def timing(self, event: str, date: datetime | str) -> None:
        """Note when something happened, in `metadata.execution` as Jupyter does."""
        stamp = date if isinstance(date, str) else date.isoformat()
        self.cell.metadata.setdefault("execution", NotebookNode())[event] = stamp

    def _trailing_streams(self) -> list[NotebookNode]:
        outputs = self.cell.outputs[-2:]
        if outputs and outputs[-1].output_type != "stream":
            return []
        return [output for output in outputs if id(output) in self._streams]

    def _display(self, kind: str, content: dict[str, Any]) -> None:
        data = NotebookNode(clean_bundle(content.get("data", {})))
        metadata = nbformat.from_dict(clean(content.get("metadata", {})))
        if not self._admit(sum(weight(value) for value in data.values() if isinstance(value, str))):
            return
        display_id = (content.get("transient") or {}).get("display_id")
        shown = self._displays.setdefault(display_id, []) if display_id else []
        for output in shown:
            output.data, output.metadata = data, metadata
            if not any(output is own for own in self.cell.outputs):
                self.elsewhere.append(output)
        if kind != "update_display_data":
            output = NotebookNode(output_type=kind, data=data, metadata=metadata)
            if kind == "execute_result":
                output.execution_count = content.get("execution_count")
            shown.append(output)
            self._append(output)
        self.changed.set()

    def _append(self, output: NotebookNode) -> None:
        self._clear_if_waiting()
        self.cell.outputs.append(output)
        self.changed.set()

    def _clear_if_waiting(self) -> None:
        if self._clear_next:
            self._clear()

    def _clear(self) -> None:
        self._clear_next = False
        self.cell.outputs.clear()
        self._streams.clear()
        self.changed.set()

    def _admit(self, size: int) -> bool:
        """Count new output; past the limit say so, once, and take no more."""
        within = self._limit == 0 or self.size <= self._limit
        self.size += size
        if self._limit and self.size > self._limit and self._on_limit is not None:
            self._on_limit()
            self._on_limit = None
        return within


def weight(text: str) -> int:
    """The bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def encodable(text: str) -> str:
    """Text that can become UTF-8: a lone surrogate would break JSON later."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def clean(value: Any) -> Any:
    """JSON-like data with every text encodable."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(str(key)): clean(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [clean(entry) for entry in value]
    return value


def clean_bundle(data: dict[str, Any]) -> dict[str, Any]:
    """A mimebundle that nbformat accepts: text everywhere but under JSON types."""
    bundle = {}
    for mime, value in clean(data).items():
        if not isinstance(value, str) and not mime.endswith(("json", "+json")):
            value = "".join(value) if isinstance(value, list) else str(value)
        bundle[mime] = value
    return bundle
