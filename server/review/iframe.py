"""A rich output as a document of its own that can do nothing but be displayed.

Its scripts never run and it loads nothing; a browser that failed to enforce one of the measures
is still restrained by the others. Knows the output's text, not the page around it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path

from ..errors import WorkerError
from ..views import Worker
from .model import Cell

SCRIPT = (Path(__file__).parent / "static" / "frame.js").read_text("utf-8")
RENDER_SECONDS = 5.0  # max seconds for rendering Markdown
STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif }
:root.drawn { color-scheme: light; background: #fff }
body { margin: 0; padding: 2px; overflow-wrap: break-word }
main { display: flow-root; overflow-x: auto }
table { border: 0; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border: 0; padding: .25em .6em; text-align: right }
thead { border-bottom: 1px solid #8888 }
tbody tr:nth-child(even) { background: #8882 }
img, svg { max-width: 100%; height: auto }
pre, code { font-family: ui-monospace, monospace; font-size: .95em; white-space: pre-wrap }
.prose main > :first-child { margin-top: .2em }
.prose main > :last-child { margin-bottom: .2em }
.prose { line-height: 1.55 }
.prose h1 { font-size: 1.5em } .prose h2 { font-size: 1.25em } .prose h3 { font-size: 1.1em }
.prose h1, .prose h2, .prose h3, .prose h4 { line-height: 1.3; margin: 1.1em 0 .5em }
.prose th, .prose td { text-align: left }
.prose pre { background: #8881; border-radius: 6px; padding: .6em .8em }
.prose :not(pre) > code { background: #8882; border-radius: 4px; padding: .1em .3em }
.prose blockquote { border-left: 3px solid #8886; margin: 1em 0; padding-left: 1em }
.prose hr { border: 0; border-top: 1px solid #8886 }
math { font-size: 1.1em }
math[display="block"] { margin: .8em 0; overflow-x: auto; overflow-y: hidden }
.rmi-note { color: GrayText; font-size: .9em; margin: .4em 0 0 }
"""
OURS = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# `sandbox` again, for a viewer who opens the URL by itself.
POLICY = "; ".join(
    (
        "sandbox allow-scripts",
        "default-src 'none'",
        f"script-src 'sha256-{OURS}'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "font-src data:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",
}


PROSE = ("text/markdown", "text/latex")  # types that are rendered first, see `render`


def content(cell: Cell, place: int, mime: str) -> str | None:
    """An output, or a Markdown cell itself, as text of a type; None if there is none."""
    if cell.kind == "markdown":
        return cell.source
    if 0 <= place < len(cell.outputs):
        return cell.outputs[place].bundle.get(mime)
    return None


def rendered(worker: Worker, text: str) -> tuple[str, bool]:
    """Markdown or LaTeX as HTML, which is trusted no more than any other, and whether that worked.

    Blocks for seconds.
    """
    try:
        return worker.ask("markdown", {"text": text}, seconds=RENDER_SECONDS).decode(), True
    except WorkerError as error:
        why = escape(f"This is shown as it was written: {error}.")
        return f'<pre>{escape(text)}</pre><p class="rmi-note">{why}</p>', False


def document(content: str, mime: str) -> str:
    """HTML or SVG of some type as a document of its own."""
    # As data, which the script parses where nothing is loaded or run.
    data = json.dumps(content).replace("<", "\\u003c")
    looks = "drawn" if mime == "image/svg+xml" else "prose" if mime in PROSE else "table"
    return (
        f'<!doctype html><html lang="en" class="{looks}"><head><meta charset="utf-8">'
        f"<title>Output</title>"
        f'<style>{STYLE}</style></head><body><main id="rmi-place"></main>'
        f'<script type="application/json" id="rmi-content">{data}</script>'
        f"<script>{SCRIPT}</script></body></html>"
    )
