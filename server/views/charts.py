"""Charts in words: kind, title, axes, and what each trace shows, from the data in their bundles.

Knows the JSON of Plotly, Vega, Vega-Lite and Bokeh, and SVG. A chart comes from code that nobody
has read, so the work is bounded, and what has another shape than expected is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ..plurals import counted
from .series import at, lines_of, series, text_at, words

TRACES = 8  # max traces, layers or glyphs in a summary
LINES = 16  # max lines of a summary
ROWS = 200_000  # max rows of a table that are looked at
FIELDS = 12  # max fields of a Vega chart
SOURCE_MOST = 20_000_000  # max characters of a script that is searched for a chart
CALLS = 20  # max places of a script where a chart may be
NODES = 20_000  # max objects of a Bokeh document that are looked at
_VEGA = re.compile(r"application/vnd\.(vega|vegalite)\.v\d+(?:\.\d+)*\+json")
_VEGA_CALL = re.compile(
    r"\}\)\s*\(\s*(?=\{)|vegaEmbed\(\s*[^,()]{1,200},\s*(?=\{)|spec\s*=\s*(?=\{)"
)
_PLOTLY_CALL = re.compile(r"""Plotly\.(?:newPlot|react|plot)\(\s*["'][^"']{1,200}["'],\s*(?=\[)""")
_BOKEH_CALL = re.compile(r"docs_json\s*=\s*(?=\{)")
_SVG_SIZE = re.compile(r"""\b(width|height|viewBox)\s*=\s*["']([^"']{1,60})["']""")
_SVG_TEXT = re.compile(r"<(title|desc|text|tspan)\b[^<>]{0,2000}>([^<]{1,500})")
_SVG_COMMENT = re.compile(r"<!-- ([^<>]{1,100}) -->")  # how matplotlib writes texts that are paths
_SVG_SHAPE = re.compile(r"<(path|circle|rect|line|polyline|polygon|ellipse|image)\b")


def chart_of(bundle: Mapping[str, Any]) -> tuple[str, Any] | None:
    """A bundle's chart: `plotly`, `vega`, `vegalite` or `bokeh`, and its JSON data."""
    for kind, value in bundle.items():
        if kind == "application/vnd.plotly.v1+json" and isinstance(value, dict):
            return "plotly", value
        if (found := _VEGA.fullmatch(kind)) and isinstance(value, dict):
            return found[1], value
    for kind in ("application/javascript", "text/html"):
        script = bundle.get(kind)
        if isinstance(script, str) and (found_in := chart_in(script[:SOURCE_MOST])):
            return found_in
    return None


def chart_in(script: str) -> tuple[str, Any] | None:
    """The chart that a script draws, as Altair, Plotly and Bokeh write it."""
    if "docs_json" in script and (call := _BOKEH_CALL.search(script)):
        return found_json("bokeh", script, call.end())
    if "vega" in script:
        for call in islice(_VEGA_CALL.finditer(script), CALLS):
            if found := found_json("vegalite", script, call.end()):
                schema = found[1].get("$schema") if isinstance(found[1], dict) else ""
                return ("vega" if "/vega/" in str(schema) else "vegalite"), found[1]
    if "Plotly." in script and (call := _PLOTLY_CALL.search(script)):
        found = found_json("plotly", script, call.end())
        return ("plotly", {"data": found[1]}) if found else None
    return None


def found_json(kind: str, script: str, start: int) -> tuple[str, Any] | None:
    """The JSON value that starts at a place of a script."""
    try:
        return kind, json.JSONDecoder().raw_decode(script, start)[0]
    except (ValueError, RecursionError):
        return None


def summary(kind: str, chart: Any) -> str:
    """A chart in words."""
    how = {"plotly": plotly, "vega": vega, "vegalite": vega, "bokeh": bokeh}[kind]
    return how(chart)


def titled(kind: str, title: str, *more: str) -> str:
    """A summary's first line."""
    named = f"{kind} chart, drawn in the notebook{f': “{title}”' if title else ''}"
    return "; ".join([named, *filter(None, more)])


# -- Plotly


def plotly(figure: Any) -> str:
    """A Plotly figure: its traces with their data."""
    traces = at(figure, "data")
    traces = traces if isinstance(traces, list) else []
    layout = at(figure, "layout")
    axes = []
    for axis in ("xaxis", "yaxis", "zaxis"):
        if title := text_at(layout, axis, "title"):
            axes.append(f"{axis[0]}: {title}")
    head = titled(
        "Plotly", text_at(layout, "title"), ", ".join(axes), counted(len(traces), "trace")
    )
    return lines_of(head, (plotly_trace(each) for each in traces), len(traces), TRACES)


def plotly_trace(trace: Any) -> str:
    """One trace in a line."""
    name = text_at(trace, "name")
    kind = text_at(trace, "type") or "scatter"
    names = ("x", "y", "z", "labels", "values", "lat", "lon", "locations", "open", "close", "r")
    parts = [series(each, at(trace, each)) for each in names]
    return f"{kind}{f' “{name}”' if name else ''}: " + "; ".join(filter(None, parts))


# -- Vega and Vega-Lite


def vega(spec: Any) -> str:
    """A Vega or Vega-Lite chart: marks, encodings, and the fields of its data."""
    lite = "marks" not in spec if isinstance(spec, Mapping) else True
    marks, lines = [], []
    for view in views_of(spec):
        mark = at(view, "mark") if lite else at(view, "type")
        if kind := text_at(mark, "type") if isinstance(mark, Mapping) else words_of(mark):
            marks.append(kind)
        encoding = at(view, "encoding")
        for channel, how in (
            list(encoding.items())[:FIELDS] if isinstance(encoding, Mapping) else ()
        ):
            line = f"{words(channel)}: {channel_of(how)}"
            if line not in lines and channel_of(how):
                lines.append(line)
    lines += list(tables_of(spec))
    different = list(dict.fromkeys(marks))[:TRACES]
    name = "Vega-Lite" if lite else "Vega"
    head = titled(name, text_at(spec, "title"), f"{', '.join(different)}" if different else "")
    return lines_of(head, lines, len(lines), LINES)


def views_of(spec: Any) -> Iterator[Any]:
    """A specification and its layers, concatenated views and marks, outermost first."""
    waiting, seen = [spec], 0
    while waiting and seen < TRACES * 4:
        view = waiting.pop(0)
        seen += 1
        yield view
        for inner in ("layer", "hconcat", "vconcat", "concat", "marks"):
            if isinstance(views := at(view, inner), list):
                waiting += views[: TRACES * 4]
        if isinstance(one := at(view, "spec"), Mapping):
            waiting.append(one)


def channel_of(how: Any) -> str:
    """An encoding channel's field and type, or its value."""
    if isinstance(how, list):
        return ", ".join(filter(None, map(channel_of, how[:FIELDS])))
    field, aggregate = text_at(how, "field"), words_of(at(how, "aggregate"))
    title = text_at(how, "title") or text_at(how, "axis", "title")
    named = f"{aggregate}({field})" if aggregate else field
    kind = text_at(how, "type")
    parts = [named, f"({kind})" if kind and named else "", f"“{title}”" if title else ""]
    return " ".join(filter(None, parts))


def tables_of(spec: Any) -> Iterator[str]:
    """The inline tables of a specification, a line for each field."""
    tables: list[tuple[str, Any]] = []
    if isinstance(sets := at(spec, "datasets"), Mapping):
        tables += [("", rows) for rows in list(sets.values())[:3]]
    data = at(spec, "data")
    for each in data[:3] if isinstance(data, list) else [data]:
        if isinstance(rows := at(each, "values"), list):
            tables.append((words_of(at(each, "name")), rows))
        elif url := words_of(at(each, "url")):
            yield f"data from {url}"
    for name, rows in tables:
        if not isinstance(rows, list) or not rows:
            continue
        yield f"data{f' {name}' if name else ''}: {counted(len(rows), 'row')}"
        if isinstance(rows[0], Mapping):
            for field in list(rows[0])[:FIELDS]:
                column = [row.get(field) for row in rows[:ROWS] if isinstance(row, Mapping)]
                if line := series(words(field), column):
                    yield f"  {line}"
        else:
            yield f"  {series('values', rows)}"


# -- Bokeh


def bokeh(documents: Any) -> str:
    """Bokeh's documents: titles, axis labels, and glyphs with their columns."""
    titles: list[str] = []
    axes: list[str] = []
    glyphs: list[Any] = []
    sources: dict[str, Any] = {}
    total = 0
    for node in nodes_of(documents):
        name, attributes = node.get("name"), node.get("attributes")
        if name in ("Title", "Figure") and (title := text_at(attributes, "text")):
            titles.append(title)
        elif label := text_at(attributes, "axis_label"):
            axes.append(label)
        elif name == "ColumnDataSource":
            sources[str(node.get("id"))] = attributes
        elif name == "GlyphRenderer":
            total += 1
            if len(glyphs) < TRACES:
                glyphs.append(attributes)
    lines = [bokeh_glyph(glyph, sources) for glyph in glyphs]
    labels = f"axes: {', '.join(dict.fromkeys(axes))}"[:200] if axes else ""
    head = titled("Bokeh", ", ".join(dict.fromkeys(titles))[:200], labels, counted(total, "glyph"))
    return lines_of(head, lines, total, TRACES)


def nodes_of(document: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a Bokeh document that have a name."""
    waiting, seen = [document], 0
    while waiting and seen < NODES:
        node = waiting.pop()
        seen += 1
        if isinstance(node, Mapping):
            if isinstance(node.get("name"), str):
                yield node
            waiting += list(node.values())[:NODES]
        elif isinstance(node, list) and len(node) <= 1_000:  # longer lists are data
            waiting += [each for each in node if isinstance(each, dict | list)]


def bokeh_glyph(glyph: Any, sources: Mapping[str, Any]) -> str:
    """One glyph in a line: its kind, and the columns that it shows."""
    source = at(glyph, "data_source")
    data = at(source, "attributes", "data") or at(sources.get(str(at(source, "id"))), "data")
    entries = at(data, "entries")
    columns = {
        str(entry[0]): entry[1]
        for entry in (entries[:50] if isinstance(entries, list) else ())
        if isinstance(entry, list) and len(entry) == 2
    } or (data if isinstance(data, Mapping) else {})
    parts = []
    for channel in ("x", "y", "top", "right", "width", "height", "left", "bottom"):
        field = text_at(glyph, "glyph", "attributes", channel, "field")
        if field in columns:
            name = channel if field == channel else f"{channel} ({field})"
            parts.append(series(name, columns[field]))
    return f"{text_at(glyph, 'glyph', 'name') or 'glyph'}: " + "; ".join(filter(None, parts))


# -- SVG


def svg(text: str) -> str:
    """A drawing: its size, its texts, and how many shapes of each kind."""
    start = text[:5_000]
    sizes = dict(reversed(_SVG_SIZE.findall(start[start.find("<svg") :][:2_000])))
    size = f"{sizes['width']} by {sizes['height']}" if {"width", "height"} <= sizes.keys() else ""
    size = size or (f"view box {sizes['viewBox']}" if "viewBox" in sizes else "")
    text = text[:1_000_000]
    found = [part for _, part in _SVG_TEXT.findall(text)] + _SVG_COMMENT.findall(text)
    texts = list(dict.fromkeys(filter(None, map(words, found))))
    shapes: dict[str, int] = {}
    for shape in _SVG_SHAPE.finditer(text):
        shapes[shape[1]] = shapes.get(shape[1], 0) + 1
    number_of_each = ", ".join(counted(number, shape) for shape, number in shapes.items())
    lines = [f"texts: {', '.join(texts[:40])}"[:600]] if texts else []
    head = "; ".join(filter(None, ["SVG, drawn in the notebook", size, number_of_each]))
    return lines_of(head, lines, len(lines), 1)


def words_of(value: Any) -> str:
    """A text or number as short text; empty for anything else."""
    return words(value) if isinstance(value, str | int | float) else ""
