"""The text of a mimebundle that a model reads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.server.errors import WorkerError
from rmi_agent.server.views import Allowance, Worker, best_text
from rmi_agent.server.views.best_text import HTML_MOST

WIDE = "   a  b  c  \\\n0  1  2  3   \n\n   d  e  f  \n0  4  5  6  "
TABLE = (
    '<style scoped>.dataframe {}</style><table border="1" class="dataframe"><thead><tr><th></th>'
    + "".join(f"<th>{name}</th>" for name in "abcdef")
    + "</tr></thead><tbody><tr><th>0</th>"
    + "".join(f"<td>{number}</td>" for number in range(1, 7))
    + "</tr></tbody></table><p>1 rows by 6 columns</p>"
)
SPANNED = (
    '<table><tr><th></th><th></th><th>x</th></tr><tr><th rowspan="2">i</th><th>j</th><td>1</td>'
    "</tr><tr><th>k</th><td>2</td></tr></table>"
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


@pytest.mark.parametrize(
    ("bundle", "text"),
    [
        ({"text/plain": "42"}, "42"),
        (
            {"text/plain": "<IPython.core.display.Markdown object>", "text/markdown": "**T:** 4"},
            "**T:** 4",
        ),
        ({"text/plain": "A(1)", "text/markdown": "**A**"}, "**A**"),
        (
            {"text/plain": "<IPython.core.display.Latex object>", "text/latex": "$x^2$"},
            "$x^2$",
        ),
        ({"text/plain": "x**2", "text/latex": "$\\displaystyle x^{2}$"}, "x**2"),
        (
            {"text/plain": "<IPython.core.display.JSON object>", "application/json": {"a": [1, "ü"]}},
            '{"a":[1,"ü"]}',
        ),
        (
            {"text/plain": "<__main__.A at 0x7f3eb0fd70d0>", "text/html": "<h1>T</h1><p>a <b>b</b> *c*_d_"},
            "# T\n\na **b** *c*_d_",
        ),
        ({"text/plain": "LinearRegression()", "text/html": "<div>big diagram</div>"}, "LinearRegression()"),
        ({"text/plain": "a b\n1 2", "text/html": TABLE}, "a b\n1 2"),
        (
            {"text/plain": WIDE, "text/html": TABLE},
            "|  | a | b | c | d | e | f |\n| --- | --- | --- | --- | --- | --- | --- |\n"
            "| 0 | 1 | 2 | 3 | 4 | 5 | 6 |\n\n1 rows by 6 columns",
        ),
        (
            {"text/html": SPANNED},
            "|  |  | x |\n| --- | --- | --- |\n| i | j | 1 |\n|  | k | 2 |",
        ),
        (
            {"text/plain": "<IPython.lib.display.Audio object>", "text/html": f'<audio controls><source src="data:audio/wav;base64,{"AAAA" * 100}" type="audio/wav" />Your browser</audio>'},
            "[audio: audio/wav, about 300 bytes; shown in the notebook]",
        ),
        ({"text/html": f'<p>hi</p><img alt="A cat" src="data:image/png;base64,{"AAAA" * 100}">'}, "hi\n\n[picture: A cat]"),
        (
            {"text/html": "<p>Hi</p><script>alert('</p>')</script>there"},
            "Hi\n\nthere\n[HTML of 44 characters that runs scripts: in the notebook]",
        ),
        ({"text/html": "<script>" * 3}, "[HTML of 24 characters that runs scripts: in the notebook]"),
        ({"text/html": "<div></div>"}, "[HTML, 11 characters: shown in the notebook]\n"),
        ({"application/javascript": "alert(1)"}, "[application/javascript, 8 characters: shown in the notebook]\n"),
        ({"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": "iVBO"}, ""),
        ({"text/plain": "<function f at 0x7f3eb0fd70d0>"}, "<function f at 0x7f3eb0fd70d0>"),
        ({}, ""),
    ],
)  # fmt: skip
def test_the_text_that_tells_most_is_chosen(
    bundle: dict[str, Any], text: str, worker: Worker
) -> None:
    assert best_text(bundle, worker) == text


@pytest.mark.slow
def test_html_is_cut_at_a_limit_and_the_rest_is_named(worker: Worker) -> None:
    text = best_text({"text/html": "<p>word</p>" * 40_000}, worker)
    assert text.startswith("word\n\nword") and len(text) < HTML_MOST
    assert text.endswith("[140,000 more characters of HTML: in the notebook]")


@pytest.mark.slow
def test_html_that_takes_too_long_is_read_without_its_layout() -> None:
    began = time.monotonic()
    with Worker(timeout=0.5) as worker:
        text = best_text({"text/html": "<p>" + " " * 200_000 + "x<b>y"}, worker)
        assert text == "x y"
        assert best_text({"text/html": "<p>after"}, worker) == "after"  # with a fresh process
    assert time.monotonic() - began < 8


def test_nesting_beyond_all_measure_is_read_without_its_layout(worker: Worker) -> None:
    assert best_text({"text/html": "<div>" * 20_000 + "deep"}, worker) == "deep"


def test_after_the_end_nothing_is_started() -> None:
    worker = Worker()
    worker.close()
    with pytest.raises(WorkerError, match="shutting down"):
        worker.ask("html", {"html": ""})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_process_has_no_environment_and_no_rights(worker: Worker) -> None:
    worker.ask("html", {"html": "x"})
    assert worker._process is not None
    folder = Path(f"/proc/{worker._process.pid}")
    names = {entry.split(b"=")[0] for entry in (folder / "environ").read_bytes().split(b"\0")}
    assert names <= {b"", b"LC_CTYPE"}
    status = dict(
        line.split(":\t", 1)
        for line in (folder / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["CapEff"].strip("0\n") == "" and status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2" or os.uname().machine not in ("x86_64", "aarch64")


@pytest.mark.slow
def test_all_outputs_of_a_run_together_have_a_time_limit(worker: Worker) -> None:
    reader = Allowance(worker, seconds=0.5)
    slow = {"text/html": "<p>" + " " * 200_000 + "x<b>y"}
    began = time.monotonic()
    assert {best_text(slow, reader) for _ in range(50)} == {"x y"}
    assert time.monotonic() - began < 20
    with pytest.raises(WorkerError, match="too many others|took more"):
        reader.ask("html", {"html": ""})
    assert best_text({"text/html": "<p>x<b>y"}, worker) == "x**y**"
