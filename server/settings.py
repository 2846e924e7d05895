"""Reads the settings once, from the environment or a `.env` file.

Nothing else in the server reads the environment. What is derived from settings is in `launch.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import BadSettings
from .plurals import counted
from .setting_fields import Settings
from .setting_names import (
    Variable,
    checkout,
    dotenv,
    environment,
    home,
    misspelled,
    read,
    upper,
    variables,
)
from .setting_place import current_folder, is_ignored

__all__ = [
    "Settings",
    "claude_code_folder",
    "codex_folder",
    "current_name",
    "dotenv_files",
    "load",
    "misspelled_in",
    "set_here",
    "shown_variables",
    "variable_of",
]

# Retired settings, each with the rule that replaced it.
RETIRED = {
    "KERNEL_WAIT": "a call waits up to 30 s for a free kernel",
    "COPY_URL": "servers that share sessions do not call each other",
    "RUNS_PER_USER": "over HTTP, each user may have at most 32 runs running or queued",
}


VARIABLES: dict[str, Variable] = variables(Settings.model_fields)


def variable_of(field: str) -> str:
    """The environment variable of a setting."""
    return VARIABLES[field].name


def current_name(variable: str) -> str:
    """The current name of a variable that may be a setting's former name."""
    name = variable.upper()
    return next((one.name for one in VARIABLES.values() if name in one.names), variable)


def dotenv_files() -> list[Path]:
    """The `.env` files that settings are read from, highest priority first; they may not exist."""
    files = [folder / ".env" for folder in (current_folder(), home())]
    return [file for file in files if not is_ignored(file)]


def sources() -> list[dict[str, str]]:
    """Where settings are read from, highest priority first."""
    return [environment(), *map(dotenv, dotenv_files())]


UNSET = {"python_projects_dir", "notebooks_dir"}  # if empty, which would be the current folder


def load(**overrides: Any) -> Settings:
    """Read the settings; `overrides` come from the command line and take precedence.

    Raises:
        BadSettings: a value can't be used.
    """
    try:
        given = read(VARIABLES.values(), sources(), RETIRED)
    except (OSError, UnicodeError) as error:
        raise BadSettings(f".env can't be read: {error}") from None
    try:
        values = {name: value for name, value in given.values.items() if value or name not in UNSET}
        settings = Settings(**values | overrides)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadSettings(explained(first, given.names | dict.fromkeys(overrides, ""))) from None
    check_tokens(settings)
    settings._notices = tuple(one for one in given.notices if one.field not in overrides)
    return settings


def check_tokens(settings: Settings) -> None:
    """Check that there is a token for each Jupyter Server.

    Raises:
        BadSettings: tokens are missing or invalid; the text does not repeat them.
    """
    tokens, urls = settings.jupyter_server_tokens, settings.jupyter_server_url
    variable = variable_of("jupyter_server_token")
    if not all(re.fullmatch(r"[!-~]*", token) for token in tokens):
        raise BadSettings(f"{variable}: a token must be printable ASCII without spaces.")
    if urls and len(tokens) not in (1, len(urls)):
        raise BadSettings(
            f"{variable}: it has {counted(len(tokens), 'token')} for"
            f" {counted(len(urls), 'address')} in {variable_of('jupyter_server_url')}. Set one"
            " token for all, or one each in order."
        )


def explained(error: Any, names: dict[str, str]) -> str:
    """Say what is wrong with a value, prefixed with the variable's name."""
    field = str(error["loc"][0]) if error["loc"] else ""
    variable = VARIABLES.get(field)
    if variable is None:
        return f"{field or 'settings'}: {error['msg']}"
    given = "" if variable.unshown else f" (it is {error.get('input')!r})"
    return f"{names.get(field) or variable.name}: {error['msg']}{given}"


def misspelled_in(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Messages about variables that look like settings but are not."""
    return tuple(misspelled(list(VARIABLES.values()), upper(variables)))


def shown_variables() -> tuple[str, ...]:
    """The variables of all settings that are no secret, under current and former names."""
    return tuple(name for one in VARIABLES.values() if not one.secret for name in one.names)


def set_here() -> dict[str, str]:
    """Settings for stdio servers that are set here but would be missing when a host starts one.

    Hosts have their own environment and start servers in some other folder, so these come from
    the environment, or from a `.env` that is read only in this folder. Call `load` first.
    """
    here = [environment()] if Path.cwd() == checkout() else [environment(), dotenv(Path(".env"))]
    values = read(VARIABLES.values(), here, RETIRED).values
    found = {VARIABLES[field]: value for field, value in values.items()}
    return {one.name: value for one, value in found.items() if not (one.secret or one.http_only)}


def claude_code_folder() -> Path | None:
    """The folder where Claude Code keeps its config, if CLAUDE_CONFIG_DIR moves it."""
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(folder).expanduser() if folder else None


def codex_folder() -> Path | None:
    """The folder where Codex keeps its config, if CODEX_HOME moves it."""
    folder = os.environ.get("CODEX_HOME")
    return Path(folder).expanduser() if folder else None
