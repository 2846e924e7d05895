"""The list of sessions: searches them, and selects one page of the result.

Knows the search form's fields; nothing about requests or HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ..plurals import counted
from .access import Viewer
from .index import Index

PAGE_SIZE = 50  # sessions
STATUSES = (
    ("ok", "ok"),
    ("error", "error"),
    ("timeout", "timed out"),
    ("interrupted", "interrupted"),
    ("dead", "kernel died"),
    ("running", "running"),
    ("unreadable", "unreadable"),
)


def whole_number(text: str, otherwise: int) -> int:
    """The number in a query parameter; `otherwise` if it is none, or absurdly large."""
    return int(text) if text.isdecimal() and len(text) < 9 else otherwise


def listing(index: Index, viewer: Viewer, query: Mapping[str, str]) -> dict[str, Any]:
    """What the list's template shows to a viewer; reads files, so call it in a thread."""
    search = {name: query.get(name, "")[:200] for name in ("q", "status", "when")}
    words = search["q"].lower().split()
    entries = [
        entry
        for entry in index.entries()
        if viewer.sees(entry.principal)
        and (not search["status"] or search["status"] in (entry.status, *entry.counts))
        and (not search["when"] or entry.live == (search["when"] == "live"))
        and (not words or entry.contains(words))
    ]
    filtered = any(search.values())
    if not entries and not filtered:
        summary = "Nothing has run yet: sessions appear here as soon as something runs."
    elif not entries:
        summary = "No session matches. Try a broader search."
    else:
        number = counted(len(entries), "session")
        summary = f"{number} {'found' if filtered else 'in all'}, newest first"
    last = max(1, math.ceil(len(entries) / PAGE_SIZE))
    page = min(whole_number(query.get("page", ""), 1), last) or 1
    first = (page - 1) * PAGE_SIZE
    return {
        "search": search,
        "statuses": STATUSES,
        "entries": entries[first : first + PAGE_SIZE],
        "summary": summary,
        "first": first + 1,
        "page": page,
        "pages": last,
        "show_principals": viewer.all,
        "link": lambda n: "/?" + urlencode({k: v for k, v in search.items() if v} | {"page": n}),
    }
