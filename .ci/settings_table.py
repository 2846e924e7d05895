#!/usr/bin/env python
"""Writes the tables of docs/settings.md from `Settings`. A test says when that is to be done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from rmi_agent.server.setting_fields import Settings
from rmi_agent.server.setting_names import marks
from rmi_agent.server.setting_types import Default
from rmi_agent.server.settings import RETIRED, variable_of

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN = "<!-- These tables are written by .ci/settings_table.py. -->"
END = "<!-- The tables end here. -->"

SECTIONS = {  # each begins with a field
    "python_projects_dir": "Folders",
    "python_timeout": "Runs and sessions",
    "kernel_name": "Kernels",
    "sandbox": "Sandbox",
    "jupyter_server_url": "Kernels elsewhere",
    "attach": "Background server",
    "host": "HTTP",
    "rmi_agent_token": "Who may call over HTTP",
    "rate_limit": "Limits of each user over HTTP",
    "ngrok_authtoken": "Tunnel",
    "session_store": "Several servers",
}


def default(field: FieldInfo) -> str:
    """The default as a cell of the table."""
    if said := marks(field, Default):
        return said.text
    value: Any = field.get_default()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{value}`" if value else ""


def tables() -> str:
    """All tables, each under its heading."""
    return "\n".join(lines())


def lines() -> Iterator[str]:
    """The lines of the tables."""
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            yield from ("", f"## {SECTIONS[name]}", "", "| setting | default | |", "|---|---|---|")
        yield f"| `{variable_of(name)}` | {default(field)} | {field.description} |"
    yield from ("", "## Retired settings", "", "| former setting | now |", "|---|---|")
    for former, now in RETIRED.items():
        yield f"| `{former}` | {now[0].upper()}{now[1:]}. |"
    yield ""


def updated(page: str) -> str:
    """The page with its tables as they should be."""
    between = re.compile(rf"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})", re.DOTALL)
    return between.sub(lambda _: tables() + "\n", page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
