"""Adds an entry to a host's config or removes it; everything else in the config stays.

Returns a new config for each change; writes no files.
"""

from __future__ import annotations

from typing import Any

from ..settings import current_name
from .catalog import Host
from .config_file import Config, ConfigFile
from .entry import is_ours, kind
from .shape import Entry, Shape


def with_entry(file: ConfigFile, host: Host, name: str, entry: Entry) -> Config:
    """The config with our entry, which replaces an earlier one.

    Raises:
        UnusableFile: the config has something else where entries or questions should be.
    """
    entries = file.part(host.section, dict)
    new = {**entries, name: merged(host.shape, entries.get(name), name, entry)}
    config = {**file.config, host.section: new}
    if host.asks and reference(name) in entry.get("headers", {}).get("Authorization", ""):
        questions = file.part("inputs", list)
        if not any(is_question(one, name) for one in questions):
            config["inputs"] = [*questions, question(name)]
    return config


def without_entry(file: ConfigFile, host: Host, name: str) -> Config:
    """The config without an entry and without the prompt for its token.

    Raises:
        UnusableFile: the config has something else where entries or questions should be.
    """
    config = dict(file.config)
    if name in (entries := file.part(host.section, dict)):
        config[host.section] = {key: value for key, value in entries.items() if key != name}
    if host.asks and "inputs" in config:
        questions = file.part("inputs", list)
        config["inputs"] = [one for one in questions if not is_question(one, name)]
    return config


def merged(shape: Shape, old: Any, name: str, entry: Entry) -> Entry:
    """The entry as its host writes it, plus what a person has added to the one that it replaces."""
    before = shape.read(old)
    if not is_ours(name, before):
        return shape.write(name, entry) | shape.defaults
    env = before.get("env")
    if "env" in entry and isinstance(env, dict) and kind(before) == kind(entry) == "bridge":
        kept = {  # except an old token and variables that the new entry sets
            variable: value
            for variable, value in env.items()
            if variable != "AUTH" and current_name(variable) not in entry["env"]
        }
        entry = {**entry, "env": {**kept, **entry["env"]}}
    new = shape.write(name, entry)
    added = {key: value for key, value in old.items() if key in new or key not in shape.written}
    missing = {key: value for key, value in shape.defaults.items() if key not in added}
    return {**added, **new, **missing}


def reference(name: str) -> str:
    """The placeholder for an entry's token if the host prompts for it."""
    return f"${{input:{name}-token}}"


def question(name: str) -> dict[str, Any]:
    """The `inputs` item that makes the host prompt for an entry's token."""
    description = f"The token of {name}"
    return {
        "type": "promptString",
        "id": f"{name}-token",
        "password": True,
        "description": description,
    }


def is_question(one: Any, name: str) -> bool:
    """Whether an `inputs` item is the prompt for an entry's token."""
    return isinstance(one, dict) and one.get("id") == f"{name}-token"
