"""Downloads of a session: the notebook as it is on disk, a script, or a single page.

The page is nbconvert's HTML with active content removed from the outputs, and loads nothing.
Knows files and nbconvert; nothing about who asks.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import nbformat
from nbconvert import HTMLExporter, PythonExporter
from nbformat import NotebookNode

from ..errors import UnreadableError
from .index import Entry, shown
from .notebook_file import MAX_SIZE, read_bytes

KINDS = {
    "ipynb": "application/x-ipynb+json",
    "py": "text/x-python; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
SCRIPTS = re.compile(r"<script\b[^>]*>.*?</script>", re.S)
# The page is opened from disk, where no server's headers restrict it.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
    " style-src 'unsafe-inline'; img-src data:; font-src data:\">"
)


def content(entry: Entry, kind: str) -> bytes:
    """A session as one of `KINDS`.

    Raises:
        UnreadableError: its file is not a notebook, or is too large.
    """
    raw = read_bytes(entry.path, None if kind == "ipynb" else MAX_SIZE)
    if kind == "ipynb":
        return raw
    notebook = notebook_of(raw)
    resources = {"metadata": {"name": shown(entry.path.stem)}}
    if kind == "py":
        from ...kernels import is_undone  # lazy: imported after `initialize` is answered

        notebook.cells = [cell for cell in notebook.cells if not is_undone(cell)]
        script, _ = PythonExporter().from_notebook_node(notebook, resources)
        return bytes(script.encode("utf-8", "replace"))
    return page(notebook, resources)


def notebook_of(raw: bytes) -> NotebookNode:
    """A notebook parsed for nbconvert.

    Raises:
        UnreadableError: it is not a notebook.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about slightly invalid notebooks
            notebook: NotebookNode = nbformat.reads(raw.decode("utf-8", "replace"), as_version=4)
            return notebook
    except Exception as error:  # nbformat raises whatever the broken part causes
        raise UnreadableError(f"It can't be converted: {error!s:.100}.") from None


def page(notebook: NotebookNode, resources: dict[str, Any]) -> bytes:
    """A notebook as a single HTML page, to be opened from disk."""
    nowhere = dict.fromkeys(
        ("require_js_url", "jquery_url", "mathjax_url", "mermaid_js_url", "widget_renderer_url"), ""
    )
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        sanitize_html=True, embed_images=False, exclude_anchor_links=True, **nowhere
    )
    exporter.mermaid_layout_elk_js_url = ""
    html, _ = exporter.from_notebook_node(notebook, resources)
    html = SCRIPTS.sub("", html)  # the template's own: those in outputs are text by now
    return bytes(html.replace("<head>", f"<head>{POLICY}", 1).encode("utf-8", "replace"))
