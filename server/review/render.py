"""Cells as HTML: highlighted code, text as a terminal shows it, placeholders for all else.

Everything is escaped here. Outputs that are HTML themselves (tables, SVG, Markdown) are only
referenced, and shown in a frame. Knows nothing about requests or viewers.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup, escape
from nbconvert.filters.ansi import ansi2html, strip_ansi
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import PythonLexer, get_lexer_by_name
from pygments.util import ClassNotFound

from ...kernels import head_and_tail
from .iframe import PROSE
from .model import Cell, Output, size_of

MOST_OUTPUTS = 100  # max outputs shown of one cell
MOST_TEXT = 100_000  # max characters of one text in a short notebook; 40 times that in all cells
LEAST_TEXT = 4_000  # the lowest such limit, however long the notebook
MOST_CODE = 200_000  # max characters that are highlighted; more would take seconds
MOST_COLOURS = 3_000  # max colour changes in one text
CACHE_SIZE = 30_000_000  # max characters of rendered cells kept in memory
FRAMES = ("text/html", "image/svg+xml", "text/markdown", "text/latex")
FRAME_LIMIT = 5_000_000  # max characters of one frame's content
# Terminal control sequences besides colours: titles, links, the bell, the other escapes.
ORDERS = re.compile(r"\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b(?!\[)[ -/]*[0-~]?", re.M)
CONTROLS = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
STYLED = re.compile(r'<span((?: class="[^"]*")?) style="([^"]*)">')
RGB = re.compile(r"(background-)?color: rgb\((\d+),(\d+),(\d+)\)")
MAGICS = re.compile(r"^\s*[%!?]|\?\s*$", re.M)  # IPython's own syntax, whose lexer is slow
FORMATTER = HtmlFormatter(nowrap=True)  # created once: that takes longer than rendering a cell
COLOURS = (
    ("black", (0, 0, 0)),
    ("red", (187, 0, 0)),
    ("green", (0, 160, 0)),
    ("yellow", (187, 150, 0)),
    ("blue", (0, 90, 255)),
    ("magenta", (187, 0, 187)),
    ("cyan", (0, 160, 187)),
    ("white", (200, 200, 200)),
    ("black-intense", (100, 100, 100)),
    ("red-intense", (255, 90, 90)),
    ("green-intense", (90, 255, 90)),
    ("yellow-intense", (255, 255, 90)),
    ("blue-intense", (110, 150, 255)),
    ("magenta-intense", (255, 90, 255)),
    ("cyan-intense", (90, 255, 255)),
    ("white-intense", (255, 255, 255)),
)

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True)
class Shown:
    """How an output is shown.

    Attributes:
        way: as text, as a picture, in a frame, or as a note that says why not.
        place: its index, from 0, among the cell's outputs.
        label: a description for people who can't see it.
        width: of a picture in pixels, as is `height`; 0 if unknown.
        whole: whether a frame is as high as its content, since people read on after it.
    """

    way: Literal["text", "picture", "frame", "note"]
    place: int
    version: str
    kind: str
    label: str
    text: Markup | str = ""
    mime: str = ""
    width: int = 0
    height: int = 0
    whole: bool = False


class Renderer:
    """Renders cells, each once until it changes. Call it from one thread at a time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, str, int], str] = OrderedDict()
        self._size = 0

    def cell(
        self, cell: Cell, base: str, language: str, most_text: int, plain: bool = False
    ) -> str:
        """One cell's HTML; `base` is the URL of the page that it is on.

        With `plain`, its code is not highlighted, unless a highlighted version is cached.
        """
        key = base, cell.number, cell.version, most_text
        if html := self._kept.get(key):
            self._kept.move_to_end(key)
            return html
        html = cell_html(cell, base, language, most_text, plain)
        if cell.over and not plain:
            self._kept[key] = html
            self._size += len(html)
            while self._size > CACHE_SIZE:
                self._size -= len(self._kept.popitem(last=False)[1])
        return html


def text_limit(cells: int) -> int:
    """Max characters of one text in a notebook of `cells` cells, so that its page can be opened."""
    return max(LEAST_TEXT, min(MOST_TEXT, 40 * MOST_TEXT // max(1, cells)))


def cell_html(cell: Cell, base: str, language: str, most_text: int, plain: bool = False) -> str:
    """One cell's HTML."""
    outputs = [
        shown(cell, place, output, most_text)
        for place, output in enumerate(cell.outputs[:MOST_OUTPUTS])
    ]
    if cell.kind == "markdown":
        outputs = [
            Shown(
                "frame",
                0,
                cell.version,
                "data",
                "Text",
                mime="text/markdown",
                height=expected_height(cell.source, "text/markdown"),
                whole=True,
            )
        ]
    return render(
        "cell.html",
        cell=cell,
        base=base,
        code=escape(cell.source) if plain else highlighted(cell.source, language),
        plain=plain,
        outputs=outputs,
        left_out=max(0, len(cell.outputs) - MOST_OUTPUTS),
        duration=duration(cell.seconds),
    )


def shown(cell: Cell, place: int, output: Output, most_text: int) -> Shown:
    """How one output is shown."""
    name = f"output {place + 1} of cell {cell.number}"
    if output.kind != "data":
        text = terminal(output.text, most_text)
        return Shown("text", place, output.version, output.kind, name, text)
    bundle, picture = output.bundle, output.pictured
    rich = next((mime for mime in FRAMES if mime in bundle), None)
    if picture and (rich is None or "<script" in bundle[rich]):
        width, height = map(lambda n: min(n, 10_000), size_of(output.picture(picture) or b""))
        description = strip_ansi(bundle.get("text/plain", "")).strip("<> \n")[:200]
        label = f"Picture, {name}" + (f": {description}" if description else "")
        return Shown("picture", place, output.version, "data", label, "", picture, width, height)
    if rich and len(bundle[rich]) <= FRAME_LIMIT:
        return Shown(
            "frame",
            place,
            output.version,
            "data",
            f"Rich {name}",
            mime=rich,
            height=expected_height(bundle[rich], rich),
            whole=rich in PROSE,
        )
    plain = next((mime for mime in ("text/latex", "text/plain") if mime in bundle), None)
    why = reason(output)
    if plain is None and not why:
        plain = next((mime for mime in bundle if mime.endswith("json")), None)
    text = terminal(bundle[plain], most_text) if plain else Markup("")
    if why or plain is None:
        why = why or f"An output of type {', '.join(bundle) or 'none'}"
        return Shown("note", place, output.version, "data", why[:300], text)
    return Shown("text", place, output.version, "data", f"Value, {name}", text)


def reason(output: Output) -> str:
    """A description of a rich output that can't be shown as intended; empty if it can."""
    for mime, content in output.bundle.items():
        if mime in FRAMES and len(content) > FRAME_LIMIT:
            return f"An output of {len(content) / 1e6:,.0f} million characters ({mime})"
        if mime.startswith("image/") and mime not in FRAMES:
            return f"A picture ({mime}) that is broken, too large or of another type"
        if mime == "application/javascript" or mime.startswith(
            ("application/vnd.", "video/", "audio/")
        ):
            return f"An interactive output ({mime})"
    return ""


def expected_height(content: str, mime: str) -> int:
    """A frame's estimated height in pixels, so that the page won't jump when it reports its own."""
    if mime in PROSE:
        return min(
            600, 30 + 22 * sum(1 + len(line) // 110 for line in content[:20_000].split("\n"))
        )
    return min(600, 60 + 28 * content.count("<tr")) if "<tr" in content else 160


# -- text


def highlighted(source: str, language: str) -> Markup:
    """Code with CSS classes for its tokens; plain if it is too long."""
    if len(source) > MOST_CODE:
        return escape(source)
    lexer = lexer_of("ipython3" if language == "python" and MAGICS.search(source) else language)
    return Markup(highlight(source, lexer, FORMATTER))


@lru_cache
def lexer_of(language: str) -> Lexer:
    """Pygments' lexer for a language; Python's if there is none."""
    try:
        named: Lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        named = PythonLexer(stripnl=False)
    return named


def terminal(text: str, most: int) -> Markup:
    """Text with terminal colours as CSS classes, truncated to `most` characters."""
    text = head_and_tail(text, most, "are left out here; the download has them")
    if "\x1b" in text:
        text = ORDERS.sub("", text)
    text = CONTROLS.sub("\ufffd", text)
    if text.count("\x1b") > MOST_COLOURS:
        text = strip_ansi(text)
    if "\x1b" not in text:
        return escape(text)
    # The page's policy forbids ansi2html's inline styles, and their contrast is unknown.
    return Markup(STYLED.sub(classed, ansi2html(text)).replace("\x1b", ""))


def classed(span: re.Match[str]) -> str:
    """A span with classes for the nearest of sixteen colours instead of its styles."""
    classes = [span[1].removeprefix(' class="').removesuffix('"')]
    for back, *parts in RGB.findall(span[2]):
        classes.append(f"ansi-{nearest(*map(int, parts))}-{'bg' if back else 'fg'}")
    return f'<span class="{" ".join(filter(None, classes))}">'


@lru_cache(4096)
def nearest(red: int, green: int, blue: int) -> str:
    """The name of the nearest of a terminal's sixteen colours."""
    return min(
        COLOURS,
        key=lambda c: (c[1][0] - red) ** 2 + (c[1][1] - green) ** 2 + (c[1][2] - blue) ** 2,
    )[0]


def duration(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def iso(seconds: float) -> str:
    """A time, in seconds since the epoch, as ISO 8601."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat("T", "seconds")


def moment(seconds: float) -> str:
    """A time, in seconds since the epoch, for people in this machine's time zone."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def render(template: str, **context: Any) -> str:
    """Render a template to HTML."""
    return templates.get_template(template).render(**context)


templates.filters |= {"duration": duration, "iso": iso, "moment": moment}
macros = templates.get_template("macros.html").module
templates.globals |= {name: getattr(macros, name) for name in ("badge", "tally")}
