"""The program of `worker.py`: makes HTML readable, pictures smaller, draws charts, reads tables,
and renders Markdown.

It is run as a file, without this package, so it imports only the standard library and, when first
needed, the library for the task.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

IDLE = 60.0  # seconds without a request after which the process ends
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
PIXELS_MOST = 60_000_000  # max pixels of a picture: a small file can take all memory
SIDE = 1_000  # pixels of a drawing's longer side, at most twice its own size
SIZES = re.compile(r"""\b(width|height)\s*=\s*["']([0-9]{1,9}(?:\.[0-9]{0,9})?)(?:px|pt)?["']""")
# References of SVG to files: all that is neither a part of it nor a bitmap in it.
OUTSIDE = re.compile(
    r"""href\s*=\s*(?!\s*["']\s*(?:\#|data:image/(?:png|jpe?g|gif|webp)[;,]))|<!ENTITY|@import"""
    r"""|\burl\(\s*(?!["']?\#)""",
    re.IGNORECASE,
)
SPAN_MOST = 100  # max rows that one cell of a table may span


def html(request: dict[str, Any], _: bytes) -> bytes:
    """Make HTML readable as Markdown."""
    from bs4 import BeautifulSoup, Comment
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(request["html"], "html.parser")
    for each in soup.find_all(["script", "style", "template", "svg", "canvas", "audio", "video"]):
        each.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    for picture in soup.find_all("img"):
        if str(picture.get("src", "")).startswith("data:"):
            picture.replace_with(f"[picture: {picture.get('alt') or picture['src']}]")
    for cell in soup.find_all(["td", "th"], rowspan=True):
        fill_rows(soup, cell)
    converter = MarkdownConverter(
        escape_misc=False, escape_asterisks=False, escape_underscores=False, heading_style="ATX"
    )
    text = converter.convert_soup(soup).replace("\xa0", " ")
    lines = [line.rstrip() for line in text.split("\n")]
    kept = [line for at, line in enumerate(lines) if line or (at and lines[at - 1])]
    return "\n".join(kept).strip("\n").encode("utf-8", "replace")


def fill_rows(soup: Any, cell: Any) -> None:
    """Give the rows that a cell spans an empty cell in its place: Markdown has no spans."""
    row, span = cell.find_parent("tr"), str(cell["rowspan"])
    if row is None or not span.isdigit():
        return
    place = len(cell.find_previous_siblings(["td", "th"]))
    for below in row.find_next_siblings("tr", limit=min(int(span), SPAN_MOST) - 1):
        cells = below.find_all(["td", "th"], recursive=False)
        empty = soup.new_tag(cell.name)
        if place < len(cells):
            cells[place].insert_before(empty)
        else:
            below.append(empty)


def fit(request: dict[str, Any], data: bytes) -> bytes:
    """Scale a picture down until no side has more than `side` pixels and it has `most` bytes.

    PNG stays PNG if that is small enough, as drawings are; others become JPEG.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = PIXELS_MOST
    picture: Any = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if width * height > PIXELS_MOST:
        raise ValueError(f"it has {width:,} by {height:,} pixels")
    as_png = picture.format in ("PNG", "GIF")
    side = min(request["side"], max(width, height))
    picture.draft("RGB", (side, side))  # JPEG is decoded at a smaller size
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    for _ in range(12):
        smaller = picture.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        made = encoded(smaller, "PNG") if as_png else b""
        if not made or len(made) > request["most"]:
            made = encoded(flat(smaller), "JPEG")
        if len(made) <= request["most"]:
            return made
        side = int(side * max(0.4, min(0.9, (request["most"] / len(made)) ** 0.5)))
        if side < 16:
            break
    raise ValueError("it can't be made small enough")


def encoded(picture: Any, kind: str) -> bytes:
    """Return a picture's bytes in a format."""
    to = io.BytesIO()
    picture.save(to, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return to.getvalue()


def flat(picture: Any) -> Any:
    """Return a picture without transparency, on white."""
    from PIL import Image

    if picture.mode != "RGBA":
        return picture
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture, mask=picture.getchannel("A"))
    return page


def vega(request: dict[str, Any], data: bytes) -> bytes:
    """Draw a Vega or Vega-Lite chart as PNG; it can't load data or pictures from anywhere."""
    import vl_convert

    spec = json.loads(data)
    if loads(spec):
        raise ValueError("it loads data or pictures from elsewhere")
    draw = vl_convert.vegalite_to_svg if request["lite"] else vl_convert.vega_to_svg
    return svg(request, draw(spec, allowed_base_urls=[]).encode())


def loads(spec: Any) -> bool:
    """Return whether a chart loads anything: vl-convert 1.9 reads any `file:` URL."""
    waiting = [spec]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if "url" in part and not str(part["url"]).startswith("data:"):
                return True
            waiting += [part[name] for name in part if name not in ("values", "datasets")]
    return False


def svg(_: dict[str, Any], data: bytes) -> bytes:
    """Draw SVG as PNG, unless it refers to anything outside of itself."""
    import vl_convert

    text = data.decode()
    if OUTSIDE.search(text):
        raise ValueError("it refers to other files")
    start = text.find("<svg")
    sizes = [float(size) for _, size in SIZES.findall(text[start : start + 2_000])[:2]]
    longest: float = max(sizes, default=0.0)
    scale = max(0.001, min(2.0, SIDE / longest)) if longest else 1.0
    drawn: bytes = vl_convert.svg_to_png(text, scale=scale)
    return drawn


def table(request: dict[str, Any], data: bytes) -> bytes:
    """Return the first rows of a table's file: see `worker_tables.py`."""
    return neighbour("worker_tables").table(request, data)  # type: ignore[no-any-return]


def markdown(request: dict[str, Any], data: bytes) -> bytes:
    """Make HTML of Markdown with formulas: see `worker_markdown.py`."""
    return neighbour("worker_markdown").markdown(request, data)  # type: ignore[no-any-return]


def neighbour(name: str) -> Any:
    """Return a module beside this file, whose folder is not in `sys.path`."""
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


TASKS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "html": html,
    "fit": fit,
    "markdown": markdown,
    "svg": svg,
    "table": table,
    "vega": vega,
}


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, named as in `resource`, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, most in limits.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    """Answer requests until stdin ends, or none comes for a while."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up in a reply
    limit(json.loads(sys.argv[1]))
    while True:
        idle = threading.Timer(IDLE, os._exit, (0,))
        idle.daemon = True
        idle.start()
        head = requests.read(16)
        idle.cancel()
        if len(head) < 16:
            return
        length, size = struct.unpack(">QQ", head)
        request = json.loads(requests.read(length))
        data = requests.read(size)
        try:
            failed, reply = False, TASKS[request["what"]](request, data)
        except Exception as error:
            failed, reply = (
                True,
                f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace"),
            )
        replies.write(struct.pack(">?Q", failed, len(reply)) + reply)
        replies.flush()


if __name__ == "__main__":
    main()
