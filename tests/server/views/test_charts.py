"""Charts in words; the bundles are as Plotly 7, Altair 6, Bokeh 3 and matplotlib send them."""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rmi_agent.server.views import Worker, best_text
from rmi_agent.server.views.charts import chart_of, summary, svg
from rmi_agent.server.views.series import series, values_of

WORKER = Worker()  # starts nothing before it is asked
PLOTLY = "application/vnd.plotly.v1+json"
FIGURE: dict[str, Any] = {
    "data": [
        {"name": "a", "type": "scatter", "x": [1, 2, 3], "y": [3.0, None, 2]},
        {"name": "b", "type": "bar", "x": ["p", "q"], "y": [4, 5]},
        {"type": "heatmap", "z": [[1, 2], [3, 4]]},
        {"type": "pie", "labels": ["u", "v"], "values": [1, 2]},
    ],
    "layout": {"title": {"text": "T"}, "xaxis": {"title": {"text": "X"}}, "template": {"data": {}}},
}
ALTAIR = """
<style>#altair-viz-1 {width: 100%}</style><div id="altair-viz-1"></div>
<script type="text/javascript">
  (function(spec, embedOpt){ vegaEmbed(outputDiv, spec, embedOpt).catch(err => show(err)); })({"data":
  {"name": "data-1"}, "mark": {"type": "bar"}, "title": "AT", "encoding": {"x": {"field": "a", "type":
  "nominal"}, "y": {"field": "b", "type": "quantitative", "aggregate": "mean", "title": "B"}},
  "$schema": "https://vega.github.io/schema/vega-lite/v6.4.1.json",
  "datasets": {"data-1": [{"a": "x", "b": 1}, {"a": "y", "b": 2.5}]}}, {"mode": "vega-lite"});
</script>"""
LAYERED = {
    "title": {"text": "Two"},
    "data": {"url": "https://example.org/cars.json"},
    "layer": [{"mark": "line", "encoding": {"x": {"field": "t"}}}, {"mark": {"type": "point"}}],
}
VEGA = {"marks": [{"type": "rect"}], "data": [{"name": "t", "values": [1, 2, 4]}]}
BOKEH = """(function(root) { function embed_document(root) {
  const docs_json = {"44c2":{"version":"3.9.2","title":"Bokeh Application","roots":[{"type":"object",
  "name":"Figure","id":"p1008","attributes":{"title":{"type":"object","name":"Title","id":"p1011",
  "attributes":{"text":"B"}},"renderers":[{"type":"object","name":"GlyphRenderer","id":"p1049",
  "attributes":{"data_source":{"type":"object","name":"ColumnDataSource","id":"p1043","attributes":
  {"data":{"type":"map","entries":[["x",{"type":"ndarray","array":{"type":"bytes","data":"%s"},
  "shape":[2],"dtype":"int32","order":"little"}],["y",[4,5,6]]]}}},"glyph":{"type":"object",
  "name":"Line","attributes":{"x":{"type":"field","field":"x"},"y":{"type":"field","field":"y"}}}}}],
  "below":[{"type":"object","name":"LinearAxis","attributes":{"axis_label":"X"}}]}}]}};
  const render_items = [{"docid":"44c2"}]; } })(window);"""
SVG = """<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="461pt" height="346pt">
<g><!-- 0.5 --><path d="M0 0"/></g><text x="1">hello</text><path d="M1 1"/><circle r="1"/></svg>"""


def packed(code: str, *numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}{code}", *numbers)).decode()


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        (
            {PLOTLY: FIGURE, "text/plain": "Figure({…})"},
            "[Plotly chart, drawn in the notebook: “T”; x: X; 4 traces]\n"
            "  scatter “a”: x: 3 values from 1 to 3, first 1, last 3;"
            " y: 3 values from 2 to 3, first 3, last 2, 1 missing\n"
            "  bar “b”: x: 2 values, 2 different, first p, last q;"
            " y: 2 values from 4 to 5, first 4, last 5\n"
            "  heatmap: z: 2 rows; values: 4 values from 1 to 4, first 1, last 4\n"
            "  pie: labels: 2 values, 2 different, first u, last v;"
            " values: 2 values from 1 to 2, first 1, last 2\n",
        ),
        (
            {PLOTLY: {"data": [{"y": {"dtype": "f8", "bdata": packed("d", 1.5, -2, 8)}}]}},
            "[Plotly chart, drawn in the notebook; 1 trace]\n"
            "  scatter: y: 3 values from -2 to 8, first 1.5, last 8\n",
        ),
        (
            {"text/html": '<div id="d"></div><script>Plotly.newPlot("d", [{"y": [1, 2]}], {})</script>'},
            "[Plotly chart, drawn in the notebook; 1 trace]\n"
            "  scatter: y: 2 values from 1 to 2, first 1, last 2\n",
        ),
        (
            {"text/html": ALTAIR, "text/plain": "alt.Chart(...)"},
            "[Vega-Lite chart, drawn in the notebook: “AT”; bar]\n  x: a (nominal)\n"
            "  y: mean(b) (quantitative) “B”\n  data: 2 rows\n"
            "    a: 2 values, 2 different, first x, last y\n"
            "    b: 2 values from 1 to 2.5, first 1, last 2.5\n",
        ),
        (
            {"application/vnd.vegalite.v5+json": LAYERED},
            "[Vega-Lite chart, drawn in the notebook: “Two”; line, point]\n  x: t\n"
            "  data from https://example.org/cars.json\n",
        ),
        (
            {"application/vnd.vega.v5+json": VEGA},
            "[Vega chart, drawn in the notebook; rect]\n  data t: 3 rows\n"
            "    values: 3 values from 1 to 4, first 1, last 4\n",
        ),
        (
            {"application/javascript": BOKEH % packed("i", 7, 9), "application/vnd.bokehjs_exec.v0+json": ""},
            "[Bokeh chart, drawn in the notebook: “B”; axes: X; 1 glyph]\n"
            "  Line: x: 2 values from 7 to 9, first 7, last 9; y: 3 values from 4 to 6, first 4, last 6\n",
        ),
        ({"text/html": '\n<div id="1" data-root-id="p1" style="display: contents;"></div>\n'}, ""),
        ({"application/javascript": "x()", "application/vnd.bokehjs_load.v0+json": "x()"}, ""),
        (
            {"image/svg+xml": SVG, "text/plain": "<Figure size 640x480 with 1 Axes>"},
            "[SVG, drawn in the notebook; 461pt by 346pt; 2 paths, 1 circle]\n  texts: hello, 0.5\n",
        ),
    ],
)  # fmt: skip
def test_a_chart_is_told_in_words(bundle: dict[str, Any], words: str) -> None:
    assert best_text(bundle, WORKER) == words


def test_many_traces_are_a_short_text() -> None:
    trace = {"name": "n" * 1_000, "x": list(range(10_000)), "y": ["word " * 1_000] * 10_000}
    text = summary("plotly", {"data": [trace] * 500, "layout": {"title": "t" * 10_000}})
    assert len(text) < 3_000 and text.endswith("  … and 492 more")


@pytest.mark.parametrize(
    "script",
    [
        'vega })({"a":"' * 100_000,
        "vega })(" + '{"a":' * 100_000,
        "docs_json = {" * 100_000,
        'Plotly.newPlot("' * 100_000,
        "vegaEmbed(" * 100_000,
        '<svg width="' * 100_000,
        "<text " * 100_000,
        "<!-- " * 100_000,
    ],
)
def test_a_hostile_script_takes_no_time(script: str) -> None:
    began = time.monotonic()
    assert chart_of({"text/html": script}) is None
    svg(script)
    assert time.monotonic() - began < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["x", "f8", "field", 10**400]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["data", "layout", "title", "text", "type", "x", "y", "z", "name", "mark", "encoding", "field", "values", "datasets", "layer", "marks", "spec", "attributes", "axis_label", "glyph", "data_source", "id", "entries", "bdata", "dtype", "array"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=30,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from(["plotly", "vega", "vegalite", "bokeh"]), JSON)
def test_no_data_is_too_strange(kind: str, chart: Any) -> None:
    assert len(summary(kind, chart)) < 10_000


@pytest.mark.parametrize(
    "data",
    [
        {"bdata": "AAAA", "dtype": "f8"},
        {"bdata": "é", "dtype": "f8"},
        {"bdata": 1},
        {"dtype": []},
        7,
    ],
)
def test_a_broken_array_has_no_values(data: Any) -> None:
    assert not values_of(data) and series("x", data) == ""


def test_the_summaries_work_is_bounded_for_a_large_table() -> None:
    rows = [{f"f{n}": n for n in range(100)}] * 20_000
    text = summary("vegalite", {"mark": "bar", "data": {"values": rows}})
    assert "data: 20,000 rows" in text and len(text.split("\n")) < 20
    assert json.dumps(text)
