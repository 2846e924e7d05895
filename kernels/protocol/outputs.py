"""Folding a run's messages into its nbformat cell, as a notebook would finally show them.

Streams are joined, carriage returns and backspaces overwrite, `clear_output` clears and
`update_display_data` replaces. Knows messages and cells; nothing of kernels or files.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from nbformat import NotebookNode

from ..encoding import encodable, utf8
from ..plurals import counted
from .cleaning import clean, clean_bundle, whole
from .reply import Message
from .terminal_text import StreamText
from .weighing import HELD_MOST, Weight, weight_of
from .widgets import Widgets


class Displays(dict[str, list[NotebookNode]]):
    """A session's outputs that can be updated: by display_id, those that show it; and widgets."""

    def __init__(self) -> None:
        super().__init__()
        self.widgets = Widgets()


OUTPUTS_MOST = 10_000  # max outputs of one cell; text is still added to existing streams
SHOWN_MOST = 100  # max outputs of one display_id that an update changes, the latest ones
PART = 65_536  # max characters of a stream that are folded at a time
OMITTED_MOST = 10**15  # max characters that a kernel can credibly report as cut
FREE = 10  # number of status and execute_input messages that do not count towards the limit


class Outputs:
    """One cell's outputs while it is running.

    Attributes:
        cell: the nbformat code cell; `settle` brings its `outputs` up to date.
        size: bytes received so far, as sent, including what was left out.
        changed: set whenever a message is folded in; cleared by whoever watches it.
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
        self.changed = asyncio.Event()
        self._displays = Displays() if displays is None else displays
        self._streams: dict[int, StreamText] = {}  # id of a stream output → its text
        self._own: dict[int, str] = {}  # id of an output of this cell → its display_id
        self._elsewhere: dict[int, NotebookNode] = {}
        self._held: dict[int | str, int] = {}  # display_id, or an output's id → bytes of memory
        self._memory = 0  # sum of `_held`
        self._clear_next = False
        self._limit = limit
        self._on_limit = on_limit
        self._of_protocol = 0
        self._left_out, self._left_out_size = 0, 0
        self._beyond = 0  # bytes received beyond the limit

    @property
    def elsewhere(self) -> list[NotebookNode]:
        """Outputs of earlier cells changed by this cell's display updates."""
        return list(self._elsewhere.values())

    @property
    def left_out(self) -> str:
        """A note about outputs that were left out; empty if there are none."""
        what = []
        if self._left_out:
            size = f"{self._left_out:,} ({counted(self._left_out_size, 'byte')})"
            what.append(f"Outputs left out: {size}, more than a cell can keep.")
        if self._beyond:
            limit = f"RMI_AGENT_OUTPUT_LIMIT ({self._limit:,})"
            what.append(f"Left out: {counted(self._beyond, 'byte')} beyond {limit}.")
        return " ".join([*what, "Write large data to a file instead."]) if what else ""

    def fold(self, message: Message) -> None:
        """Fold in one iopub message; one without output only counts or sets metadata."""
        kind, content = message["header"]["msg_type"], message["content"]
        weight = message.get("weight") or unparsed(content)
        if weight.too_much:
            self._admit(weight.size)
            self._leave_out(weight)
        elif kind == "stream":
            self.stream(content["name"], content["text"])
        elif kind in ("status", "execute_input"):
            self._of_protocol += 1
            if self._of_protocol > FREE:
                self._admit(weight.size)
            if kind == "execute_input":
                self.cell.execution_count = whole(content.get("execution_count"))
                self.timing("iopub.execute_input", message["header"].get("date"))
        elif self._admit(weight.size):
            self._take_in(kind, content, weight)
        omitted = content.get("rmi_agent_omitted")  # cut by inside/messages.py; can be forged
        if isinstance(omitted, int):
            omitted = min(max(0, omitted), OMITTED_MOST)
            within = self._admit(omitted)
            self._beyond += omitted if within else 0

    def _take_in(self, kind: str, content: dict[str, Any], weight: Weight) -> None:
        if kind in ("display_data", "execute_result", "update_display_data"):
            self._display(kind, content, weight)
        elif kind == "error":
            self._append(
                NotebookNode(
                    output_type="error",
                    ename=encodable(str(content.get("ename", ""))),
                    evalue=encodable(str(content.get("evalue", ""))),
                    traceback=[encodable(str(line)) for line in content.get("traceback", [])],
                ),
                weight,
            )
        elif kind in ("comm_open", "comm_msg", "comm_close"):
            self._displays.widgets.fold(kind, content)
        elif kind == "clear_output":
            if content.get("wait"):
                self._clear_next = True
            else:
                self._clear()

    def stream(self, name: str, text: str) -> None:
        """Add text to a stream, joined to its last output unless a display came after that."""
        if not text or not self._admit(len(utf8(text))):
            return
        if self._clear_next:
            self._clear()
        name = "stderr" if name == "stderr" else "stdout"
        joined = (each for each in reversed(self._trailing_streams()) if each.name == name)
        output = next(joined, None)
        if output is None:
            output = NotebookNode(output_type="stream", name=name, text="")
            self.cell.outputs.append(output)
            self._streams[id(output)] = StreamText()
        self._streams[id(output)].append(encodable(text))
        self.changed.set()

    def settle(self) -> NotebookNode:
        """Write texts of streams and widgets into the cell and return it, once the run is over."""
        for output in self.cell.outputs:
            if joined := self._streams.get(id(output)):
                output.text = joined.finish()
        for output in self._displays.widgets.settle():
            if id(output) not in self._own:
                self._elsewhere[id(output)] = output
        return self.cell

    def settled(self) -> NotebookNode:
        """A copy of the cell to show while it is running, with the text so far."""
        outputs = [
            NotebookNode(output, text=text.settled)
            if (text := self._streams.get(id(output)))
            else output
            for output in self.cell.outputs
        ]
        return NotebookNode(self.cell, outputs=outputs)

    def stream_texts(self, name: str) -> list[StreamText]:
        """The texts of one stream (`stdout`, `stderr`) in order, as separated by other outputs."""
        return [
            self._streams[id(output)]
            for output in self.cell.outputs
            if id(output) in self._streams and output.name == name
        ]

    def stream_text(self, output: NotebookNode) -> StreamText | None:
        """The text of a stream output; None if the output existed before this run."""
        return self._streams.get(id(output))

    def timing(self, event: str, date: object) -> None:
        """Record when an event happened, in `metadata.execution` as Jupyter does."""
        stamp = date.isoformat() if isinstance(date, datetime) else str(date)[:40]
        self.cell.metadata.setdefault("execution", NotebookNode())[event] = encodable(stamp)

    def _trailing_streams(self) -> list[NotebookNode]:
        outputs = self.cell.outputs[-2:]
        if outputs and outputs[-1].output_type != "stream":
            return []
        return [output for output in outputs if id(output) in self._streams]

    def _display(self, kind: str, content: dict[str, Any], weight: Weight) -> None:
        data = NotebookNode(clean_bundle(content.get("data", {})))
        metadata = NotebookNode(clean(content.get("metadata", {})))
        display_id = str((content.get("transient") or {}).get("display_id") or "")
        shown = self._displays.get(display_id, [])
        if shown:
            if not self._hold(display_id, weight):
                return
            for output in shown:
                output.data, output.metadata = data, metadata
                if id(output) not in self._own:
                    self._elsewhere[id(output)] = output
        if kind != "update_display_data":
            output = NotebookNode(output_type=kind, data=data, metadata=metadata)
            if kind == "execute_result":
                output.execution_count = whole(content.get("execution_count"))
            if self._append(output, weight, display_id):
                self._displays.widgets.show(output)
                if display_id:
                    self._displays[display_id] = [*shown, output][-SHOWN_MOST:]
        self.changed.set()

    def _append(self, output: NotebookNode, weight: Weight, display_id: str = "") -> bool:
        if self._clear_next:
            self._clear()
        if len(self.cell.outputs) >= OUTPUTS_MOST:
            self._leave_out(weight)
            return False
        if not self._hold(display_id or id(output), weight):
            return False
        self._own[id(output)] = display_id
        self.cell.outputs.append(output)
        self.changed.set()
        return True

    def _clear(self) -> None:
        self._clear_next = False
        self.cell.outputs.clear()
        self._streams.clear()
        for display_id in set(self._own.values()) & set(self._displays):
            left = [each for each in self._displays[display_id] if id(each) not in self._own]
            self._displays[display_id] = left
            if not left:
                del self._displays[display_id]
                self._memory -= self._held.pop(display_id, 0)
        for output in self._own:
            self._memory -= self._held.pop(output, 0)
        self._displays.widgets.forget(self._own)
        self._own.clear()
        self.changed.set()

    def _admit(self, size: int) -> bool:
        """Count new output; calls `on_limit` once past the limit, and then admits no more."""
        within = self._limit == 0 or self.size <= self._limit
        self.size += size
        self._beyond += 0 if within else size
        if self._limit and self.size > self._limit and self._on_limit is not None:
            self._on_limit()
            self._on_limit = None
        return within

    def _hold(self, key: int | str, weight: Weight) -> bool:
        """Reserve memory for an output, counting what it replaces as freed, or leave it out."""
        memory = self._memory - self._held.get(key, 0) + weight.memory
        if memory > HELD_MOST:
            self._leave_out(weight)
            return False
        self._memory, self._held[key] = memory, weight.memory
        return True

    def _leave_out(self, weight: Weight) -> None:
        self._left_out += 1
        self._left_out_size += weight.size


def in_parts(message: Message) -> Iterator[Message]:
    """Split a stream message whose text is too long to be folded at once."""
    content = message["content"]
    text = content.get("text")
    if message["header"]["msg_type"] != "stream" or not isinstance(text, str) or len(text) <= PART:
        yield message
        return
    last = {**content, "text": text[(len(text) - 1) // PART * PART :]}
    for start in range(0, len(text) - len(last["text"]), PART):
        part = {"name": content["name"], "text": text[start : start + PART]}
        yield {**message, "content": part}
    yield {**message, "content": last}


def unparsed(content: dict[str, Any]) -> Weight:
    """The weight of a message that was not weighed on arrival."""
    return weight_of(utf8(json.dumps(content, ensure_ascii=False, default=str)))
