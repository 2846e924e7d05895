"""Chooses the text of a mimebundle that tells a model most, and names what it can't see.

The notebook keeps every type; this is the model's view only. Knows MIME types and bundles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import WorkerError
from ..plurals import counted
from .charts import chart_of, summary, svg
from .pictures import PICTURE_TYPES, has_picture
from .worker import Reader

HTML_MOST = 300_000  # max characters of HTML that are made readable
# What `object.__repr__` and IPython's display objects say: nothing but a type and an address.
_SAYS_NOTHING = re.compile(r"\s*<[^<>\n]{1,300}?(?: object| at 0x[0-9a-fA-F]+)+>\s*")
# pandas wraps a table that is wider than 80 columns, and leaves out the columns in its middle.
_WRAPPED = re.compile(r"(?m)[ ]\\$")
_ELIDED = re.compile(r".*\s(?:\.\.\.|…)(?:\s|$)")
_BOKEH_PLACE = re.compile(r"""\s*<div [^<>]*\bdata-root-id=[^<>]*>\s*</div>\s*""")
_TABLE = re.compile(r"<table\b", re.IGNORECASE)
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)((?:;[\w=.+-]+)*)[;,]([A-Za-z0-9+/=%\s]{64,})")
_MEDIA = re.compile(r"<(audio|video|iframe|object|embed)\b", re.IGNORECASE)
_SOURCE = re.compile(r"""\bsrc\s*=\s*["']?([^"'\s>]{1,300})""", re.IGNORECASE)
_OPENED = {name: re.compile(f"<{name}\\b", re.IGNORECASE) for name in ("script", "style")}
_CLOSED = {name: re.compile(f"</{name}\\s*>", re.IGNORECASE) for name in ("script", "style")}


def is_simple(bundle: Mapping[str, Any]) -> bool:
    """Whether `best_text` needs next to no work."""
    return set(bundle) <= {"text/plain", *PICTURE_TYPES}


def best_text(bundle: Mapping[str, Any], reader: Reader) -> str:
    """A bundle's text for a model; empty for a picture, which is sent as an image.

    Takes time for HTML and large JSON, so call it from a thread.
    """
    if chart := chart_of(bundle):
        return f"{summary(*chart)}\n"
    if has_picture(bundle):
        return ""
    if isinstance(drawing := bundle.get("image/svg+xml"), str):
        return f"{svg(drawing)}\n"
    plain = bundle.get("text/plain")
    says = isinstance(plain, str) and not says_nothing(plain)
    if isinstance(text := bundle.get("text/markdown"), str):
        return without_data(text)
    html = bundle.get("text/html")
    if isinstance(html, str) and _BOKEH_PLACE.fullmatch(html[:500]):
        return ""  # where the chart goes, which is the next output
    if isinstance(html, str) and says and is_cut_table(str(plain), html):
        return readable_html(html, reader) or str(plain)
    if says:
        return str(plain)
    if isinstance(text := bundle.get("text/latex"), str):
        return text
    for kind in bundle:
        if kind == "application/json" or kind in ("application/geo+json", "application/ld+json"):
            return compact(bundle[kind])
    if isinstance(html, str):
        return readable_html(html, reader) or left_out("HTML", len(html))
    if any(kind.startswith("application/vnd.bokehjs_load.") for kind in bundle):
        return ""  # a library for the charts to come
    others = [kind for kind in bundle if kind != "text/plain"]
    if not others:
        return str(plain or "")
    return "".join(left_out(kind, size_of(bundle[kind])) for kind in others[:5])


def says_nothing(plain: str) -> bool:
    """Whether a text is only a type's name and perhaps an address."""
    return not plain.strip() or _SAYS_NOTHING.fullmatch(plain) is not None


def is_cut_table(plain: str, html: str) -> bool:
    """Whether the HTML is a table whose columns don't all fit into the plain text's 80 columns."""
    first = plain[: plain.find("\n")] if "\n" in plain else plain
    cut = _WRAPPED.search(plain[:2_000]) or _ELIDED.match(first[:2_000])
    return cut is not None and _TABLE.search(html) is not None


def compact(value: Any) -> str:
    """JSON data on one line; text that is JSON already is unchanged."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def readable_html(html: str, reader: Reader) -> str:
    """HTML as Markdown, without scripts, styles and embedded data; empty if nothing is left."""
    size = len(html)
    media = media_of(html)
    body, runs = without_scripts(without_data(html))
    cut = body[:HTML_MOST]
    try:
        text = reader.ask("html", {"html": cut}).decode().strip("\n")
    except WorkerError:
        text = " ".join(re.sub(r"<[^<>]*>", " ", cut).split())
    lines = [text, *media] if text.strip() else media
    if len(body) > len(cut):
        lines.append(
            f"[{counted(len(body) - len(cut), 'more character')} of HTML: in the notebook]"
        )
    if runs:
        lines.append(f"[HTML of {counted(size, 'character')} that runs scripts: in the notebook]")
    return "\n".join(lines)


def without_data(text: str) -> str:
    """Text with the data in its `data:` URIs replaced by their size."""
    return _DATA_URI.sub(lambda uri: f"data:{uri[1]},{len(uri[3])}-characters", text)


def without_scripts(html: str) -> tuple[str, bool]:
    """HTML without its scripts and styles, and whether it had a script."""
    runs = False
    for name in ("script", "style"):
        kept, here = [], 0
        while opened := _OPENED[name].search(html, here):
            runs = runs or name == "script"
            kept.append(html[here : opened.start()])
            closed = _CLOSED[name].search(html, opened.end())
            here = closed.end() if closed else len(html)
        html = "".join([*kept, html[here:]])
    return html, runs


def media_of(html: str) -> list[str]:
    """What HTML embeds besides text, a line for each."""
    lines = []
    for found in _MEDIA.finditer(html):
        source = _SOURCE.search(html, found.start(), found.start() + 2_000)
        uri = source[1] if source else ""
        if data := re.match(r"data:([\w.+-]+/[\w.+-]+)", uri):
            end = _DATA_URI.search(html, source.start(1) if source else 0)
            size = len(end[3]) * 3 // 4 if end else len(uri)
            uri = f"{data[1]}, about {counted(size, 'byte')}"
        lines.append(f"[{found[1].lower()}{': ' if uri else ''}{uri}; shown in the notebook]")
        if len(lines) == 5:
            break
    return lines


def left_out(kind: str, size: int) -> str:
    """A line that names an output which the model can't see."""
    return (
        f"[{' '.join(kind.split())[:200]}, {counted(size, 'character')}: shown in the notebook]\n"
    )


def size_of(value: Any) -> int:
    """About how many characters a bundle's value has."""
    return len(value) if isinstance(value, str) else len(compact(value))
