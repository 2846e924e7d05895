"""Charts drawn as pictures, and what they may not load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.server.errors import WorkerError
from rmi_agent.server.views import Worker, dimensions, drawn, is_drawable

pytest.importorskip("vl_convert")
XMLNS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
BARS: dict[str, Any] = {
    "data": {"values": [{"a": "x", "b": 1, "url": "file:///etc"}]},
    "mark": "bar",
    "encoding": {"x": {"field": "a"}, "y": {"field": "b", "type": "quantitative"}},
}
VEGALITE = "application/vnd.vegalite.v6+json"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(timeout=60) as worker:
        yield worker


def svg(body: str, size: str = 'width="300px" height="100px"') -> dict[str, Any]:
    return {"image/svg+xml": f"<svg {XMLNS} {size}>{body}</svg>"}


def test_svg_is_drawn_at_a_readable_size(worker: Worker) -> None:
    bundle = svg(
        '<defs><g id="a"/></defs><use href="#a"/><rect width="9" height="9" fill="url(#b)"/>'
    )
    assert is_drawable(bundle) and dimensions(drawn(bundle, worker).data) == (600, 200)
    assert dimensions(drawn(svg("", 'width="90000" height="9000"'), worker).data) == (1000, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VEGALITE, "text/html"])
def test_a_vega_lite_chart_is_drawn(kind: str, worker: Worker) -> None:
    import json

    spec = json.dumps(BARS)
    chart = (
        BARS
        if kind == VEGALITE
        else f"<script>(function(spec, vegaEmbed) {{}})({spec}, {{}});</script>"
    )
    assert is_drawable({kind: chart})
    assert min(dimensions(drawn({kind: chart}, worker).data)) > 50


@pytest.mark.slow
def test_a_vega_chart_is_drawn(worker: Worker) -> None:
    chart = {"width": 70, "height": 50, "marks": [{"type": "rect"}]}
    picture = drawn({"application/vnd.vega.v5+json": chart}, worker)
    assert min(dimensions(picture.data)) > 90


@pytest.mark.parametrize(
    "body",
    [
        '<image href="/etc/x.png"/>',
        "<image xlink:href = 'file:///etc/x.png'/>",
        '<image href="http://127.0.0.1/x.png"/>',
        '<image href="&#x2f;etc/x.png"/>',
        "<image href=x.png />",
        '<image href="data:image/svg+xml;base64,AAAA"/>',
        '<rect style="fill: url(file:///x.svg#a)"/>',
        "<style>@import 'x.css';</style>",
    ],
)
def test_svg_that_refers_to_files_is_not_drawn(body: str, worker: Worker) -> None:
    with pytest.raises(WorkerError, match="refers to other files"):
        drawn(svg(body), worker)


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x.json", "cars.json", {"signal": "'file:' + 'x'"}]
)
def test_a_chart_that_loads_data_is_not_drawn(url: Any, layer: bool, worker: Worker) -> None:
    chart = {"data": {"url": url}, "mark": "bar"}
    with pytest.raises(WorkerError, match="from elsewhere"):
        drawn({VEGALITE: {"layer": [chart]} if layer else chart}, worker)


def test_a_chart_reads_no_file(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"a": 1}]')
    chart = {"data": {"url": (tmp_path / "data.json").as_uri()}, "mark": "bar"}
    with pytest.raises(WorkerError):
        drawn({VEGALITE: chart}, worker)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bundle",
    [svg("<g>" * 100_000), {"image/svg+xml": "no svg"}, {VEGALITE: {"mark": 7}}, svg("", 'width="1e9px" height="9e9"')],
    ids=["deep", "none", "mark", "huge"],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_and_the_next_is_drawn(
    bundle: dict[str, Any], worker: Worker
) -> None:
    with pytest.raises(WorkerError):
        drawn(bundle, worker)
    assert drawn(svg(""), worker).data
