"""An entry in a host's config, put in and taken out; what others have there stays.

Returns a new config for each change and writes nothing.
"""

from __future__ import annotations

from typing import Any

from ..settings import current_name
from .catalog import Host
from .config_file import Config, ConfigFile
from .entry import Entry, is_ours, kind

WRITTEN = ("type", "command", "args", "env", "url", "headers")  # what an entry of ours may have


def with_entry(file: ConfigFile, host: Host, name: str, entry: Entry) -> Config:
    """The config with an entry of ours, in place of an earlier one.

    Raises:
        UnusableFile: the config has something else where entries or questions should be.
    """
    entries = file.part(host.section, dict)
    new = {**entries, name: merged(entries.get(name), name, entry)}
    config = {**file.config, host.section: new}
    if host.asks and reference(name) in entry.get("headers", {}).get("Authorization", ""):
        questions = file.part("inputs", list)
        if not any(is_question(one, name) for one in questions):
            config["inputs"] = [*questions, question(name)]
    return config


def without_entry(file: ConfigFile, host: Host, name: str) -> Config:
    """The config without an entry, and without the question for its token.

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


def merged(old: Any, name: str, entry: Entry) -> Entry:
    """An entry, with what a person has added to the one of ours that it replaces."""
    if not is_ours(name, old):
        return entry
    added = {key: value for key, value in old.items() if key in entry or key not in WRITTEN}
    new = {**added, **entry}
    env = old.get("env")
    if "env" in entry and isinstance(env, dict) and kind(old) == kind(entry) == "bridge":
        kept = {  # but an earlier token, and what is set now by its present name
            variable: value
            for variable, value in env.items()
            if variable != "AUTH" and current_name(variable) not in entry["env"]
        }
        new["env"] = {**kept, **entry["env"]}
    return new


def reference(name: str) -> str:
    """What stands for an entry's token where the host asks for it."""
    return f"${{input:{name}-token}}"


def question(name: str) -> dict[str, Any]:
    """What makes the host ask for an entry's token."""
    description = f"The token of {name}"
    return {
        "type": "promptString",
        "id": f"{name}-token",
        "password": True,
        "description": description,
    }


def is_question(one: Any, name: str) -> bool:
    """Whether a question is the one for an entry's token."""
    return isinstance(one, dict) and one.get("id") == f"{name}-token"
