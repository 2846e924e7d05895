"""Outputs as HTML: whatever they are, what is shown is text of ours, short enough, and readable."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rmi_agent.server.review import iframe
from rmi_agent.server.review.iframe import content, document, rendered
from rmi_agent.server.review.model import Cell
from rmi_agent.server.review.notebook_file import parse_cell, parse_notebook
from rmi_agent.server.review.render import cell_html, duration, highlighted, terminal
from rmi_agent.server.views import Worker

from tests.server.review.conftest import code, data, png, stream


def html(*outputs: dict[str, Any], source: str = "x", **record: Any) -> str:
    return cell_html(made(*outputs, source=source, **record), "/sessions/s", "python", 100_000)


def made(*outputs: dict[str, Any], source: str = "x", **record: Any) -> Cell:
    return parse_cell(1, json.loads(json.dumps(code(source, *outputs, **record))), live=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("\x1b[31mred\x1b[0m", '<span class="ansi-red-fg">red</span>'),
        ("\x1b[38;5;196mred\x1b[0m", '<span class="ansi-red-fg">red</span>'),
        ("\x1b[38;2;255;80;80mred\x1b[0m", '<span class="ansi-red-intense-fg">red</span>'),
        ("\x1b[48;2;0;170;0mx\x1b[0m", '<span class="ansi-green-bg">x</span>'),
        ("\x1b[1m<i>\x1b[0m", '<span class="ansi-bold">&lt;i&gt;</span>'),
        ("\x1b]0;title\x07a\x1b]8;;http://evil\x1b\\b\x1b]8;;\x1b\\", "ab"),
        ("\x1b[2Ja\x1b[10;10Hb\x1b(Bc\x1b7d", "abcd"),
        ("\x1b]never ends", ""),
        ("a\x00b\x08c\x9b31m", "a\ufffdb\ufffdc\ufffd31m"),
        ("evil\u202etxt.exe", "evil\ufffdtxt.exe"),
        ("\x1b[38;5;999999999999mx\x1b[0m", "x"),
        ("\x1b[" + "9" * 5000 + "mx", "x"),
    ],
)
def test_a_terminals_colours_become_classes_and_its_orders_nothing(text: str, shown: str) -> None:
    assert str(terminal(text, 10_000)).replace("<span>", "").strip() == shown
    assert "style=" not in terminal(text, 10_000)


def test_long_texts_are_cut_in_the_middle_and_say_where_the_rest_is() -> None:
    text = str(terminal("a" * 20_000_000 + "end", 1_000))
    assert len(text) < 1_200 and text.startswith("aaa") and text.endswith("end")
    assert "19,999,003 characters are left out here; the download has them" in text


def test_floods_of_colours_cost_no_flood_of_time() -> None:
    began = time.process_time()
    terminal("\x1b[31mx\x1b[0m" * 1_000_000, 100_000)
    terminal("\x1b[" * 100_000, 100_000)
    terminal("\x1b]" * 100_000, 100_000)
    highlighted("(" * 1_000_000, "python")
    assert time.process_time() - began < 5


@pytest.mark.slow
def test_ten_thousand_outputs_in_one_cell_are_a_hundred_and_a_number() -> None:
    shown = html(*(data("text/plain", str(n)) for n in range(10_000)))
    assert shown.count('<div class="output ') == 100
    assert "9,900 more outputs are not shown here; the download has them." in shown


@pytest.mark.parametrize(
    ("mime", "content"),
    [
        ("image/png", "not base64!"),
        ("image/png", base64.b64encode(b"<html><script>alert(1)</script>").decode()),
        ("image/jpeg", png()),
        ("image/webp", base64.b64encode(b"RIFF0000WAVE").decode()),
        ("image/png", png(60_000, 60_000)),
        ("image/png", ""),
        ("image/png", {"a": [1]}),
        ("image/tiff", "AAAA"),
    ],
    ids=["no base64", "html", "png as jpeg", "sound", "bomb", "empty", "json", "other"],
)
def test_what_is_no_picture_is_not_shown_as_one(mime: str, content: Any) -> None:
    shown = html(data(mime, content))
    assert "<img" not in shown and "can't be shown here" in shown
    assert made(data(mime, content)).outputs[0].pictured is None


@pytest.mark.parametrize(
    "mime",
    [
        "application/vnd.plotly.v1+json",
        "application/vnd.vegalite.v5+json",
        "application/vnd.jupyter.widget-view+json",
        "application/javascript",
        "video/mp4",
    ],
)
def test_what_needs_scripts_says_so_and_shows_the_rest(mime: str) -> None:
    shown = html(data(mime, {"data": []}, **{"text/plain": "Chart(7)"}))
    assert f"An interactive output ({mime}) can't be shown here" in shown
    assert "download the notebook and open it in Jupyter" in shown and "Chart(7)" in shown
    picture = html(data(mime, {}, **{"image/png": png()}))
    assert "<img" in picture and "interactive" not in picture


@pytest.mark.parametrize(
    ("mime", "way"),
    [
        ("text/html", "<iframe"),
        ("image/svg+xml", "<iframe"),
        ("text/markdown", "<iframe"),
        ("text/latex", "<iframe"),
        ("text/plain", "<pre>"),
        ("application/json", "<pre>"),
        ("<script>alert(1)</script>", "can't be shown here"),
        ("text/html; charset=x", "can't be shown here"),
    ],
)
def test_every_kind_of_output_has_its_way(mime: str, way: str) -> None:
    shown = html(data(mime, "<script>alert(1)</script>"))
    assert way in shown
    assert "<script" not in shown


def test_a_rich_output_with_scripts_gives_way_to_its_picture() -> None:
    both = {"image/png": png()}
    assert "<img" in html(data("text/html", "<script>draw()</script>", **both))
    assert "<iframe" in html(data("text/html", "<table></table>", **both))


def test_a_frame_has_its_output_as_data_alone() -> None:
    evil = "</script><script>alert(1)</script><!--<script>\u2028"
    cell = made(data("text/html", evil))
    text = content(cell, 0, "text/html")
    assert text is not None
    shown = document(text, "text/html")
    assert shown.count("<script") == 2 and shown.count("</script>") == 2
    assert "alert(1)\\u003c/script>" in shown and "<!--" not in shown
    assert content(cell, 1, "text/html") is None
    assert content(made(stream("x")), 0, "text/html") is None


def test_lone_surrogates_can_be_sent() -> None:
    shown = html(stream("\ud800x"), data("text/html", "\udfff"), source="\udc80", notes=["\ud900"])
    shown.encode()
    assert document(content(made(data("text/html", "\udfff")), 0, "text/html") or "", "").encode()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0.0, "0.00 s"),
        (0.256, "0.26 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (7_290, "2 h 1 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_code_of_other_languages_and_magics_is_highlighted_or_plain() -> None:
    assert "<span" in highlighted("%time f()\n!ls", "python")
    assert "<span" in highlighted("x <- 3", "r")
    assert "&lt;" in highlighted("<", "no-such-language")
    assert highlighted("<" * 300_000, "python") == "&lt;" * 300_000


def test_cells_that_others_ran_have_a_status_and_a_time_all_the_same() -> None:
    timing = {
        "iopub.execute_input": "2026-11-22T16:00:00Z",
        "shell.execute_reply": "2026-11-22T16:00:02.5Z",
    }
    failed = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []}
    cells = [
        {"cell_type": "code", "execution_count": 1, "metadata": {"execution": timing}},
        {"cell_type": "code", "outputs": [failed]},
        {"cell_type": "code"},
        {"cell_type": "code", "metadata": {"execution": {"iopub.execute_input": "x"}}},
    ]
    past = parse_notebook({"cells": cells}, live=False).cells
    assert [cell.status for cell in past] == ["ok", "error", "", "interrupted"]
    assert past[0].seconds == 2.5 and past[1].outputs[0].text == "E: v"
    assert parse_notebook({"cells": cells}, live=True).cells[3].status == "running"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# A *title*", "<h1>A <em>title</em></h1>"),
        ("$x^2$ and *b*", '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">'),
        ("$$\n\\frac{a}{b}\n\n$$", 'display="block"><mrow><mfrac>'),
        ("so $$a_1$$ in a line", 'display="block"'),
        ("\\begin{equation}\nx = 1\n\\end{equation}", "<math"),
        ("\\\\(x\\\\)", 'display="inline"'),
        ("* in a list: $x$", "<li>in a list: <math"),
        ("| a |\n|---|\n| $x$ |", "<td><math"),
        ("it costs $5 and $6", "it costs $5 and $6"),
        ("`$x$`", "<code>$x$</code>"),
        ("\\$x\\$", "$x$"),
        ("a **b** `c`\n\n```\nd\n```", "<strong>b</strong> <code>c</code>"),
        ("<b>as it is</b>", "<b>as it is</b>"),
        ("$\\begin{tabular}{c}x$", "x"),
        ("$<img src=x onerror=alert(1)>$", "&#x0003C;"),
        ("$" + "x" * 6_000 + "$", "<code>xxx"),
        ("\udfff", "?"),
    ],
)
def test_markdown_has_formulas_and_no_pilcrows(worker: Worker, text: str, shown: str) -> None:
    html, final = rendered(worker, text)
    assert final
    assert (
        shown in html.replace("\n", "") and "\u00b6" not in html and "onerror=alert(1)>" not in html
    )


@pytest.mark.slow
def test_markdown_that_takes_too_long_is_shown_as_it_was_written(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iframe, "RENDER_SECONDS", 1.0)
    for evil in ("$\\sqrt{" * 50_000, "[" * 200_000, "$a" * 200_000, "{" * 5_000, "> " * 50_000):
        began = time.monotonic()
        assert rendered(worker, f"{evil}")[0] and time.monotonic() - began < 3
    html, final = rendered(worker, "<i>" + "*a_" * 300_000)
    assert html.startswith("<pre>&lt;i&gt;") is not final and ("<i>" in html) is final
