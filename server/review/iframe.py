"""A rich output as a document of its own that can do nothing but be displayed.

Its scripts never run and it loads nothing; a browser that failed to enforce one of the measures
is still restrained by the others. Knows the output's text, not the page around it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from .model import Cell

SCRIPT = (Path(__file__).parent / "static" / "frame.js").read_text("utf-8")
STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif }
:root.drawn { color-scheme: light; background: #fff }
body { margin: 0; padding: 2px; overflow-wrap: break-word }
table { border: 0; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border: 0; padding: .25em .6em; text-align: right }
thead { border-bottom: 1px solid #8888 }
tbody tr:nth-child(even) { background: #8882 }
img, svg { max-width: 100%; height: auto }
pre, code { font-family: ui-monospace, monospace; font-size: .95em; white-space: pre-wrap }
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


def document(cell: Cell, place: int, mime: str) -> str | None:
    """An output, or a Markdown cell itself, as a document; None if there is none of that type."""
    if cell.kind == "markdown":
        content = markdown(cell.source)
    elif 0 <= place < len(cell.outputs) and mime in cell.outputs[place].bundle:
        content = cell.outputs[place].bundle[mime]
        if mime == "text/markdown":
            content = markdown(content)
    else:
        return None
    # As data, which the script parses where nothing is loaded or run.
    data = json.dumps(content).replace("<", "\\u003c")
    drawn = ' class="drawn"' if mime == "image/svg+xml" else ""
    return (
        f'<!doctype html><html lang="en"{drawn}><head><meta charset="utf-8"><title>Output</title>'
        f'<style>{STYLE}</style></head><body><main id="rmi-place"></main>'
        f'<script type="application/json" id="rmi-content">{data}</script>'
        f"<script>{SCRIPT}</script></body></html>"
    )


def markdown(text: str) -> str:
    """Markdown as HTML, which is trusted no more than any other HTML."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return str(markdown2html_mistune(text))
