"""A run's text in the layout of results: built once, as it grows, and read from any position.

The work is proportional to what is new or requested. Knows nbformat outputs and the server's own
lines; nothing about tools.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..plaintext import Plain
from ..views import Allowance, Reader, Worker, best_text, is_simple
from .own_lines import EXIT, NOTHING, STDERR, Marker

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ...kernels import Execution, Run, StreamText

    StreamOf = Callable[[NotebookNode], StreamText | None]

SLICE = 65_536  # characters cleaned per step, without yielding to another thread
AT_ONCE = 200_000  # max characters cleaned on the event loop; more go to a thread
CACHE_SIZE = 32_000_000  # max characters of cached texts, all runs together

# A part, the raw text to add (or what makes it, in a thread), and whether that completes the part.
Job = tuple["Part", str | Callable[[], str], bool]


class Layout:
    """A run's text in the layout of results, with `len`, slices and the positions of its parts."""

    def __init__(self) -> None:
        self.sections: dict[str, tuple[int, int]] = {}
        self._pieces: list[str] = []
        self._starts: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, stretch: slice) -> str:
        start, end, _ = stretch.indices(self._size)
        if start >= end:
            return ""
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1)
        begin = self._starts[first]
        return "".join(self._pieces[first:last])[start - begin : end - begin]

    def add(self, name: str, texts: Iterable[Sequence[str]]) -> None:
        """Add a section; each of its texts starts on a new line."""
        start = None
        for pieces in texts:
            if pieces:
                self._on_a_new_line()
                start = self._size if start is None else start
                for piece in pieces:
                    self._append(piece)
        if start is not None:
            self.sections[name] = (start, self._size)

    def _on_a_new_line(self) -> None:
        if self._pieces and not self._pieces[-1].endswith("\n"):
            self._append("\n")

    def _append(self, piece: str) -> None:
        self._pieces.append(piece)
        self._starts.append(self._size)
        self._size += len(piece)


class Part:
    """One output as readable text, as far as it has come.

    Attributes:
        pieces: its text in pieces, none of them empty.
        taken: characters of the output's raw text that were processed.
        complete: whether no more text will come.
    """

    def __init__(self, output: NotebookNode) -> None:
        self.pieces: list[str] = []
        self.size = 0
        self.taken = 0
        self.complete = False
        self._output, self._data = output, output.get("data")
        self._widget = widget_of(output)
        self._plain, self._marker = Plain(), Marker()

    def shows(self, output: NotebookNode) -> bool:
        """Whether this part was made from the output in its current state."""
        same = self._output is output and self._data is output.get("data")
        return same and self._widget == widget_of(output)

    def take(self, text: str, complete: bool) -> None:
        """Add more of the output's raw text."""
        for start in range(0, len(text), SLICE):
            self._add(self._marker.feed(self._plain.feed(text[start : start + SLICE])))
        self.taken += len(text)
        if complete:
            self._add(self._marker.feed(self._plain.end()) + self._marker.end())
            self.complete = True
            if self._data is not None:  # a display's text ends with one newline
                whole = "".join(self.pieces).rstrip("\n") + "\n" if self.pieces else ""
                self.pieces, self.size = [whole] if whole else [], len(whole)

    def _add(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            self.size += len(piece)


class Printed:
    """All outputs of one run as readable text, each made once.


    Args:
        worker: reads HTML and pictures.
        resized: called with the change when the number of cached characters changes.
    """

    def __init__(
        self, worker: Worker, resized: Callable[[Printed, int], None] = lambda *_: None
    ) -> None:
        self.size = 0  # characters cached
        self._resized = resized
        self._worker, self._reader = worker, Allowance(worker)
        self._parts: dict[int, Part] = {}
        self._lock = asyncio.Lock()

    async def so_far(self, outputs: list[NotebookNode], stream_of: StreamOf) -> Layout:
        """The text of an unfinished run that can't change any more: stdout and displays."""
        await self._bring_up_to_date(outputs, stream_of)
        layout = Layout()
        layout.add("stdout", self._texts_of(outputs, "stdout"))
        return layout

    async def whole(self, outputs: list[NotebookNode], exit_code: int | None) -> Layout:
        """Stdout and displays, stderr, the value or traceback, the exit code."""
        await self._bring_up_to_date(outputs, None)
        layout = Layout()
        layout.add("stdout", self._texts_of(outputs, "stdout"))
        if any(errors := self._texts_of(outputs, "stderr")):
            layout.add("heading", [[f"{STDERR}\n"]])
            layout.add("stderr", errors)
        layout.add("value", self._texts_of(outputs, "value"))
        if not len(layout):
            layout.add("empty", [[NOTHING + ("\n" if exit_code is not None else "")]])
        if exit_code is not None:
            layout.add("exit", [[f"{EXIT}{exit_code}]"]])
        return layout

    def _texts_of(self, outputs: list[NotebookNode], section: str) -> list[list[str]]:
        return [
            part.pieces
            for output in outputs
            if section_of(output) == section and (part := self._parts.get(id(output))) is not None
        ]

    async def _bring_up_to_date(
        self, outputs: list[NotebookNode], stream_of: StreamOf | None
    ) -> None:
        async with self._lock:
            jobs = self._collect(outputs, stream_of)
            try:
                if any(callable(text) for _, text, _ in jobs):
                    await self._worker.in_thread(do, jobs)
                elif sum(len(text) for _, text, _ in jobs if isinstance(text, str)) <= AT_ONCE:
                    do(jobs)
                else:
                    await asyncio.to_thread(do, jobs)
            except asyncio.CancelledError:
                self._parts = {}  # the thread is still using the old ones
                raise
            before, self.size = self.size, sum(part.size for part in self._parts.values())
            self._resized(self, self.size - before)

    def _collect(self, outputs: list[NotebookNode], stream_of: StreamOf | None) -> list[Job]:
        """List the work to do, as plain texts so that a thread can do it."""
        parts: dict[int, Part] = {}
        jobs: list[Job] = []
        open_outputs = () if stream_of is None else growing(outputs)
        for output in outputs:
            part = self._parts.get(id(output))
            if part is None or not part.shows(output):
                part = Part(output)
            parts[id(output)] = part
            if not part.complete:
                complete = not any(output is other for other in open_outputs)
                stream = stream_of(output) if stream_of is not None else None
                text = new_text(output, stream, part.taken, complete, self._reader)
                if text or complete:
                    jobs.append((part, text, complete))
        self._parts = parts
        return jobs


class TextCache:
    """Caches the texts of runs for as long as the run is referenced and there is room.

    Attributes:
        worker: reads HTML and pictures for it.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._printed: OrderedDict[int, Printed] = OrderedDict()  # most recently used last
        self._size = 0  # characters, all runs together
        self._owners: dict[int, weakref.finalize[..., Execution | Run]] = {}

    async def so_far(self, execution: Execution) -> Layout:
        """The text so far of an unfinished run."""
        outputs = execution.outputs
        return await self._of(execution).so_far(outputs.cell.outputs, outputs.stream_text)

    async def whole(self, run: Run, execution: Execution | None = None) -> Layout:
        """The text of a finished run; `execution` is the one that produced it, if known."""
        # Files end with an exit code; cells have none.
        exit_code = run.exit_code if run.is_file else None
        return await self._of(execution or run).whole(run.cell.outputs, exit_code)

    def _of(self, owner: Execution | Run) -> Printed:
        key = id(owner)
        if key not in self._owners:
            self._owners[key] = weakref.finalize(owner, self._forget, key)
            self._owners[key].atexit = False
        if key not in self._printed:
            self._printed[key] = Printed(self.worker, partial(self._resized, key))
        self._printed.move_to_end(key)
        while len(self._printed) > 1 and self._size > CACHE_SIZE:
            self._drop(next(iter(self._printed)))
        return self._printed[key]

    def _resized(self, key: int, printed: Printed, change: int) -> None:
        if self._printed.get(key) is printed:  # else it was dropped while it was being read
            self._size += change

    def _drop(self, key: int) -> None:
        if (printed := self._printed.pop(key, None)) is not None:
            self._size -= printed.size

    def _forget(self, key: int) -> None:
        self._drop(key)
        self._owners.pop(key, None)


def do(jobs: list[Job]) -> None:
    """Clean and mark the new texts."""
    for part, text, complete in jobs:
        part.take(text if isinstance(text, str) else text(), complete)


def growing(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs that may still grow: stdout and stderr if they come last."""
    if not outputs or outputs[-1].output_type != "stream":
        return []
    return [output for output in outputs[-2:] if output.output_type == "stream"]


def section_of(output: NotebookNode) -> str:
    """The section of the layout that an output belongs to."""
    kind = output.output_type
    if kind == "stream" and output.name == "stderr":
        return "stderr"
    return "value" if kind in ("execute_result", "error") else "stdout"


def new_text(
    output: NotebookNode, stream: StreamText | None, start: int, complete: bool, reader: Reader
) -> str | Callable[[], str]:
    """An output's raw text from `start` on, as far as it can't change any more."""
    if output.output_type == "stream":
        if stream is None:
            return str(output.text)[start:]
        return stream.text[start:] if complete else stream.settled_from(start)
    if output.output_type == "error":
        return "\n".join(output.traceback) or f"{output.ename or 'Error'}: {output.evalue}"
    if (widget := widget_of(output)) is not None:
        return widget
    make = functools.partial(best_text, output.data, reader)
    return make() if is_simple(output.data) else make


def widget_of(output: NotebookNode) -> str | None:
    """What an ipywidget showed at the end of the run that changed it last; None if unknown."""
    mine = (output.get("metadata") or {}).get("rmi_agent")
    widget = mine.get("widget") if isinstance(mine, dict) else None
    return widget if isinstance(widget, str) else None
