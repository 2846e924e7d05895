"""How fast a notebook of a thousand cells opens and scrolls as a review page, and the list.

Beside it, in the same browser, the page that nbconvert's HTMLExporter makes of the same notebook,
without the time that making it takes. Needs chromium and the test extra.

    python -m benchmarks.review [--cells 1000] [--notebooks 2000]
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, sync_playwright
from rmi_agent.server.review.access import NoSignIn
from rmi_agent.server.review.index import Index
from rmi_agent.server.review.middleware import ReviewAuth

SOURCE = """# Step {n}
import math

def area_{n}(radius: float) -> float:
    '''The area of a circle.'''
    return math.pi * radius ** 2

for i in range(10):
    print(f"{{i}}: {{area_{n}(i):.2f}}")"""
TABLE = "<table><tr><th></th><th>x</th></tr>" + "<tr><td>0</td><td>1.5</td></tr>" * 8 + "</table>"
TRACEBACK = [
    "\x1b[31m---\x1b[39m",
    "\x1b[31mZeroDivisionError\x1b[39m \x1b[38;5;28;01mTraceback\x1b[0m",
]
# Scrolls through a page in three seconds and tells the time between frames, and long tasks.
SCROLL = """() => new Promise((done) => {
  const gaps = [], root = document.scrollingElement, began = performance.now();
  let long = 0, before = began;
  new PerformanceObserver((list) => { for (const e of list.getEntries()) long += e.duration; })
    .observe({type: 'longtask'});
  const step = (now) => {
    gaps.push(now - before); before = now;
    root.scrollTop = root.scrollHeight / 2 + (now - began) * 4;
    if (now - began < 3000) requestAnimationFrame(step);
    else { gaps.sort((a, b) => a - b);
      done({median: gaps[gaps.length >> 1], p95: gaps[Math.floor(gaps.length * .95)], long}); }
  };
  requestAnimationFrame(step);
})"""


def notebook(cells: int, picture: str) -> dict[str, Any]:
    """Code and text in each cell, and every tenth a picture, a table or a failure."""
    made = []
    for n in range(cells):
        outputs: list[dict[str, Any]] = [
            {
                "output_type": "stream",
                "name": "stdout",
                "text": "".join(f"{i}: {i * n}\n" for i in range(10)),
            }
        ]
        if n % 10 == 3:
            data = {"image/png": picture, "text/plain": "<Figure>"}
            outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
        if n % 10 == 6:
            data = {"text/html": TABLE, "text/plain": "x"}
            outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
        if n % 10 == 9:
            outputs.append(
                {"output_type": "error", "ename": "Z", "evalue": "", "traceback": TRACEBACK}
            )
        made.append(
            {
                "cell_type": "code",
                "id": f"c{n}",
                "source": SOURCE.format(n=n),
                "execution_count": n + 1,
                "metadata": {"rmi_agent": {"cell": n + 1, "status": "ok", "elapsed": 0.1}},
                "outputs": outputs,
            }
        )
    return {"metadata": {}, "nbformat": 4, "nbformat_minor": 5, "cells": made}


def opened(browser: Browser, url: str, cells: int, selector: str) -> dict[str, float]:
    """Milliseconds until a page is painted, read and loaded, and how it scrolls."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.perf_counter()
    page.goto(url, wait_until="load")
    loaded = (time.perf_counter() - began) * 1000
    assert page.locator(selector).count() == cells
    times = page.evaluate(
        "() => { const [n] = performance.getEntriesByType('navigation');"
        " const [p] = performance.getEntriesByName('first-contentful-paint');"
        " return {paint: p ? p.startTime : 0, read: n.domContentLoadedEventEnd} }"
    )
    scrolled = page.evaluate(SCROLL)
    page.close()
    return {**times, "loaded": loaded, **scrolled}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--notebooks", type=int, default=2000)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rmi-review"))
    try:
        measure(folder, asked.cells, asked.notebooks)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, cells: int, notebooks: int) -> None:
    """All of it, in a folder of its own."""
    sample = Path(__file__).parent.parent / "notebooks" / "sample-plot-then-look.ipynb"
    outputs = [o for c in json.loads(sample.read_text("utf-8"))["cells"] for o in c["outputs"]]
    picture = next(o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    picture = "".join(picture)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    (folder / "one").mkdir()
    long = folder / "one" / "long.ipynb"
    long.write_text(json.dumps(notebook(cells, picture)))
    began = time.perf_counter()
    html, _ = HTMLExporter().from_filename(str(long))
    print(f"nbconvert makes its page in {time.perf_counter() - began:.1f} s")
    (folder / "nbconvert.html").write_text(html)
    server = uvicorn.Server(
        uvicorn.Config(
            ReviewAuth(Index(folder / "one"), NoSignIn()),
            port=0,
            log_level="error",
            lifespan="off",
            ws="none",
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/sessions/long"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--disable-gpu"])
        browser.new_page().goto(url.removesuffix("sessions/long"))  # the list, as a person would
        rows = {
            "review page, its first time": opened(browser, url, cells, "article.cell"),
            "review page, again": opened(browser, url, cells, "article.cell"),
            "nbconvert's page, from the disk": opened(
                browser, (folder / "nbconvert.html").as_uri(), cells, ".jp-CodeCell"
            ),
        }
        browser.close()
    server.should_exit = True
    thread.join()
    print(f"{cells} cells; milliseconds        painted    read  loaded   frame  95 %  long tasks")
    for name, row in rows.items():
        figures = [row[key] for key in ("paint", "read", "loaded", "median", "p95", "long")]
        print(f"{name:32}", "".join(f"{figure:8.0f}" for figure in figures))
    last = list(rows.values())
    print(
        f"loaded, ratio to nbconvert's: {last[0]['loaded'] / last[2]['loaded']:.2f} first,"
        f" {last[1]['loaded'] / last[2]['loaded']:.2f} again"
    )
    many = folder / "many"
    many.mkdir()
    for n in range(notebooks):
        shutil.copy(
            sample, many / f"20261122-{n // 3600 % 24:02}{n // 60 % 60:02}{n % 60:02}-s{n}.ipynb"
        )
    index = Index(many)
    for name in ("first", "again"):
        began = time.perf_counter()
        entries = index.entries()
        print(
            f"list of {len(entries)} notebooks, {name}:"
            f" {(time.perf_counter() - began) * 1000:.0f} ms"
        )
    began = time.perf_counter()
    found = sum(entry.contains(["damped", "zerodivision"]) for entry in entries)
    print(f"search, {found} found: {(time.perf_counter() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
