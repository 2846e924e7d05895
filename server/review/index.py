"""The list of sessions: a summary of each notebook in a folder, newest first.

A notebook is parsed again only if its file has changed. Names are looked up among existing files,
so that no URL is ever used as a path. Knows files; nothing about pages or users' tokens.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ...kernels import PID_FILE_SUFFIX, is_recorded
from ..errors import UnreadableError
from .model import Notebook, fingerprint
from .notebook_file import read_notebook

EXTENSION = ".ipynb"
STAMP = re.compile(r"(\d{8}-\d{6})-")  # prefix of the file names that recorders choose
SEARCHED = 200_000  # max characters kept for searching; for longer notebooks, the file is read
CACHE_SIZE = 40_000_000  # max bytes of files whose whole contents stay in memory
TITLE = 120  # max characters of a title
MARKUP = re.compile(r"^#+ |[*`$]+")  # of Markdown, which a title is not
SAYS_LITTLE = ("#", "import ", "from ", '"""', "'''", "%")  # prefixes of lines that make no title

Stamp = tuple[int, int, int, bool]  # inode, size, mtime in ns, whether it is being recorded


@dataclass(frozen=True)
class Entry:
    """A session in the list.

    Attributes:
        name: its name in URLs; usually the file name without its extension.
        title: its title, or what ran first.
        named: whether it was given a title.
        started: seconds since the epoch.
        principal: its owner; None if unknown.
        status: the status of its last cell; `unreadable` if the file is not a notebook.
        counts: how many cells have each status.
        failed: the number of the first cell that failed with each status, if any did.
        seconds: the total run time of its cells.
        live: whether it is being recorded.
        problem: why it can't be read.
        text: its code and output in lower case; None if that is too long to keep.
    """

    name: str
    path: Path
    stamp: Stamp
    title: str
    started: float
    principal: str | None = None
    cells: int = 0
    status: str = ""
    named: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    live: bool = False
    picture: tuple[int, int] | None = None
    problem: str = ""
    text: str | None = ""

    def contains(self, words: Iterable[str]) -> bool:
        """Whether each lower-case word occurs in its code, its output, its title or its name."""
        names = f"{self.path.name}\n{self.title}".lower()
        words = [word for word in words if word not in names]
        if not words:
            return True
        text = self.text
        if text is None:
            with contextlib.suppress(UnreadableError):
                text = searchable(read_notebook(self.path, live=self.live))
        return text is not None and all(word in text for word in words)


class Index:
    """The notebooks of one folder. Its methods read files: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, Entry] = {}  # by file name
        self._read: OrderedDict[tuple[str, Stamp], Notebook] = OrderedDict()
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """All sessions, newest first."""
        with self._lock:
            self._entries = {entry.path.name: entry for entry in self._looked()}
            found = list(self._entries.values())
        return sorted(found, key=lambda entry: (entry.started, entry.name), reverse=True)

    def newest(
        self, most: int | None, wanted: Callable[[Path], bool] = lambda _: True
    ) -> list[Entry]:
        """At most `most` of the newest sessions whose files are `wanted`; parses no others."""
        dated = []
        for path in self.folder.glob(f"[!.]*{EXTENSION}"):
            with contextlib.suppress(OSError):  # deleted meanwhile
                if stat.S_ISREG((status := path.lstat()).st_mode):
                    dated.append((started(path, status.st_mtime), path))
        found: list[Entry] = []
        for _, path in sorted(dated, reverse=True):
            if most is not None and len(found) >= most:
                break
            if wanted(path) and (entry := self._look(path.name)) is not None:
                found.append(entry)
        return found

    def find(self, name: str) -> Entry | None:
        """The up-to-date entry with a name; None if there is none."""
        with self._lock:
            known = next((entry for entry in self._entries.values() if entry.name == name), None)
            if known is not None:
                entry = self._look(known.path.name)
                if entry is not None:
                    self._entries[known.path.name] = entry
                return entry
        return next((entry for entry in self.entries() if entry.name == name), None)

    def notebook(self, entry: Entry) -> Notebook:
        """A whole notebook; the most recently used ones stay in memory.

        Raises:
            UnreadableError: it is not a notebook any more.
        """
        key = entry.path.name, entry.stamp
        with self._lock:
            if notebook := self._read.get(key):
                self._read.move_to_end(key)
                return notebook
        notebook = read_notebook(entry.path, live=entry.live)
        with self._lock:
            for stale in [old for old in self._read if old[0] == key[0]]:
                del self._read[stale]
            self._read[key] = notebook
            while len(self._read) > 1 and sum(stamp[1] for _, stamp in self._read) > CACHE_SIZE:
                self._read.popitem(last=False)
        return notebook

    def forget(self, entry: Entry) -> None:
        """Forget a session, whose notebook was deleted."""
        with self._lock:
            self._entries.pop(entry.path.name, None)
            for key in [key for key in self._read if key[0] == entry.path.name]:
                del self._read[key]

    def _looked(self) -> Iterable[Entry]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return
        there = set(names)
        for name in names:
            if name.endswith(EXTENSION) and not name.startswith("."):
                entry = self._look(name, recorded=f".{name}{PID_FILE_SUFFIX}" in there)
                if entry is not None:
                    yield entry

    def _look(self, name: str, *, recorded: bool = True) -> Entry | None:
        """One file's entry, parsed if it has changed; `recorded` is false if it has no pid file."""
        path = self.folder / name
        try:
            status = path.lstat()
        except OSError:  # deleted meanwhile
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        live = recorded and is_recorded(path)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns, live)
        known = self._entries.get(name)
        if known is not None and known.stamp == stamp:
            return known
        return entry_of(path, stamp, status.st_mtime)


def entry_of(path: Path, stamp: Stamp, changed: float) -> Entry:
    """The entry of one notebook; if it can't be read, the reason why."""
    entry = Entry(
        address(path), path, stamp, shown(path.stem), started(path, changed), live=stamp[3]
    )
    try:
        notebook = read_notebook(path, live=entry.live)
    except UnreadableError as error:
        return replace(entry, status="unreadable", problem=str(error))
    last, text = notebook.last, searchable(notebook)
    return replace(
        entry,
        title=notebook.title or ran(notebook) or entry.title,
        named=bool(notebook.title),
        started=started(path, began(notebook, changed)),
        principal=notebook.principal,
        cells=len(notebook.cells),
        status=last.status if last is not None else "",
        counts=notebook.counts,
        failed={cell.status: cell.number for cell in reversed(notebook.failures)},
        seconds=notebook.seconds,
        picture=notebook.last_picture,
        text=text if len(text) <= SEARCHED else None,
    )


def address(path: Path) -> str:
    """A session's name in URLs; a made-up one if the file's name can't be used there."""
    name = path.name.removesuffix(EXTENSION)
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"x-{fingerprint(repr(name))}"
    return (
        name
        if name.isprintable() and name.strip(". ") and "\\" not in name
        else (f"x-{fingerprint(name)}")
    )


def shown(name: str) -> str:
    """A file name for people, with unprintable characters replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def started(path: Path, otherwise: float) -> float:
    """When a session began, in seconds since the epoch: from its file name, else `otherwise`."""
    if stamp := STAMP.match(path.name):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.strptime(stamp[1], "%Y%m%d-%H%M%S").timestamp()
    return otherwise


def began(notebook: Notebook, changed: float) -> float:
    """When the first cell ran, in seconds since the epoch; `changed` if that is not recorded."""
    for cell in notebook.cells:
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.fromisoformat(cell.started).timestamp()
    return changed


def ran(notebook: Notebook) -> str:
    """What ran first: a file's name, or the first meaningful line of code."""
    if notebook.ran:
        return shown(notebook.ran)[:TITLE]
    for cell in notebook.cells:
        if cell.script:
            return shown(cell.script)[:TITLE]
        lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
        if lines and cell.kind == "markdown":
            return shown(MARKUP.sub("", lines[0])).strip()[:TITLE]
        if lines:
            meaningful = (line for line in lines if not line.startswith(SAYS_LITTLE))
            return shown(next(meaningful, lines[0]))[:TITLE]
    return ""


def searchable(notebook: Notebook) -> str:
    """All code and output as one lower-case text."""
    parts = []
    for cell in notebook.cells:
        parts += [cell.script, cell.source]
        for output in cell.outputs:
            parts.append(output.text)
            parts += [text for mime, text in output.bundle.items() if mime.startswith("text/")]
    return "\n".join(parts).lower()
